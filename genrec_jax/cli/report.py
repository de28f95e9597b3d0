"""Print the paper's Tables 1 and 3 with your runs added, one table per dataset.

Each table contains the finished runs with confidence intervals, the baselines on the same users,
and the paper's rows, which are marked as quoted. The format is Markdown, or HTML if the name of
--output ends in .html.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from genrec_jax.cli.command import Command
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import Flag


def run(arguments: SimpleNamespace) -> None:
    """Run the command."""
    if not arguments.positional:
        raise InputError("RUN: found no run, expected its directory, as in report RUN [RUN …]")
    if arguments.output and arguments.output.suffix not in (".md", ".html"):
        raise InputError(f"--output={arguments.output}: expected a name in .md or .html")
    from genrec_jax.core.disk import write_atomically
    from genrec_jax.reporting.paper_tables import as_html, as_markdown, table_of

    tables = {
        title: table_of(dataset.name, results)
        for (title, dataset), results in add_titles(read_results(arguments.positional)).items()
    }
    is_html = arguments.output is not None and arguments.output.suffix == ".html"
    text = as_html(tables) if is_html else as_markdown(tables)
    if arguments.output is None:
        print(text)
    else:
        write_atomically(arguments.output, text)


class Dataset(NamedTuple):
    """The dataset that all runs of one table were trained on."""

    name: str
    sha256: str


Results = dict[str, Any]  # a run's name → the content of its results.json


def add_titles(results: dict[Dataset, Results]) -> dict[tuple[str, Dataset], Results]:
    """Add a title for each dataset: its name, and its size and checksum if the name is ambiguous.

    Args:
        results: the results of the runs on each dataset.

    Returns:
        The same results, by title and dataset.
    """
    names = [dataset.name for dataset in results]
    tables = {}
    for dataset, runs in results.items():
        title = dataset.name
        if names.count(title) > 1:
            counts = next(iter(runs.values()))["counts"]
            title += (
                f", {counts['users_of_dataset']:,} users, {counts['items']:,} items, "
                f"{counts['interactions']:,} interactions, sha256 {dataset.sha256[:12]}…"
            )
        tables[title, dataset] = runs
    return tables


def read_results(directories: list[str]) -> dict[Dataset, Results]:
    """Read the results of finished runs and group them by dataset.

    Args:
        directories: the directories of the runs.

    Raises:
        InputError: a directory holds no run, a run is not finished, or two runs on one dataset have
            the same name.
    """
    from genrec_jax.runs.run_folder import RunFolder

    results: dict[Dataset, Results] = {}
    for path in map(Path, directories):
        folder = RunFolder(path)
        try:
            folder.read_config()  # raises for a folder that holds no run
        except InputError as error:
            raise InputError(str(error).removeprefix("--workdir=")) from None
        result = folder.read_results()
        if result is None:
            raise InputError(f"{path}: the run is not finished, expected a results.json")
        dataset = Dataset(result["dataset"], folder.dataset_sha256())
        rows = results.setdefault(dataset, {})
        if path.name in rows:
            raise InputError(
                f"{path}: found two runs named {path.name} on {result['dataset']}, expected one; "
                "a run's name identifies its row in the table"
            )
        rows[path.name] = result
    return results


main = Command(
    "report",
    "RUN [RUN …] [--output=FILE]",
    __doc__ or "",
    run,
    (
        Flag(
            "output",
            "The file to write, in .md or .html. By default, Markdown is printed.",
            Path,
            expected="FILE",
        ),
    ),
    positional=True,
)

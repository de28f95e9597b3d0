"""Print the paper's tables 1 and 3 with our runs beside them: one table a dataset.

The finished runs with their intervals, the baselines on the same users, and the paper's rows,
marked as quoted. Markdown, or HTML where FILE ends in .html.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from genrec_jax.cli.command import Command
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import Flag


def run(given: SimpleNamespace) -> None:
    if not given.positional:
        raise InputError("found no run, expected its directory: report RUN [RUN …]")
    if given.output and given.output.suffix not in (".md", ".html"):
        raise InputError(f"--output={given.output}: expected a name in .md or .html")
    from genrec_jax.core.disk import write_atomically
    from genrec_jax.reporting.paper_tables import as_html, as_markdown, table_of

    tables = {
        title: table_of(dataset.name, runs)
        for (title, dataset), runs in titled(results_of(given.positional)).items()
    }
    as_page = given.output is not None and given.output.suffix == ".html"
    text = as_html(tables) if as_page else as_markdown(tables)
    if given.output is None:
        print(text)
    else:
        write_atomically(given.output, text)


class Dataset(NamedTuple):
    """What the runs of one table have in common."""

    name: str
    sha256: str


Results = dict[str, Any]  # run → the content of its results.json


def titled(results: dict[Dataset, Results]) -> dict[tuple[str, Dataset], Results]:
    """A title for each dataset: its name, and its size where others have the same name."""
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


def results_of(runs: list[str]) -> dict[Dataset, Results]:
    """The finished runs by the data that they were trained on."""
    from genrec_jax.runs.run_folder import RunFolder

    results: dict[Dataset, Results] = {}
    for path in map(Path, runs):
        folder = RunFolder(path)
        try:
            folder.read_config()  # says what is wrong with a folder that holds no run
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
                "the name is their row in the table"
            )
        rows[path.name] = result
    return results


main = Command(
    "report",
    "RUN [RUN …] [--output=FILE]",
    __doc__ or "",
    run,
    (Flag("output", "A file to write, .md or .html; default: print.", Path, expected="FILE"),),
    positional=True,
)

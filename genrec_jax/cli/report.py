"""Tables 1 and 3 of the paper with our runs: one table a dataset.

    python -m genrec_jax report runs/beauty runs/beauty_leakfree … [--output=FILE]

The finished runs with their intervals, the baselines on the same users, and the paper's rows,
marked as quoted. Markdown, or HTML where FILE ends in .html. Exit codes: 0, done; 2, bad input;
74, the disk is full, read-only or failing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrec_jax.core.disk import write_atomically
from genrec_jax.core.endings import run_command
from genrec_jax.core.errors import InputError
from genrec_jax.reporting.paper_tables import as_html, as_markdown, table_of
from genrec_jax.runs.run_folder import RunFolder


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m genrec_jax report", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="a finished run")
    parser.add_argument("--output", type=Path, metavar="FILE", help=".md or .html; default: print")
    given = parser.parse_args(argv[1:])
    if given.output and given.output.suffix not in (".md", ".html"):
        raise InputError(f"--output={given.output}: expected a name in .md or .html")
    results: dict[str, dict[str, Any]] = {}
    for path in given.runs:
        folder = RunFolder(path)
        folder.read_config()  # says what is wrong with a folder that holds no run
        result = folder.read_results()
        if result is None:
            raise InputError(f"{path}: the run is not finished, expected a results.json")
        results.setdefault(result["dataset"], {})[path.name] = result
    tables = {dataset: table_of(dataset, runs) for dataset, runs in results.items()}
    as_page = given.output is not None and given.output.suffix == ".html"
    text = as_html(tables) if as_page else as_markdown(tables)
    if given.output is None:
        print(text)
    else:
        write_atomically(given.output, text)


def main(argv: Sequence[str]) -> int:
    return run_command(lambda: run(argv))

"""Write a run as a Hugging Face folder.

    python -m genrec_jax export --workdir=RUN --output=FOLDER [--step=N]

PyTorch's BART loads the folder, and `--config.model.pretrained=FOLDER` trains on from it. Exit
codes: 0, done; 2, bad input; 74, the disk is full, read-only or failing.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from genrec_jax.core.endings import run_command
from genrec_jax.core.errors import InputError
from genrec_jax.core.progress import logging_to_console
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.export import Origin, write_folder
from genrec_jax.models.genrec import abstract_model
from genrec_jax.runs.checkpoint import Checkpoints
from genrec_jax.runs.run_folder import RunFolder


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse prints its usage too."""
        raise InputError(f"{message} (--help says more)")


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m genrec_jax export",
        description="Write a run as a Hugging Face folder, which PyTorch's BART loads, and which "
        "--config.model.pretrained=FOLDER goes on from: weights, config, tokenizer, the id "
        "tables, and a README that says how they are used.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", type=Path, required=True, help="the run's folder")
    parser.add_argument(
        "--output", type=Path, required=True, help="the folder to write, new or empty"
    )
    parser.add_argument("--step", type=int, help="of the checkpoint; default the best")
    return parser


def run(argv: Sequence[str]) -> None:
    given = _parser().parse_args(argv[1:])
    folder = RunFolder(given.workdir)
    config, shape = folder.read_config(), folder.read_shape()
    catalogue = Catalogue.load(folder.identifiers)
    if catalogue.dataset is None and catalogue.names is None:  # an older run
        known_by = folder.dataset_id(config.data.name)
        catalogue = dataclasses.replace(catalogue, dataset=known_by)
    _, like = abstract_model(shape, catalogue.table.n_users, catalogue.table.n_items)
    with Checkpoints(folder.checkpoints) as checkpoints:
        step = checkpoints.best() if given.step is None else given.step
        params = checkpoints.params(step, like)
    origin = Origin(folder.path.resolve().name, step, config.data.name)
    write_folder(given.output, catalogue, shape, params, origin)


@logging_to_console()
def main(argv: Sequence[str]) -> int:
    return run_command(lambda: run(argv))

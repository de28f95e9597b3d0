"""Turn a log into a prepared dataset that training reads.

    python -m genrec_jax prepare --config=configs/prepare.py[:source] --output=FOLDER
        --config.log.file=FILE [--config.KEY=VALUE …]

Reads, checks, drops duplicates, filters users and items to the k-core, orders by time, numbers,
and writes FOLDER (genrec_jax/data/prepared.py says what is in it). Then
--config.data.name=file --config.data.file=FOLDER trains on it. What each key means, says
genrec_jax/data/prepare/config.py. Bad input ends in one line and exit code 2, a full or
unwritable disk in one line and 74.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from genrec_jax.core.endings import run_command
from genrec_jax.core.errors import InputError
from genrec_jax.core.progress import logging_to_console
from genrec_jax.data.prepare.config import PrepareConfig
from genrec_jax.data.prepare.prepare import prepare
from genrec_jax.runs.config_flags import check_keys, define_config, parse


def run(argv: Sequence[str]) -> None:
    if {"--help", "-h", "-help"} & set(argv):
        print(__doc__)
        return
    check_keys(argv, PrepareConfig())
    values = flags.FlagValues()
    define_config(values, argv)
    flags.DEFINE_string("output", None, "The folder to write.", values)
    config = parse(values, argv, PrepareConfig.from_dict)
    if config is None:
        raise InputError("--config: found none, expected --config=configs/prepare.py[:source]")
    if not values.output:
        raise InputError("--output: found none, expected --output=FOLDER")
    prepare(config, Path(values.output))


@logging_to_console()
def main(argv: Sequence[str]) -> int:
    return run_command(lambda: run(argv))

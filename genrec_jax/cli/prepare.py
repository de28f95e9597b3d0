"""Turn an interaction log into a prepared dataset that training reads.

Reads and checks the log, drops duplicates, filters users and items to the k-core, orders by time,
numbers, and writes FOLDER; genrec_jax/data/prepared.py describes its files. Then
--config.data.name=file --config.data.file=FOLDER trains on it. genrec_jax/data/prepare/config.py
says what each key means.
"""

from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.core.config_flags import ConfigSource
from genrec_jax.core.flags import Flag
from genrec_jax.data.prepare.config import PrepareConfig


def run(given: SimpleNamespace) -> None:
    from genrec_jax.data.prepare.prepare import prepare

    prepare(given.config, given.output)


main = Command(
    "prepare",
    "--config=configs/prepare.py[:source] --config.log.file=FILE --output=FOLDER "
    "[--config.KEY=VALUE …]",
    __doc__ or "",
    run,
    (Flag("output", "The folder to write.", Path, expected="FOLDER", required=True),),
    ConfigSource(
        PrepareConfig.from_dict,
        [PrepareConfig()],
        "configs/prepare.py[:source]",
    ),
)

"""Turn an interaction log into a prepared dataset to train on.

Reads and checks the log, drops duplicates, filters users and items to the k-core, orders the
interactions by time, numbers users and items, and writes FOLDER. Its files are described in
genrec_jax/data/prepared.py; the config keys are described in genrec_jax/data/prepare/config.py. To
train on the dataset, set --config.data.name=file --config.data.file=FOLDER.
"""

from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.core.config_flags import ConfigSource
from genrec_jax.core.flags import Flag
from genrec_jax.data.prepare.config import PrepareConfig


def run(arguments: SimpleNamespace) -> None:
    """Run the command."""
    from genrec_jax.data.prepare.prepare import prepare

    prepare(arguments.config, arguments.output)


main = Command(
    "prepare",
    "--config=configs/prepare.py[:source] --config.log.file=FILE --output=FOLDER "
    "[--config.KEY=VALUE …]",
    __doc__ or "",
    run,
    (
        Flag(
            "output",
            "The folder to write the prepared dataset to.",
            Path,
            expected="FOLDER",
            required=True,
        ),
    ),
    ConfigSource(
        PrepareConfig.from_dict,
        [PrepareConfig()],
        "configs/prepare.py[:source]",
    ),
)

"""Write a named or prepared dataset as a tensorflow-datasets folder.

Prints the path of the folder. To train on it, set --config.data.name=file
--config.data.file=PATH.
"""

import contextlib
import io
import logging
import sys
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.core.flags import Flag


def run(arguments: SimpleNamespace) -> None:
    """Run the command."""
    import tensorflow_datasets as tfds

    from genrec_jax.data.tfds_export import build

    logging.getLogger("absl").setLevel(logging.ERROR)  # the library warns about prepared folders
    if sys.stderr is None or not sys.stderr.isatty():
        tfds.disable_progress_bar()
    # Standard output must contain only the path.
    with contextlib.redirect_stdout(io.StringIO()):
        folder = build(arguments.source, arguments.output, arguments.beam)
    print(folder)


main = Command(
    "to-tfds",
    "--source=beauty|sports|yelp|FOLDER --output=DATA_DIR [--beam]",
    __doc__ or "",
    run,
    (
        Flag(
            "source",
            "The dataset: beauty, sports, yelp or the folder of a prepared dataset.",
            expected="NAME|FOLDER",
            required=True,
        ),
        Flag(
            "output",
            "The directory to write to, which is the data_dir of tensorflow-datasets.",
            expected="DATA_DIR",
            required=True,
        ),
        Flag("beam", "Write in parallel with Apache Beam's local runner.", bool, False),
    ),
)

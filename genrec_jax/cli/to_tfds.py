"""Write a named dataset or a prepared folder as a tensorflow-datasets folder.

Prints the folder that the dataset is in. `--config.data.name=file --config.data.file=` takes it.
"""

import contextlib
import io
import logging
import sys
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.core.flags import Flag


def run(given: SimpleNamespace) -> None:
    import tensorflow_datasets as tfds

    from genrec_jax.data.tfds_export import build

    logging.getLogger("absl").setLevel(logging.ERROR)  # of every prepared folder the library warns
    if sys.stderr is None or not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # the folder is all that goes there
        folder = build(given.source, given.output, given.beam)
    print(folder)


main = Command(
    "to-tfds",
    "--source=beauty|sports|yelp|FOLDER --output=DATA_DIR [--beam]",
    __doc__ or "",
    run,
    (
        Flag(
            "source",
            "beauty, sports, yelp or a prepared folder.",
            expected="NAME|FOLDER",
            required=True,
        ),
        Flag(
            "output",
            "The data_dir of tensorflow-datasets.",
            expected="DATA_DIR",
            required=True,
        ),
        Flag("beam", "With Apache Beam's local runner.", bool, False),
    ),
)

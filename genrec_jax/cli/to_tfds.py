"""Write a named dataset or a prepared folder as a tensorflow-datasets folder.

    python -m genrec_jax to-tfds --source=beauty|sports|yelp|FOLDER --output=DATA_DIR [--beam]

prints the folder that the dataset is in. `--config.data.name=file --config.data.file=` takes it.
Exit codes: 0, done; 2, bad input; 74, the disk is full, read-only or failing.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

import tensorflow_datasets as tfds

from genrec_jax.core.endings import run_command
from genrec_jax.data.tfds_export import build


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m genrec_jax to-tfds")
    parser.add_argument("--source", required=True, help="beauty, sports, yelp or a prepared folder")
    parser.add_argument("--output", required=True, help="the data_dir of tensorflow-datasets")
    parser.add_argument("--beam", action="store_true", help="with Apache Beam's local runner")
    given = parser.parse_args(argv[1:])
    logging.getLogger("absl").setLevel(logging.ERROR)  # of every prepared folder the library warns
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return run_command(lambda: print(build(given.source, given.output, given.beam)))

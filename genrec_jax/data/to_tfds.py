"""A named dataset or a prepared folder as a tensorflow-datasets folder.

    python -m genrec_jax.data.to_tfds --source=beauty|sports|yelp|FOLDER --output=DATA_DIR [--beam]

prints the folder that the dataset is in. `--config.data.name=file --config.data.file=` takes it.
Exit codes: 0, done; 2, bad input; 74, the disk is full, read-only or failing.
"""

import argparse
import importlib
import logging
import sys
from pathlib import Path

import tensorflow_datasets as tfds

from genrec_jax.data.datasets import named_datasets
from genrec_jax.data.prepared import RECORD
from genrec_jax.data.tfds_builder import Genrec, prepared_config
from genrec_jax.disk import writing
from genrec_jax.endings import run_command
from genrec_jax.errors import InputError


def build(source: str, data_dir: str | Path, beam: bool = False) -> Path:
    """Write a named dataset or a prepared folder below `data_dir`; the folder that it is in.

    Args:
        source: beauty, sports, yelp, or a prepared folder.
        data_dir: of the library; what is there already is taken as it stands.
        beam: with Apache Beam's local runner, on a prepared folder.

    Raises:
        InputError: no such source, or Apache Beam is not installed.
        DiskError: the folder cannot be written.
    """
    if source in named_datasets():
        if beam:
            raise InputError(f"--beam: found with --source={source}, expected a prepared folder")
        config = source
    elif not (Path(source) / RECORD).is_file():
        known = ", ".join(named_datasets())
        raise InputError(f"--source={source}: expected {known}, or a folder with {RECORD}")
    else:
        config = prepared_config(source, beam)
    with writing(f"--output={data_dir}"):
        builder = Genrec(config=config, data_dir=str(data_dir), file_format="array_record")
        builder.download_and_prepare(download_config=_local_beam() if beam else None)
    return Path(builder.data_dir)


def _local_beam() -> tfds.download.DownloadConfig:
    try:
        options = importlib.import_module("apache_beam.options.pipeline_options")
    except ImportError:
        raise InputError("--beam: found no Apache Beam, expected genrec_jax[beam]") from None
    return tfds.download.DownloadConfig(
        beam_runner="DirectRunner", beam_options=options.PipelineOptions([])
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m genrec_jax.data.to_tfds")
    parser.add_argument("--source", required=True, help="beauty, sports, yelp or a prepared folder")
    parser.add_argument("--output", required=True, help="the data_dir of tensorflow-datasets")
    parser.add_argument("--beam", action="store_true", help="with Apache Beam's local runner")
    given = parser.parse_args(argv)
    logging.getLogger("absl").setLevel(logging.ERROR)  # of every prepared folder the library warns
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return run_command(lambda: print(build(given.source, given.output, given.beam)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Write a named dataset or a prepared folder as a tensorflow-datasets folder."""

import importlib
from pathlib import Path

import tensorflow_datasets as tfds

from genrec_jax.core.disk import writing
from genrec_jax.core.errors import InputError
from genrec_jax.data.datasets import named_datasets
from genrec_jax.data.prepared import RECORD
from genrec_jax.data.tfds_builder import Genrec, prepared_config


def build(source: str, data_dir: str | Path, beam: bool = False) -> Path:
    """Write a named dataset or a prepared folder for tensorflow-datasets.

    Args:
        source: beauty, sports, yelp, or a prepared folder.
        data_dir: the library's data_dir; a dataset that it already contains is not rewritten.
        beam: whether to generate the rows of a prepared folder with Apache Beam's local runner.

    Returns:
        The folder of the dataset below `data_dir`.

    Raises:
        InputError: the source does not exist, or Apache Beam is not installed.
        DiskError: the folder cannot be written.
    """
    if source in named_datasets():
        if beam:
            raise InputError(f"--beam: found --source={source}, expected a prepared folder")
        config = source
    elif not (Path(source) / RECORD).is_file():
        known = ", ".join(named_datasets())
        raise InputError(f"--source: found {source!r}, expected {known}, or a folder with {RECORD}")
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
        raise InputError(
            "--beam: Apache Beam is not installed; install the extra genrec_jax[beam]"
        ) from None
    return tfds.download.DownloadConfig(
        beam_runner="DirectRunner", beam_options=options.PipelineOptions([])
    )

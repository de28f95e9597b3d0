"""Build tensorflow-datasets from prepared and named datasets, without TensorFlow.

    import genrec_jax.data.tfds_builder  # registers `genrec` with the library
    builder = tfds.builder("genrec/beauty", file_format="array_record")
    builder.download_and_prepare()
    builder.as_data_source("users")[0]

and for a folder that `python -m genrec_jax prepare` wrote:

    builder = tfds.builder("genrec", config=prepared_config(folder), file_format="array_record")

The command `python -m genrec_jax to-tfds` writes either. tfds_reader.py reads the result in bulk.

A row of the split `users` is a user: number, the log's id, items (numbers, oldest first), times. A
row of the split `items` is an item: number, the log's id, title, attributes. Missing values are
empty: named datasets have no ids, times, titles or attributes. Rows are in the order of their
numbers, 1 … U and 1 … N.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from genrec_jax.core.errors import InputError
from genrec_jax.data.datasets import load_named, named_datasets
from genrec_jax.data.prepared import ITEMS, SEQUENCES, USERS, read_record
from genrec_jax.data.sequences import UserSequences

RELEASE = "1.0.0"
SPLITS = ("users", "items")
S3_REC = "https://github.com/RUCAIBox/CIKM2020-S3Rec"
CITATION = """\
@inproceedings{zhou2020s3rec,
  title = {{S3-Rec}: Self-Supervised Learning for Sequential Recommendation with Mutual
           Information Maximization},
  author = {Zhou, Kun and Wang, Hui and Zhao, Wayne Xin and Zhu, Yutao and Wang, Sirui and
            Zhang, Fuzheng and Wang, Zhongyuan and Wen, Ji-Rong},
  booktitle = {Proceedings of the 29th ACM International Conference on Information and
               Knowledge Management},
  pages = {1893--1902},
  year = {2020}
}"""
DESCRIPTION = """\
User sequences for sequential recommendation: the items of every user, oldest first, with users and
items as numbers from 1, and the log's own ids, titles and attributes if it has them. By convention,
the last item of a sequence is the test item and the one before it the validation item.
"""


@dataclasses.dataclass(eq=False)
class GenrecConfig(tfds.core.BuilderConfig):
    """The library's config of one dataset of the builder `genrec`.

    Attributes:
        folder: a folder that `python -m genrec_jax prepare` wrote; "": the named dataset with the
            config's name.
        beam: whether Apache Beam generates the rows, in blocks of 65,536 users or items.
    """

    folder: str = ""
    beam: bool = False


def prepared_config(folder: str | Path, beam: bool = False) -> GenrecConfig:
    """Return the config of a prepared folder, named after the dataset and its checksum.

    The library therefore treats different preparations of a log as different datasets.

    Args:
        folder: the prepared folder.
        beam: whether Apache Beam generates the rows.

    Raises:
        InputError: the folder is not a prepared dataset, or is damaged.
    """
    record = read_record(Path(folder))
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", record["name"]) or "prepared"
    files = "".join(file["sha256"][:4] for _, file in sorted(record["files"].items()))
    return GenrecConfig(
        name=f"{name}-{files}",
        description=f"Prepared by genrec_jax as `{record['name']}`.",
        folder=str(Path(folder).absolute()),
        beam=beam,
    )


class Genrec(tfds.core.GeneratorBasedBuilder):
    """The builder `genrec`: the split `users` has a row per user, `items` a row per item."""

    VERSION = tfds.core.Version(RELEASE)
    RELEASE_NOTES = {RELEASE: "First version."}  # noqa: RUF012, as the library expects
    BUILDER_CONFIGS = [  # noqa: RUF012
        GenrecConfig(name=name, description=f"{asset.licence}.")
        for name, asset in named_datasets().items()
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        config = self._config
        asset = None if config.folder else named_datasets()[config.name]
        name = config.name if asset else read_record(Path(config.folder))["name"]
        return tfds.core.DatasetInfo(
            builder=self,
            description=DESCRIPTION,
            features=tfds.features.FeaturesDict(_features()),
            homepage=S3_REC if asset else None,
            license=asset.licence if asset else None,
            citation=CITATION if asset else None,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(dataset=name),
        )

    @property
    def _config(self) -> GenrecConfig:
        config = self.builder_config
        assert isinstance(config, GenrecConfig)
        return config

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Any:
        """Return (row index, row) pairs or, with Beam, a transform that generates them."""
        config = self._config
        if not config.folder:
            return _named_rows(load_named(config.name), split)
        if config.beam:
            return _beam_rows(config.folder, split)
        return (
            row
            for block in range(_blocks(config.folder, split))
            for row in _rows_of_block(config.folder, split, block)
        )


def _features() -> dict[str, Any]:
    """Return the features of a row.

    Numbers are tensors, since the library decodes a `Sequence` feature value by value.
    """
    feature = tfds.features
    text = feature.Text
    return {
        "number": feature.Scalar(np.int32, doc="The user's or item's number, from 1."),
        "id": text(doc="The log's own id; empty if the log has only numbers."),
        "items": feature.Tensor(
            shape=(None,), dtype=np.int32, doc="A user's item numbers, oldest first."
        ),
        "times": feature.Tensor(
            shape=(None,), dtype=np.int64, doc="The Unix seconds of a user's items, if known."
        ),
        "title": text(doc="An item's title; empty if it has none."),
        "attributes": feature.Sequence(text(), doc="An item's attributes: categories, brand etc."),
    }


EMPTY: dict[str, Any] = {
    "id": "",
    "items": np.empty(0, np.int32),
    "times": np.empty(0, np.int64),
    "title": "",
    "attributes": [],
}


# ------------------------------------------------------------------------------- generated rows


def _named_rows(sequences: UserSequences, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row index, row) of a named dataset, with the numbers of its file (1 … U, 1 … N)."""
    if split == "items":
        for row, number in enumerate(sequences.item_ids.tolist()):
            yield row, EMPTY | {"number": number}
        return
    for row, number in enumerate(sequences.user_ids.tolist()):
        items = sequences.item_ids[sequences.of(row)].astype(np.int32)
        yield row, EMPTY | {"number": number, "items": items}


def _blocks(folder: str, split: str) -> int:
    """Return the number of row groups of the split's file."""
    return pq.ParquetFile(Path(folder) / (SEQUENCES if split == "users" else ITEMS)).num_row_groups


def _rows_of_block(folder: str, split: str, block: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row index, row) of a row group; both files of users have the same users per group."""
    if split == "items":
        for line in pq.ParquetFile(Path(folder) / ITEMS).read_row_group(block).to_pylist():
            yield (
                line["item"] - 1,
                EMPTY
                | {
                    "number": line["item"],
                    "id": line["id"],
                    "title": line["title"] or "",
                    "attributes": line["attributes"] or [],
                },
            )
        return
    sequences = pq.ParquetFile(Path(folder) / SEQUENCES).read_row_group(block)
    users = pq.ParquetFile(Path(folder) / USERS).read_row_group(block)
    columns = (
        sequences["user"],
        users["user"],
        users["id"],
        sequences["items"],
        sequences["times"],
    )
    for number, number_in_users, log_id, items, times in zip(*columns, strict=True):
        if number != number_in_users:
            raise InputError(
                f"{folder}: found different users in {SEQUENCES} and {USERS}, expected the same"
            )
        yield (
            number.as_py() - 1,
            EMPTY
            | {
                "number": number.as_py(),
                "id": log_id.as_py(),
                "items": items.values.to_numpy(),
                "times": times.values.to_numpy(),
            },
        )


def _beam_rows(folder: str, split: str) -> Any:
    """Return a Beam transform that generates the rows; all workers need `folder` at this path."""
    import apache_beam as beam  # pyright: ignore[reportMissingImports], the extra [beam]

    blocks = list(range(_blocks(folder, split)))
    return (
        f"blocks of {split}" >> beam.Create(blocks)
        | f"reshuffle {split}" >> beam.Reshuffle()
        | f"rows of {split}" >> beam.FlatMap(lambda block: _rows_of_block(folder, split, block))
    )

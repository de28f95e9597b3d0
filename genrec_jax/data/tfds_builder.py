"""Prepared datasets and the three named ones as tensorflow-datasets, without TensorFlow.

    import genrec_jax.data.tfds_builder  # makes `genrec` known to the library
    builder = tfds.builder("genrec/beauty", file_format="array_record")
    builder.download_and_prepare()
    builder.as_data_source("users")[0]

and of a folder that `python -m genrec_jax prepare` wrote:

    builder = tfds.builder("genrec", config=prepared_config(folder), file_format="array_record")

`python -m genrec_jax to-tfds` is the same as a command, and tfds_reader.py reads it in bulk.

A row of the split `users` is a user: number, the log's id, items (numbers, oldest first), times. A
row of the split `items` is an item: number, the log's id, title, attributes. What a row does not
have is empty; named datasets have no ids but numbers, and no times. Rows stand in the order of
their numbers, 1 … U and 1 … N.
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
User sequences for sequential recommendation: what every user did, oldest first, with users and
items as numbers from 1, and the log's own ids, titles and attributes where it has them. The last
item of a sequence is by custom the test target, the one before it the validation target.
"""


@dataclasses.dataclass(eq=False)
class GenrecConfig(tfds.core.BuilderConfig):
    """One dataset. Without `folder` it is the named one of the same name.

    Attributes:
        folder: that `python -m genrec_jax prepare` wrote.
        beam: make the rows with Apache Beam, a block of 65,536 users or items at a time.
    """

    folder: str = ""
    beam: bool = False


def prepared_config(folder: str | Path, beam: bool = False) -> GenrecConfig:
    """The config of a prepared folder, named after the dataset and the sum of its sequences.

    So another preparation is another dataset to the library, and none is taken for the other.

    Raises:
        InputError: no prepared folder, or a damaged one.
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
    """User sequences, a row a user, and the items that they are made of, a row an item."""

    VERSION = tfds.core.Version(RELEASE)
    RELEASE_NOTES = {RELEASE: "First version."}  # noqa: RUF012, as the library has it
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
        """(row, example) pairs, or with Beam a transform that makes them."""
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
    """Tensors rather than sequences, which the library decodes value by value."""
    feature = tfds.features
    text = feature.Text
    return {
        "number": feature.Scalar(np.int32, doc="The user's or item's number, from 1."),
        "id": text(doc="The log's own id; empty where the log has but numbers."),
        "items": feature.Tensor(
            shape=(None,), dtype=np.int32, doc="Of a user: item numbers, oldest first."
        ),
        "times": feature.Tensor(
            shape=(None,), dtype=np.int64, doc="Of a user: Unix seconds of each item, if known."
        ),
        "title": text(doc="Of an item; empty where it has none."),
        "attributes": feature.Sequence(text(), doc="Of an item: categories, brand and the like."),
    }


EMPTY: dict[str, Any] = {
    "id": "",
    "items": np.empty(0, np.int32),
    "times": np.empty(0, np.int64),
    "title": "",
    "attributes": [],
}


# ------------------------------------------------------------------------------- rows to write


def _named_rows(sequences: UserSequences, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Users have the file's numbers, which are 1 … U in the named files; so have items."""
    if split == "items":
        for row, number in enumerate(sequences.item_ids.tolist()):
            yield row, EMPTY | {"number": number}
        return
    for row, number in enumerate(sequences.user_ids.tolist()):
        items = sequences.item_ids[sequences.of(row)].astype(np.int32)
        yield row, EMPTY | {"number": number, "items": items}


def _blocks(folder: str, split: str) -> int:
    """Row groups of the split's file."""
    return pq.ParquetFile(Path(folder) / (SEQUENCES if split == "users" else ITEMS)).num_row_groups


def _rows_of_block(folder: str, split: str, block: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of one row group; those of the users' two files hold the same users."""
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
    names = pq.ParquetFile(Path(folder) / USERS).read_row_group(block)
    columns = (
        sequences["user"],
        names["user"],
        names["id"],
        sequences["items"],
        sequences["times"],
    )
    for number, same, one, items, times in zip(*columns, strict=True):
        if number != same:
            raise InputError(f"{folder}: {SEQUENCES} and {USERS} are cut into other blocks")
        yield (
            number.as_py() - 1,
            EMPTY
            | {
                "number": number.as_py(),
                "id": one.as_py(),
                "items": items.values.to_numpy(),
                "times": times.values.to_numpy(),
            },
        )


def _beam_rows(folder: str, split: str) -> Any:
    """A transform; the runner's workers must see `folder` under the same path."""
    import apache_beam as beam  # pyright: ignore[reportMissingImports], the extra [beam]

    blocks = list(range(_blocks(folder, split)))
    return (
        f"blocks of {split}" >> beam.Create(blocks)
        | f"one each of {split}" >> beam.Reshuffle()
        | f"rows of {split}" >> beam.FlatMap(lambda block: _rows_of_block(folder, split, block))
    )

"""Prepare a dataset from an interaction log: the columns of known sources (docs/data.md).

    python -m genrec_jax prepare --config=configs/prepare.py[:source] --output=FOLDER
        --config.log.file=FILE [--config.metadata.file=FILE] [--config.KEY=VALUE …]

    (no source)     a CSV file with a header line: user, item, time (for other column names, set
                    `--config.log.user=…` and so on); `--config.log.title=COLUMN` if it has
                    titles. Other formats: --config.log.format=jsonl or parquet
    amazon2014      reviews_X_5.json.gz, items from meta_X.json.gz, strict or loose JSON
    amazon2023      X.jsonl.gz, items from meta_X.jsonl.gz
    yelp            yelp_academic_dataset_review.json, items from …_business.json; the paper's
                    window of 2019, as in S3-Rec's code
    movielens       ratings.csv, items from movies.csv (20M, 25M, 32M, latest)
    movielens_dat   ratings.dat, items from movies.dat (1M; 10M with
                    --config.metadata.encoding=utf-8)
    sequences       S3-Rec's files: one `user item item …` per line

Without --config.metadata.file, the only titles stored are those of --config.log.title.
genrec_jax/data/prepare/config.py documents every key.
"""

from ml_collections import ConfigDict

from genrec_jax.data.prepare.config import PrepareConfig
from genrec_jax.runs.config import check_variant


def get_config(source: str = "") -> ConfigDict:
    config = ConfigDict(PrepareConfig().to_dict())
    check_variant(source, tuple(SOURCES))
    if source:
        SOURCES[source](config)
    return config


def amazon2014(config: ConfigDict) -> None:
    config.log.format = config.metadata.format = "loose_jsonl"
    config.log.user, config.log.item, config.log.time = "reviewerID", "asin", "unixReviewTime"
    config.log.time_unit = "s"
    config.metadata.item, config.metadata.title = "asin", "title"
    config.metadata.attributes = "categories,brand"


def amazon2023(config: ConfigDict) -> None:
    config.log.format = config.metadata.format = "jsonl"
    config.log.user, config.log.item, config.log.time = "user_id", "parent_asin", "timestamp"
    config.log.time_unit = "ms"
    config.metadata.item, config.metadata.title = "parent_asin", "title"
    config.metadata.attributes = "categories,store"


def yelp(config: ConfigDict) -> None:
    config.log.format = config.metadata.format = "jsonl"
    config.log.user, config.log.item, config.log.time = "user_id", "business_id", "date"
    config.log.time_unit = "iso"
    config.log.since, config.log.until = "2019-01-01 00:00:00", "2019-12-31 00:00:00"
    config.metadata.item, config.metadata.title = "business_id", "name"
    config.metadata.attributes, config.metadata.separator = "categories", ","


def movielens(config: ConfigDict) -> None:
    config.log.user, config.log.item, config.log.time = "userId", "movieId", "timestamp"
    config.log.time_unit = "s"
    config.metadata.item, config.metadata.title = "movieId", "title"
    config.metadata.attributes, config.metadata.separator = "genres", "|"


def movielens_dat(config: ConfigDict) -> None:
    movielens(config)
    config.log.delimiter = config.metadata.delimiter = "::"
    config.log.columns = "userId,movieId,rating,timestamp"
    config.metadata.columns, config.metadata.encoding = "movieId,title,genres", "latin-1"


def sequences(config: ConfigDict) -> None:
    config.log.format = "sequences"


SOURCES = {
    source.__name__: source
    for source in (amazon2014, amazon2023, yelp, movielens, movielens_dat, sequences)
}

"""Load the named datasets from a local folder or a download, and verify their checksums."""

import hashlib
import json
import os
import textwrap
from dataclasses import dataclass
from pathlib import Path

from genrec_jax.core.cache import cache_dir
from genrec_jax.core.disk import disk_fault
from genrec_jax.core.errors import DiskError, InputError
from genrec_jax.core.shipped import read_assets
from genrec_jax.data.sequences import UserSequences, read_sequence_file


@dataclass(frozen=True)
class Asset:
    """A downloadable file that `third_party/assets.toml` describes."""

    file: str  # name of the file
    url: str
    bytes: int  # size of the file
    sha256: str  # in hexadecimal digits
    licence: str


def named_datasets() -> dict[str, Asset]:
    """Return the downloadable datasets by their name in `config.data.name`."""
    return {name: Asset(**row) for name, row in read_assets()["datasets"].items()}


def load_named(name: str, folder: str = "") -> UserSequences:
    """Load Beauty, Sports or Yelp from `folder`, GENREC_DATA_DIR or the cache, or download it.

    Args:
        name: beauty, sports or yelp.
        folder: the folder of the file (`config.data.dir`); "": GENREC_DATA_DIR or the cache.

    Raises:
        InputError: the file is missing from `folder`, cannot be downloaded, or differs from the
            file that `third_party/assets.toml` describes.
        DiskError: the cache cannot be written.
    """
    asset = named_datasets()[name]
    path = _local_file(asset, folder) or _download(asset)
    _check(path, asset)
    return read_sequence_file(path, name)


def named_attributes(name: str, folder: str = "") -> dict[int, list[str]]:
    """Read each item's attributes (numbered categories and brands), if their file is available.

    Args:
        name: the name of the dataset.
        folder: the folder of the dataset's file and of the attribute file; "": GENREC_DATA_DIR.

    Returns:
        Item id → attributes; empty if the file does not exist.

    Raises:
        InputError: the file cannot be read.
    """
    folder = folder or os.environ.get("GENREC_DATA_DIR", "")
    asset = named_datasets().get(name)
    if not folder or asset is None:
        return {}
    path = Path(folder) / f"{Path(asset.file).stem}_item2attributes.json"
    try:
        content = json.loads(path.read_text())
        return {int(item): [f"a{value}" for value in values] for item, values in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read as items' attributes: {error}") from None


def _local_file(asset: Asset, folder: str) -> Path | None:
    """Return the file in `folder` or GENREC_DATA_DIR; None if it has to be downloaded."""
    if folder:
        path = Path(folder) / asset.file
        if not path.is_file():
            raise InputError(
                f"config.data.dir: found no {asset.file} in {folder}, expected the file"
            )
        return path
    environment = os.environ.get("GENREC_DATA_DIR")
    if environment and (path := Path(environment) / asset.file).is_file():
        return path
    return None


def _check(path: Path, asset: Asset) -> None:
    """Check the sha256 of a dataset's file."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != asset.sha256:
        raise InputError(
            f"{path}: found {len(content)} bytes with sha256 {found[:12]}…, expected {asset.bytes} "
            f"bytes with sha256 {asset.sha256[:12]}…; to use your own sequence file, set "
            f"config.data.name=file and config.data.file={path}"
        )


def _download(asset: Asset) -> Path:
    """Download a file to the cache; it gets its final name only when complete and verified."""
    import pooch  # imported here, since few runs download anything

    folder = cache_dir()
    try:
        return Path(
            pooch.retrieve(
                asset.url,
                known_hash=f"sha256:{asset.sha256}",
                fname=asset.file,
                path=folder,
                progressbar=True,
            )
        )
    except Exception as error:  # from requests, urllib3, OSError, and ValueError for a wrong hash
        if (fault := disk_fault(error)) is not None:
            raise DiskError(f"{folder / asset.file} cannot be written: {fault}") from None
        reason = textwrap.shorten(str(error), 200)
        raise InputError(
            f"{asset.file}: cannot be downloaded from {asset.url} to {folder} ({reason}); put the "
            "file into a folder, and set config.data.dir or GENREC_DATA_DIR to the folder"
        ) from None

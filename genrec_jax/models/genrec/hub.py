"""Pretrained checkpoints in a local folder or on the Hugging Face Hub."""

import hashlib
import logging
import os
import textwrap
from pathlib import Path

from genrec_jax.core.disk import disk_fault
from genrec_jax.core.errors import DiskError, InputError
from genrec_jax.core.shipped import read_assets
from genrec_jax.models.genrec.id_tables import FILE as ID_TABLES

BART_BASE = "facebook/bart-base"
log = logging.getLogger(__name__)
FILES = ("config.json", "vocab.json", "merges.txt", "tokenizer.json", ID_TABLES)
# Weights in the formats that tensor_files.py reads. No other files are downloaded.
SAFETENSORS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model-?????-of-?????.safetensors",
)
ZIPS = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-?????-of-?????.bin",
)


def checkpoint_folder(pretrained: str) -> Path:
    """Return the folder of a checkpoint, which is downloaded if necessary.

    GENREC_BART_DIR, if set, replaces `facebook/bart-base`. Repositories in
    `third_party/assets.toml` are downloaded at their pinned revision and verified.

    Args:
        pretrained: config.model.pretrained, a folder or a hub id (`owner/name`).

    Raises:
        InputError: the folder does not exist, the repository cannot be downloaded, or a file has
            another sha256 than the pinned one.
        DiskError: the hub's cache cannot be written.
    """
    if pretrained == BART_BASE and (local := os.environ.get("GENREC_BART_DIR")):
        folder = Path(local)
        if not folder.is_dir():
            raise InputError(
                f"GENREC_BART_DIR: found {local!r}, expected an existing folder with BART's files"
            )
        return folder
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        return folder
    if pretrained.startswith((".", "/", "~")) or pretrained.count("/") != 1:
        raise InputError(
            f"config.model.pretrained: found {pretrained!r}, expected an existing folder, or a hub "
            "id such as facebook/bart-base"
        )
    return _from_hub(pretrained)


def local_folder(pretrained: str) -> Path | None:
    """Return the folder of a checkpoint that is on this machine; never download.

    Returns:
        The folder; None for a hub id whose tokenizer is not in the hub's cache.

    Raises:
        InputError: the folder does not exist.
    """
    is_set = pretrained == BART_BASE and os.environ.get("GENREC_BART_DIR")
    is_hub_id = pretrained.count("/") == 1 and not pretrained.startswith((".", "/", "~"))
    if is_set or not is_hub_id or Path(pretrained).is_dir():
        return checkpoint_folder(pretrained)
    # Imported here, since runs from scratch never need it.
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(pretrained, "vocab.json")
    return Path(cached).parent if isinstance(cached, str) else None


def _from_hub(repository: str) -> Path:
    """Download a repository, with safetensors if it has them, and verify pinned files."""
    pinned = read_assets()["bart"].get(repository, {})
    log.info("loading %s from the hub or its cache", repository)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # no warning about every retry
    revision = pinned.get("revision")
    folder = _download(repository, revision, (*FILES, *SAFETENSORS))
    if not any((folder / name).is_file() for name in SAFETENSORS[:2]):
        folder = _download(repository, revision, ZIPS)
    for name, expected in pinned.get("sha256", {}).items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise InputError(
                f"{folder / name}: found sha256 {found[:12]}…, expected {expected[:12]}…"
            )
    return folder


def _download(repository: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Download the files of a repository that match some patterns; return the snapshot's folder."""
    # Imported here, since runs from scratch never need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(patterns), etag_timeout=10
            )
        )
    except Exception as error:  # the hub's client raises many types of exceptions
        if (fault := disk_fault(error)) is not None:
            raise DiskError(f"{HF_HUB_CACHE} cannot be written: {fault}") from None
        reason = textwrap.shorten(str(error), 160)
        raise InputError(
            f"config.model.pretrained: {repository} cannot be downloaded from the hub ({reason}); "
            "set it to a local folder with config.json, model.safetensors, vocab.json and "
            "merges.txt, or train from scratch with --config.model.pretrained="
        ) from None

"""Where a pretrained checkpoint lies: a local folder, or the Hugging Face hub."""

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
# Weights in the forms that tensor_files.py reads; whatever else a repository holds stays there.
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
    """The folder of a checkpoint given as a folder or as a hub id (`owner/name`).

    GENREC_BART_DIR stands in for `facebook/bart-base` where it is set. Hub ids that
    `third_party/assets.toml` knows are fetched at the revision it pins.

    Raises:
        InputError: no such folder, or the hub cannot be reached.
        DiskError: the hub's cache cannot be written.
    """
    if pretrained == BART_BASE and (local := os.environ.get("GENREC_BART_DIR")):
        folder = Path(local)
        if not folder.is_dir():
            raise InputError(f"GENREC_BART_DIR: found no folder {local}, expected BART's files")
        return folder
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        return folder
    if pretrained.startswith((".", "/", "~")) or pretrained.count("/") != 1:
        raise InputError(
            f"config.model.pretrained: found {pretrained!r}, expected a folder that exists, or a "
            "hub id like facebook/bart-base"
        )
    return _from_hub(pretrained)


def folder_at_hand(pretrained: str) -> Path | None:
    """As `checkpoint_folder`, but None for a hub id whose tokenizer is not in the hub's cache."""
    given = pretrained == BART_BASE and os.environ.get("GENREC_BART_DIR")
    is_hub_id = pretrained.count("/") == 1 and not pretrained.startswith((".", "/", "~"))
    if given or not is_hub_id or Path(pretrained).is_dir():
        return checkpoint_folder(pretrained)
    # Here, since runs from scratch never need it.
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(pretrained, "vocab.json")
    return Path(cached).parent if isinstance(cached, str) else None


def _from_hub(repository: str) -> Path:
    pinned = read_assets()["bart"].get(repository, {})
    log.info("looking for %s in the hub's cache, then on the hub", repository)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of every retry
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
    """The snapshot's folder with at least the files of these patterns that the repository has."""
    # Here, since runs from scratch never need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(patterns), etag_timeout=10
            )
        )
    except Exception as error:  # the hub's client raises many kinds, all meaning the same here
        if (fault := disk_fault(error)) is not None:
            raise DiskError(f"{HF_HUB_CACHE} cannot be written: {fault}") from None
        reason = textwrap.shorten(str(error), 160)
        raise InputError(
            f"config.model.pretrained: {repository} cannot be fetched from the hub ({reason}); "
            "give a local folder with its config.json, model.safetensors, vocab.json and "
            "merges.txt, or train from scratch with --config.model.pretrained="
        ) from None

"""The user's cache folder, which holds downloaded datasets and compiled programs."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return GENREC_CACHE_DIR, or else ~/.cache/genrec_jax; the folder need not exist yet."""
    return Path(os.environ.get("GENREC_CACHE_DIR") or Path.home() / ".cache" / "genrec_jax")

"""Modules that config and sweep files of before 0.2.0 import, and where they are now."""

import re

MOVED = {
    "genrec_jax.config": "genrec_jax.runs.config",
    "genrec_jax.data.prepare_config": "genrec_jax.data.prepare.config",
    "genrec_jax.recommender": "genrec_jax.serving.recommender",
}


def moved_hint(message: str) -> str:
    """Return what to add to an ImportError's message: where the missing module is now, or ""."""
    missing = re.search(r"No module named '([\w.]+)'", message)
    now = MOVED.get(missing[1]) if missing else None
    return f"; it is {now} now" if now else ""

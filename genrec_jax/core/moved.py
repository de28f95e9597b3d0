"""What config and sweep files of before 0.2.0 import, and where it is now."""

import re

MOVED = {
    "genrec_jax.config": "genrec_jax.runs.config",
    "genrec_jax.data.prepare_config": "genrec_jax.data.prepare.config",
    "genrec_jax.recommender": "genrec_jax.serving.recommender",
}


def moved_hint(message: str) -> str:
    """Return what to add to an ImportError's message: where the missing name is now, or ""."""
    if "cannot import name 'Config' from 'genrec_jax.runs.config'" in message:
        return "; a config file starts from default_config(FAMILY) of that module now"
    missing = re.search(r"No module named '([\w.]+)'", message)
    now = MOVED.get(missing[1]) if missing else None
    return f"; it is {now} now" if now else ""

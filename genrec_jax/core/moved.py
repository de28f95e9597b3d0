"""Current locations of modules that config and sweep files written before 0.2.0 import."""

import re

MOVED = {
    "genrec_jax.config": "genrec_jax.runs.config",
    "genrec_jax.data.prepare_config": "genrec_jax.data.prepare.config",
    "genrec_jax.recommender": "genrec_jax.serving.recommender",
}


def moved_hint(message: str) -> str:
    """Return a suffix for an ImportError's message that names the new location, or ""."""
    if "cannot import name 'Config' from 'genrec_jax.runs.config'" in message:
        return "; config files now start from default_config(FAMILY) of that module"
    missing = re.search(r"No module named '([\w.]+)'", message)
    current = MOVED.get(missing[1]) if missing else None
    return f"; the module is now {current}" if current else ""

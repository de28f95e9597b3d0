"""GenRec: sequential recommendation as sequence-to-sequence generation, in JAX and Flax.

The names in `__all__` are imported on first use, so that `import genrec_jax` is fast and does not
import JAX.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec_jax.core.errors import InputError
    from genrec_jax.serving.recommender import Recommendation, Recommender

__version__ = "0.2.0"
__all__ = ["InputError", "Recommendation", "Recommender"]

_MODULES = {
    "InputError": "genrec_jax.core.errors",
    "Recommendation": "genrec_jax.serving.recommender",
    "Recommender": "genrec_jax.serving.recommender",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({"__version__", *__all__})


# While Python locates the module of `python -m genrec_jax…`, sys.argv is ["-m", …].
if sys.argv[:1] == ["-m"]:
    importlib.import_module("genrec_jax.cli.renamed").refuse_module(sys.orig_argv)

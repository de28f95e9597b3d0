"""Model families behind one contract (contract.py), and recommenders without training.

`FAMILIES` lists the names of the families, the values of `config.model.family`. Each is a
subpackage with a `Config` in `config.py` and a `FAMILY` in `family.py`. These are imported at first
use, so that config errors are reported without importing JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec_jax.models.contract import Family

FAMILIES = ("genrec", "code_genrec", "sasrec")
DEFAULT = "genrec"  # the paper's model


def config_class(family: str) -> Any:
    """Return the config class of a family, a subclass of `RunConfig`."""
    return importlib.import_module(f"genrec_jax.models.{family}.config").Config


def load_family(family: str) -> "Family":
    """Return the `Family` record of a family."""
    return importlib.import_module(f"genrec_jax.models.{family}.family").FAMILY

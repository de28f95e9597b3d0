"""Model families behind one contract (contract.py), and recommenders that only count.

`FAMILIES` are the names of the families, the values of `config.model.family`. Each is a package of
this one with a `Config` in `config.py` and a `FAMILY` in `family.py`, imported when they are first
used, so that a wrong key is found without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec_jax.models.contract import Family

FAMILIES = ("genrec", "code_genrec", "sasrec")
DEFAULT = "genrec"  # the paper's model


def config_class(family: str) -> Any:
    """The `RunConfig` of a family's runs."""
    return importlib.import_module(f"genrec_jax.models.{family}.config").Config


def load_family(family: str) -> "Family":
    """The record of a family, by its name."""
    return importlib.import_module(f"genrec_jax.models.{family}.family").FAMILY

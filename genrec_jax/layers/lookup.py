"""Embedding lookup for ids that may be missing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from genrec_jax.core.devices import look_up


def table_lookup(table: jax.Array, rows: Int[Array, "..."]) -> jax.Array:
    """Return the rows of an embedding table, and zeros where the row is -1."""
    return jnp.where((rows >= 0)[..., None], look_up(table, jnp.maximum(rows, 0)), 0.0)

"""The tables that a model reads besides its parameters: identifier tokens and the trie.

Pass tables to a jitted function as an argument. In a closure, their arrays would become constants
of the program, 32 MB for a million items, and would be copied into every compiled shape.

Axes: R rows of the token table, P tokens of an identifier.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from genrec_jax.identifiers.token_table import TokenTable
from genrec_jax.models.device_trie import DeviceTrie


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeviceTable:
    """`identifiers.token_table.TokenTable` on the device; its integers are static (compiled in)."""

    tokens: Any  # int32 [R, P]; a shape instead of an array while a program is lowered
    lengths: Any  # int32 [R], tokens of each row
    n_items: int = field(metadata={"static": True})
    item_width: int = field(metadata={"static": True})  # tokens of the longest item identifier
    bos: int = field(metadata={"static": True})
    pad: int = field(metadata={"static": True})
    eos: int = field(metadata={"static": True})

    @property
    def mask_row(self) -> int:
        """The row of the mask token, which follows the rows of the items."""
        return self.n_items


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tables:
    """The tables of a family, from `Family.tables`; a family without identifiers has neither."""

    identifiers: DeviceTable | None = None  # tokens of users and items
    trie: DeviceTrie | None = None  # for a model that scores trie nodes


def put_on_device(table: TokenTable) -> DeviceTable:
    """Move a token table to the default device."""
    return DeviceTable(
        tokens=jnp.asarray(table.tokens),
        lengths=jnp.asarray(table.lengths),
        n_items=table.n_items,
        item_width=int(table.item_lengths.max()),
        bos=table.bos,
        pad=table.pad,
        eos=table.eos,
    )

"""What a model reads on the device beside its parameters: the tokens of identifiers, the trie.

Pass tables to a jitted function as an argument: closed over, their arrays would be constants of the
program, 32 MB for a million items, and copied into every compiled shape.

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
    """`identifiers.token_table.TokenTable` on the device; the ints are compiled in."""

    tokens: Any  # int32 [R, P]; a shape instead of an array while a program is lowered
    lengths: Any  # int32 [R]
    n_items: int = field(metadata={"static": True})
    item_width: int = field(metadata={"static": True})  # tokens of the longest item identifier
    bos: int = field(metadata={"static": True})
    pad: int = field(metadata={"static": True})
    eos: int = field(metadata={"static": True})

    @property
    def mask_row(self) -> int:
        """The row of the mask, which follows those of the items."""
        return self.n_items


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tables:
    """What a family asks for (`Family.tables`); a family that writes no identifiers has none."""

    names: DeviceTable | None = None
    trie: DeviceTrie | None = None  # for a model that scores its nodes


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

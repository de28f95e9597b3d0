"""SASRec (Kang and McAuley 2018): causal self-attention over items, a softmax over all items.

Two things differ from the original: the layers normalise after each sum, as S3-Rec and its
followers have them, and the loss is the full cross-entropy. The output is tied to the item
embeddings.

Axes: B users, H items of history, T = H positions and padding, G targets of a user, D width, N
items.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.data.batches import Batch
from genrec_jax.layers.blocks import BlockShape
from genrec_jax.layers.dropout import Key
from genrec_jax.layers.encoder import Encoder
from genrec_jax.layers.linear import with_rows
from genrec_jax.layers.lookup import table_lookup
from genrec_jax.layers.losses import item_cross_entropy
from genrec_jax.models.contract import (
    InputKeys,
    Inputs,
    LossTerms,
    ModelShape,
    Objective,
    SequenceModel,
)
from genrec_jax.models.tables import Tables


@dataclass(frozen=True)
class SASRecShape(ModelShape):
    """Sizes, rates and how positions are counted."""

    d_model: int
    layers: int
    heads: int
    ffn_dim: int
    max_items: int
    dropout: float = 0.5
    attention_dropout: float = 0.5
    activation_dropout: float = 0.0
    reversed_positions: bool = True

    @property
    def width(self) -> int:
        return self.d_model

    @property
    def blocks(self) -> BlockShape:
        """The shape of the layers."""
        rates = (self.dropout, self.attention_dropout, self.activation_dropout)
        sizes = (self.d_model, self.heads, self.ffn_dim)
        return BlockShape(*sizes, *rates, self.init_std, self.dtype)

    def module(self, n_users: int, n_items: int, rngs: nnx.Rngs) -> "SASRec":
        return SASRec(self, n_items, rngs)


class HistoryInput(NamedTuple):
    """Item rows, the oldest first, -1 at padding, and the positions that predict."""

    items: Int[Array, "B T"]
    queries: Int[Array, "B G"]


class SASRec(SequenceModel):
    """An item table and an encoder that looks back only."""

    def __init__(self, shape: SASRecShape, n_items: int, rngs: nnx.Rngs):
        self.shape = shape
        normal = nnx.initializers.normal(shape.init_std)
        self.item_embedding = nnx.Param(normal(rngs.params(), (n_items, shape.d_model)))
        self.encoder = Encoder(shape.blocks, shape.layers, shape.max_items, rngs)

    def make_inputs(
        self,
        tables: Tables,
        batch: Batch,
        objective: Objective,
        length: int,
        keys: InputKeys | None = None,
    ) -> Inputs:
        """Pad histories to `length`; predict what follows the last position, or every position."""
        padding = ((0, 0), (0, max(length - batch.histories.shape[1], 0)))
        items = jnp.pad(batch.histories, padding, constant_values=-1)[:, :length]
        last = jnp.maximum(jnp.sum(items >= 0, axis=1, keepdims=True) - 1, 0)
        if objective != "every_item":
            targets = batch.targets[:, None]
            return Inputs(HistoryInput(items, last), targets, (targets >= 0)[..., None])
        positions = jnp.broadcast_to(jnp.arange(length), items.shape)
        following = jnp.pad(items[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
        is_last = (positions == last) & (items >= 0)
        targets = jnp.where(is_last, batch.targets[:, None], following)
        return Inputs(HistoryInput(items, positions), targets, (targets >= 0)[..., None])

    def loss(self, tables: Tables, inputs: Inputs, key: Key, rematerialise: bool) -> LossTerms:
        """Cross-entropy of the targets over all items."""
        states = self._states(inputs.read, key, rematerialise)
        losses = item_cross_entropy(self.item_logits, states, inputs.answer)
        return LossTerms(losses.loss[..., None], losses.correct[..., None])

    def encode(self, tables: Tables, read: HistoryInput) -> Float[Array, "B G D"]:
        return self._states(read)

    def item_scores(self, tables: Tables, memory: Float[Array, "B G D"]) -> Float[Array, "B N"]:
        return jax.nn.log_softmax(self.item_logits(memory[:, 0]), axis=-1)

    def cast_names(self) -> tuple[str, ...]:
        return ("item_embedding",)

    def item_logits(self, states: Float[Array, "B D"]) -> Float[Array, "B N"]:
        """Float32, of every item."""
        return with_rows(states, self.item_embedding[...].astype(states.dtype))

    def _states(
        self, read: HistoryInput, key: Key = None, rematerialise: bool = False
    ) -> Float[Array, "B G D"]:
        """The encoder's vectors at the positions that predict."""
        slots = jnp.arange(read.items.shape[1])
        is_item = read.items >= 0
        positions = None
        if self.shape.reversed_positions:
            last = jnp.sum(is_item, axis=1, keepdims=True) - 1
            positions = jnp.maximum(last - slots, 0)
        # Without an item the first position predicts, and must have something to look at.
        is_item |= (slots == 0) & ~is_item.any(axis=1, keepdims=True)
        look: Bool[Array, "B T T"] = is_item[:, None, :] & (slots <= slots[:, None])
        x = table_lookup(self.item_embedding[...], read.items).astype(self.shape.dtype)
        encoded = self.encoder(x, look, key, rematerialise, positions)
        return jnp.take_along_axis(encoded, read.queries[..., None], axis=1)

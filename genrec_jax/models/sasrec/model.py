"""SASRec (Kang and McAuley 2018): causal self-attention over items, a softmax over all items.

It differs from the original in two points: the layers are post-norm, as in S3-Rec and its
successors, and the loss is the full cross-entropy. The output is tied to the item embeddings.

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
from genrec_jax.layers.linear import row_products
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
    """Sizes, rates, and the direction in which positions are counted."""

    d_model: int
    layers: int
    heads: int
    ffn_dim: int
    max_items: int  # the encoder's positions
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
    """The encoder's input, `Inputs.encoder_input`."""

    items: Int[Array, "B T"]  # item rows, the oldest first, -1 at padding
    queries: Int[Array, "B G"]  # the query positions, from which the targets are predicted


class SASRec(SequenceModel):
    """Item embeddings and a causal encoder."""

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
        """Pad histories to `length`; the query is the last position, or every position."""
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
        """Return the cross-entropy of the targets over all items."""
        states = self._states(inputs.encoder_input, key, rematerialise)
        losses = item_cross_entropy(self.item_logits, states, inputs.targets)
        return LossTerms(losses.loss[..., None], losses.correct[..., None])

    def encode(self, tables: Tables, encoder_input: HistoryInput) -> Float[Array, "B G D"]:
        return self._states(encoder_input)

    def item_scores(self, tables: Tables, memory: Float[Array, "B G D"]) -> Float[Array, "B N"]:
        return jax.nn.log_softmax(self.item_logits(memory[:, 0]), axis=-1)

    def cast_names(self) -> tuple[str, ...]:
        return ("item_embedding",)

    def item_logits(self, states: Float[Array, "B D"]) -> Float[Array, "B N"]:
        """Return the logits of every item, in float32."""
        return row_products(states, self.item_embedding[...].astype(states.dtype))

    def _states(
        self, encoder_input: HistoryInput, key: Key = None, rematerialise: bool = False
    ) -> Float[Array, "B G D"]:
        """Return the encoder's vectors at the query positions."""
        index = jnp.arange(encoder_input.items.shape[1])
        is_item = encoder_input.items >= 0
        positions = None
        if self.shape.reversed_positions:
            last = jnp.sum(is_item, axis=1, keepdims=True) - 1
            positions = jnp.maximum(last - index, 0)
        # An empty history predicts from its first position, which needs a key to attend to.
        is_item |= (index == 0) & ~is_item.any(axis=1, keepdims=True)
        attention_mask: Bool[Array, "B T T"] = is_item[:, None, :] & (index <= index[:, None])
        x = table_lookup(self.item_embedding[...], encoder_input.items).astype(self.shape.dtype)
        encoded = self.encoder(x, attention_mask, key, rematerialise, positions)
        return jnp.take_along_axis(encoded, encoder_input.queries[..., None], axis=1)

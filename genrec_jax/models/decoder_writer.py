"""A Writer with a transformer decoder, for beams with a key/value cache and blocks of trie nodes.

All identifiers of a catalogue share a prefix (`</s> Ġitem _`), whose tokens are decoded once per
user instead of once per beam. Each later token keeps its cache index, one per beam and step. When
beams are reordered, the cache is not copied. Only the table `ancestors` changes, which has the beam
that generated each token of each hypothesis. Attention covers all cache indices and masks those of
other hypotheses. This computes K times as many attention scores, which is cheap compared with the
layers.

Axes: B users, K beams, P tokens of the common prefix, R later tokens, n nodes of a block, h heads,
d width of a head, D width.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.layers.blocks import BlockShape, KeyValue
from genrec_jax.layers.decoder import CrossMemory, Decoder
from genrec_jax.models.contract import Writer


class BeamCache(NamedTuple):
    """The keys and values of generated tokens, and the hypotheses they belong to."""

    key_values: list[KeyValue]  # keys and values of each layer, [B, P + R * K, h, d]
    ancestors: Int[Array, "B K R"]  # the beam that generated each later token of each hypothesis


@dataclass(frozen=True)
class DecoderWriter(Writer):
    """The common part of writers with a decoder; a family defines `embed` and `states`."""

    decoder: Decoder
    shape: BlockShape  # sizes of the decoder's layers
    memory: CrossMemory  # keys and values of the encoded histories

    @abstractmethod
    def embed(self, tokens: Int[Array, "B Q"], nodes: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
        """Return the decoder's input for trie nodes and the tokens that lead to them."""

    @abstractmethod
    def states(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q _"]:
        """Convert the decoder's output vectors to states."""

    def start(
        self, prefix: tuple[int, ...], beams: int, later: int
    ) -> tuple[Float[Array, "B P _"], BeamCache]:
        users, n, shape = self.memory.attention_mask.shape[0], len(prefix), self.shape
        room = n + later * beams
        size = (users, room, shape.heads, shape.width // shape.heads)
        empty = jnp.zeros(size, jnp.dtype(shape.dtype))
        cache = [KeyValue(empty, empty) for _ in self.decoder.layers]
        tokens = jnp.broadcast_to(jnp.array(prefix, jnp.int32), (users, n))
        causal = jnp.arange(room) <= jnp.arange(n)[:, None]
        nodes = jnp.broadcast_to(jnp.arange(n), tokens.shape)
        x = self.embed(tokens, nodes)
        x, key_values = self.decoder(
            x, jnp.arange(n), causal[None], self.memory, cache=cache, cache_index=0
        )
        return self.states(x), BeamCache(key_values, jnp.zeros((users, beams, later), jnp.int32))

    def extend(
        self,
        tokens: Int[Array, "B K"],
        nodes: Int[Array, "B K"],
        position: Int[Array, ""],
        cache: BeamCache,
    ) -> tuple[Float[Array, "B K _"], BeamCache]:
        users, beams, later = cache.ancestors.shape
        n_before = cache.key_values[0].keys.shape[1] - later * beams  # P
        step = position - n_before
        ancestors = cache.ancestors.at[:, :, step].set(jnp.arange(beams))
        is_ancestor = ancestors[..., None] == jnp.arange(beams)  # [B, K, R, K]
        is_ancestor &= (jnp.arange(later) <= step)[:, None]
        prefix = jnp.ones((users, beams, n_before), dtype=bool)
        attention_mask = jnp.concatenate([prefix, is_ancestor.reshape(users, beams, -1)], axis=2)
        x, key_values = self.decoder(
            self.embed(tokens, nodes),
            position[None],
            attention_mask,
            self.memory,
            cache=cache.key_values,
            cache_index=n_before + step * beams,
        )
        return self.states(x), BeamCache(key_values, ancestors)

    def reorder(self, cache: BeamCache, parents: Int[Array, "B K"]) -> BeamCache:
        ancestors = jnp.take_along_axis(cache.ancestors, parents[..., None], axis=1)
        return cache._replace(ancestors=ancestors)

    def block_states(
        self,
        tokens: Int[Array, " n"],
        nodes: Int[Array, " n"],
        levels: Int[Array, " n"],
        attention_mask: Bool[Array, "n n"],
    ) -> Float[Array, "B n _"]:
        size = (self.memory.attention_mask.shape[0], len(tokens))
        x = self.embed(jnp.broadcast_to(tokens, size), jnp.broadcast_to(nodes, size))
        x, _ = self.decoder(x, levels, attention_mask[None], self.memory)
        return self.states(x)

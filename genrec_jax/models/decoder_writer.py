"""A Writer on a transformer decoder: beams of tokens with a cache, and blocks of trie nodes.

All identifiers of a catalogue begin alike (`</s> Ġitem _`), so those tokens are read once a user,
not once a beam. Later tokens are kept in the order in which they were written, one cache index for
each beam and step, and stay there: when beams are reordered, only the table of which beam wrote
each token of each hypothesis is. Attention looks at all cache indices and masks those of other
hypotheses, which costs K times the scores, little beside the layers, and copies nothing.

Axes: B users, K beams, P tokens of the shared beginning, R later tokens, n nodes of a block, h
heads, d width of a head, D width.
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
    """What the decoder remembers while identifiers are written."""

    own: list[KeyValue]  # of each layer: [B, P + R * K, h, d]
    ancestors: Int[Array, "B K R"]  # the beam that wrote each later token of each hypothesis


@dataclass(frozen=True)
class DecoderWriter(Writer):
    """What writers with a decoder share; a family says what is read and what a state is."""

    decoder: Decoder
    shape: BlockShape  # of the decoder
    memory: CrossMemory  # of what was read

    @abstractmethod
    def embed(self, tokens: Int[Array, "B Q"], nodes: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
        """What the decoder reads at some nodes, which these tokens lead to."""

    @abstractmethod
    def states(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q _"]:
        """The states of the decoder's vectors."""

    def start(
        self, beginning: tuple[int, ...], beams: int, later: int
    ) -> tuple[Float[Array, "B P _"], BeamCache]:
        users, n, shape = self.memory.look.shape[0], len(beginning), self.shape
        room = n + later * beams
        size = (users, room, shape.heads, shape.width // shape.heads)
        empty = jnp.zeros(size, jnp.dtype(shape.dtype))
        cache = [KeyValue(empty, empty) for _ in self.decoder.layers]
        tokens = jnp.broadcast_to(jnp.array(beginning, jnp.int32), (users, n))
        causal = jnp.arange(room) <= jnp.arange(n)[:, None]
        nodes = jnp.broadcast_to(jnp.arange(n), tokens.shape)
        x = self.embed(tokens, nodes)
        x, own = self.decoder(x, jnp.arange(n), causal[None], self.memory, cache=cache, slot=0)
        return self.states(x), BeamCache(own, jnp.zeros((users, beams, later), jnp.int32))

    def extend(
        self,
        tokens: Int[Array, "B K"],
        nodes: Int[Array, "B K"],
        position: Int[Array, ""],
        cache: BeamCache,
    ) -> tuple[Float[Array, "B K _"], BeamCache]:
        users, beams, later = cache.ancestors.shape
        n_before = cache.own[0].keys.shape[1] - later * beams  # P
        step = position - n_before
        ancestors = cache.ancestors.at[:, :, step].set(jnp.arange(beams))
        is_ancestor = ancestors[..., None] == jnp.arange(beams)  # [B, K, R, K]
        is_ancestor &= (jnp.arange(later) <= step)[:, None]
        beginning = jnp.ones((users, beams, n_before), dtype=bool)
        visible = jnp.concatenate([beginning, is_ancestor.reshape(users, beams, -1)], axis=2)
        x, own = self.decoder(
            self.embed(tokens, nodes),
            position[None],
            visible,
            self.memory,
            cache=cache.own,
            slot=n_before + step * beams,
        )
        return self.states(x), BeamCache(own, ancestors)

    def reorder(self, cache: BeamCache, parents: Int[Array, "B K"]) -> BeamCache:
        ancestors = jnp.take_along_axis(cache.ancestors, parents[..., None], axis=1)
        return cache._replace(ancestors=ancestors)

    def block_states(
        self,
        tokens: Int[Array, " n"],
        nodes: Int[Array, " n"],
        levels: Int[Array, " n"],
        visible: Bool[Array, "n n"],
    ) -> Float[Array, "B n _"]:
        size = (self.memory.look.shape[0], len(tokens))
        x = self.embed(jnp.broadcast_to(tokens, size), jnp.broadcast_to(nodes, size))
        x, _ = self.decoder(x, levels, visible[None], self.memory)
        return self.states(x)

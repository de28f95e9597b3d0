"""GenRec as what the searches ask for: states behind beams of tokens, and behind trees of tokens.

A state is what the model's head makes of a decoder's vector (models/heads.py).

All names of a catalogue begin alike (`</s> Ġitem _`), so those tokens are read once a user, not
once a beam. Later tokens are kept in the order they were written, a slot a beam and step, and
stay there: when beams are reordered, only the table of which beam wrote each token of each
hypothesis is. Attention looks at all slots and masks those of other hypotheses, which costs K
times the scores, little beside the layers, and copies nothing.

Axes: B users, K beams, P tokens of the shared beginning, R later tokens, n nodes of a tree,
h heads, d width of a head.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.models.bart import KeyValue, Memory
from genrec_jax.models.heads import TrieHead, VocabularyHead

Head = TrieHead | VocabularyHead


class BeamCache(NamedTuple):
    """What the decoder remembers while names are written."""

    memory: Memory
    own: list[KeyValue]  # of each layer: [B, P + R * K, h, d]
    ancestors: Int[Array, "B K R"]  # the beam that wrote each later token of each hypothesis


def start_beams(
    head: Head, memory: Memory, beginning: tuple[int, ...], beams: int, later: int
) -> tuple[Float[Array, "B P _"], BeamCache]:
    """The states behind each token of the shared beginning, with room for R = `later` more.

    The trie's nodes down the beginning have the numbers 0 … P - 1.
    """
    users, n = memory.look.shape[0], len(beginning)
    model = head.model
    shape = model.shape
    width = shape.d_model // shape.decoder_heads
    room = n + later * beams
    empty = jnp.zeros((users, room, shape.decoder_heads, width), jnp.dtype(shape.dtype))
    cache = [KeyValue(empty, empty) for _ in model.decoder.layers]
    tokens = jnp.broadcast_to(jnp.array(beginning, jnp.int32), (users, n))
    causal = jnp.arange(room) <= jnp.arange(n)[:, None]
    nodes = jnp.broadcast_to(jnp.arange(n), tokens.shape)
    x = head.embed(tokens, nodes)
    x, own = model.decoder(x, jnp.arange(n), causal[None], memory, cache=cache, slot=0)
    ancestors = jnp.zeros((users, beams, later), jnp.int32)
    return head.states(x), BeamCache(memory, own, ancestors)


def advance_beams(
    head: Head,
    tokens: Int[Array, "B K"],
    nodes: Int[Array, "B K"],
    position: Int[Array, ""],
    cache: BeamCache,
) -> tuple[Float[Array, "B K _"], BeamCache]:
    """The states behind `tokens`, which stand at `position`; it counts the beginning's tokens."""
    users, beams, later = cache.ancestors.shape
    n_before = cache.own[0].keys.shape[1] - later * beams  # P
    step = position - n_before
    ancestors = cache.ancestors.at[:, :, step].set(jnp.arange(beams))
    is_ancestor = ancestors[..., None] == jnp.arange(beams)  # [B, K, R, K]
    is_ancestor &= (jnp.arange(later) <= step)[:, None]
    beginning = jnp.ones((users, beams, n_before), dtype=bool)
    visible = jnp.concatenate([beginning, is_ancestor.reshape(users, beams, -1)], axis=2)
    x, own = head.model.decoder(
        head.embed(tokens, nodes),
        position[None],
        visible,
        cache.memory,
        cache=cache.own,
        slot=n_before + step * beams,
    )
    return head.states(x), BeamCache(cache.memory, own, ancestors)


def reorder_beams(cache: BeamCache, parents: Int[Array, "B K"]) -> BeamCache:
    """The cache in which hypothesis k goes on from the old hypothesis parents[:, k]."""
    ancestors = jnp.take_along_axis(cache.ancestors, parents[..., None], axis=1)
    return cache._replace(ancestors=ancestors)


def tree_states(
    head: Head,
    memory: Memory,
    tokens: Int[Array, " n"],
    nodes: Int[Array, " n"],
    levels: Int[Array, " n"],
    visible: Bool[Array, "n n"],
) -> Float[Array, "B n _"]:
    """The states behind some nodes of the trie, the same for every user.

    Args:
        head: of the model with its parameters.
        memory: of the users' sentences.
        tokens: that lead to the nodes.
        nodes: of the trie.
        levels: how many tokens stand before each.
        visible: for each node itself and its ancestors.
    """
    shape = (memory.look.shape[0], len(tokens))
    x = head.embed(jnp.broadcast_to(tokens, shape), jnp.broadcast_to(nodes, shape))
    x, _ = head.model.decoder(x, levels, visible[None], memory)
    return head.states(x)

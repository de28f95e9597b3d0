"""Beam search as one `lax.while_loop`, free or constrained to the trie of the catalogue.

It knows a callable that gives logits, not a model. A hypothesis scores the sum of its tokens' log-
probabilities under the full softmax, `</s>` included, in both modes, so that the two agree where
they overlap. Finished names are kept apart from the K live ones, and a user is done once no live
hypothesis can still beat the K-th finished one (scores only fall).

Constrained search compares only the children of each live hypothesis' trie node, gathered with a
fixed width W, and never ranks the vocabulary. It returns K different items where the catalogue has
K: of the best 2K continuations at most K end a name, so K live ones remain until K have ended.
Free search ranks the vocabulary; what it writes need not be an item.

Axes: B users, K beams, S decoder tokens, V vocabulary, W children of a node, M nodes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.identifiers.trie import Trie

Search = Literal["constrained", "free"]

# (tokens [B, K], position [], cache) → (logits [B, K, V], cache)
LogitsOf = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
# (cache, rows [B * K]) → the cache whose beam row i is the old row rows[i]
Reorder = Callable[[Any, jax.Array], Any]


class DeviceTrie(NamedTuple):
    """`identifiers.trie.Trie` on the device; depth and width are compiled in."""

    tokens: Int[Array, " M"]
    first_child: Int[Array, " M"]
    n_children: Int[Array, " M"]
    items: Int[Array, " M"]
    depth: int
    width: int


def put_on_device(trie: Trie) -> DeviceTrie:
    return DeviceTrie(
        jnp.asarray(trie.tokens),
        jnp.asarray(trie.first_child),
        jnp.asarray(trie.n_children),
        jnp.asarray(trie.items),
        trie.depth,
        trie.width,
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SearchState:
    """The loop's state. Live hypotheses are unfinished names, done ones end with `</s>`."""

    position: Int[Array, ""]  # tokens written so far
    live_scores: Float[Array, "B K"]  # -inf: no hypothesis
    live_tokens: Int[Array, "B K S"]
    live_nodes: Int[Array, "B K"]  # of the trie; only constrained search moves them
    done_scores: Float[Array, "B K"]  # best first, -inf: no hypothesis
    done_tokens: Int[Array, "B K S"]
    cache: Any


class SearchResult(NamedTuple):
    """Best first. An item of -1 is no item of the catalogue; such come last, in their order."""

    items: Int[Array, "B K"]
    scores: Float[Array, "B K"]  # log-probability in nats
    tokens: Int[Array, "B K S"]  # padded behind `</s>`


def beam_search(
    logits_of: LogitsOf,
    reorder: Reorder,
    cache: Any,
    trie: DeviceTrie,
    users: int,
    beams: int,
    eos: int,
    pad: int,
    search: Search = "constrained",
) -> SearchResult:
    """The `beams` best names of each user; `eos` also starts the decoder."""
    length = trie.depth

    def start() -> SearchState:
        nothing = jnp.full((users, beams), -jnp.inf)
        blank = jnp.full((users, beams, length), pad, jnp.int32)
        return SearchState(
            position=jnp.zeros((), jnp.int32),
            live_scores=nothing.at[:, 0].set(0.0),
            live_tokens=blank,
            live_nodes=jnp.zeros((users, beams), jnp.int32),
            done_scores=nothing,
            done_tokens=blank,
            cache=cache,
        )

    def unfinished(state: SearchState) -> jax.Array:
        open_users = jnp.max(state.live_scores, axis=1) > state.done_scores[:, -1]
        return (state.position < length) & jnp.any(open_users)

    def extend(state: SearchState) -> SearchState:
        previous = state.live_tokens[:, :, jnp.maximum(state.position - 1, 0)]
        previous = jnp.where(state.position == 0, eos, previous)
        logits, cache = logits_of(previous, state.position, state.cache)
        if search == "constrained":
            scores, tokens, nodes = _children(trie, state, logits)
        else:
            scores, tokens, nodes = _vocabulary(state, logits)

        # The best 2K continuations of each user: at most K of them end a name.
        choices = scores.shape[2]
        count = min(2 * beams, beams * choices)
        best, index = jax.lax.top_k(scores.reshape(users, -1), count)  # [B, 2K]
        beam = index // choices
        token = jnp.take_along_axis(tokens.reshape(users, -1), index, axis=1)
        node = jnp.take_along_axis(nodes.reshape(users, -1), index, axis=1)
        written = jnp.take_along_axis(state.live_tokens, beam[..., None], axis=1)
        written = written.at[:, :, state.position].set(token)
        ends = token == eos

        done_scores, done_tokens = _keep_best(
            jnp.concatenate([state.done_scores, jnp.where(ends, best, -jnp.inf)], axis=1),
            jnp.concatenate([state.done_tokens, written], axis=1),
            beams,
        )
        live_scores, kept = _top(jnp.where(ends, -jnp.inf, best), beams)
        rows = jnp.arange(users)[:, None] * beams + jnp.take_along_axis(beam, kept, axis=1)
        return SearchState(
            position=state.position + 1,
            live_scores=live_scores,
            live_tokens=jnp.take_along_axis(written, kept[..., None], axis=1),
            live_nodes=jnp.take_along_axis(node, kept, axis=1),
            done_scores=done_scores,
            done_tokens=done_tokens,
            cache=reorder(cache, rows.reshape(-1)),
        )

    final = jax.lax.while_loop(unfinished, extend, start())
    items = jnp.where(jnp.isfinite(final.done_scores), find_items(trie, final.done_tokens), -1)
    order = jnp.argsort(items < 0, axis=1, stable=True)
    return SearchResult(
        items=jnp.take_along_axis(items, order, axis=1),
        scores=jnp.take_along_axis(final.done_scores, order, axis=1),
        tokens=jnp.take_along_axis(final.done_tokens, order[..., None], axis=1),
    )


def find_items(trie: DeviceTrie, tokens: Int[Array, "B K S"]) -> Int[Array, "B K"]:
    """The item that each row of tokens spells, `</s>` included, or -1."""
    node = jnp.zeros(tokens.shape[:2], jnp.int32)
    item = jnp.full(tokens.shape[:2], -1, jnp.int32)
    for position in range(tokens.shape[2]):
        node = _child(trie, node, tokens[:, :, position])
        item = jnp.where(node >= 0, jnp.maximum(item, trie.items[node]), item)
    return item


def _child(
    trie: DeviceTrie, node: Int[Array, "B K"], token: Int[Array, "B K"]
) -> Int[Array, "B K"]:
    """The child of a node by its token, by bisection over the sorted children; -1 for none."""
    low = trie.first_child[node]
    end = low + trie.n_children[node]
    high = end
    for _ in range(trie.width.bit_length()):
        middle = jnp.minimum((low + high) // 2, len(trie.tokens) - 1)
        right = (low < high) & (trie.tokens[middle] < token)
        low, high = jnp.where(right, middle + 1, low), jnp.where(right, high, middle)
    found = (node >= 0) & (low < end) & (trie.tokens[low] == token)
    return jnp.where(found, low, -1)


def _children(
    trie: DeviceTrie, state: SearchState, logits: Float[Array, "B K V"]
) -> tuple[Float[Array, "B K W"], Int[Array, "B K W"], Int[Array, "B K W"]]:
    """Scores, tokens and nodes of every child of every live hypothesis."""
    column = jnp.arange(trie.width)
    nodes = trie.first_child[state.live_nodes][..., None] + column
    exists = column < trie.n_children[state.live_nodes][..., None]
    nodes = jnp.where(exists, nodes, 0)
    tokens = jnp.where(exists, trie.tokens[nodes], 0)
    log_probs = jnp.take_along_axis(logits, tokens, axis=2) - jax.nn.logsumexp(
        logits, axis=2, keepdims=True
    )
    scores = jnp.where(exists, state.live_scores[..., None] + log_probs, -jnp.inf)
    return scores, tokens, nodes


def _vocabulary(
    state: SearchState, logits: Float[Array, "B K V"]
) -> tuple[Float[Array, "B K V"], Int[Array, "B K V"], Int[Array, "B K V"]]:
    """The same for every token of the vocabulary; the trie is left alone."""
    scores = state.live_scores[..., None] + jax.nn.log_softmax(logits, axis=2)
    tokens = jnp.broadcast_to(jnp.arange(logits.shape[2], dtype=jnp.int32), logits.shape)
    return scores, tokens, jnp.zeros_like(tokens)


def _top(scores: Float[Array, "B n"], beams: int) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """`lax.top_k`, filled up with -inf where there are fewer than K."""
    missing = max(0, beams - scores.shape[1])
    padded = jnp.pad(scores, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    best, index = jax.lax.top_k(padded, beams)
    return best, jnp.minimum(index, scores.shape[1] - 1)


def _keep_best(
    scores: Float[Array, "B n"], tokens: Int[Array, "B n S"], beams: int
) -> tuple[Float[Array, "B K"], Int[Array, "B K S"]]:
    best, index = _top(scores, beams)
    return best, jnp.take_along_axis(tokens, index[..., None], axis=1)

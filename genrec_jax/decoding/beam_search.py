"""Beam search as one `lax.while_loop`, free or constrained to the trie of the catalogue.

It knows callables, not a model: what a decoder says behind some tokens, and how probable that makes
the children of a trie node. A hypothesis scores the sum of its tokens' log-
probabilities under the full softmax, `</s>` included, in both modes, so that the two agree where
they overlap; `length_penalty` divides by the number of tokens to that power. Finished names are
kept apart from the K live hypotheses, and a user is done once no live one can still do better than
the K-th finished one.

Constrained search compares only the children of each live hypothesis' trie node, gathered with the
fixed width of their level, and never ranks the vocabulary. It returns K different items where the
catalogue has K: of the best 2K continuations at most K end a name, so K live ones remain until K
have ended. Seen items are left out of the trie for their user, with all nodes that lead to nothing
else, so that this holds for the rest of the catalogue too.

Free search is, token for token, what `transformers` `generate` does with `num_beams`: it ranks the
vocabulary, takes a `</s>` only among the best K continuations, guesses by the present length
whether a live hypothesis can do better, and takes what is unfinished at the end for finished. What
it writes need not be an item.

Axes: B users, K beams, L live hypotheses (one at the start, then K), P tokens of the shared
beginning, S decoder tokens, V vocabulary, W children of a node, H items of history.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.decoding.seen import find_items, seen_nodes, without_seen
from genrec_jax.models.device_trie import Children, DeviceTrie, children

Search = Literal["constrained", "free"]


class Decoder(NamedTuple):
    """What search asks of a model. A state is what it says behind a token; free search takes it for
    the logits, constrained search asks `log_probs` what it means.
    """

    # (tokens that all hypotheses begin with, `</s>` first; K; R) → (states [B, P, …], cache with
    # room for R later tokens of K hypotheses)
    start: Callable[[tuple[int, ...], int, int], tuple[jax.Array, Any]]
    # (tokens [B, K], the trie's nodes that they lead to [B, K], position [], cache) → (states
    # [B, K, …], cache)
    advance: Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
    # (cache, parents [B, K]) → the cache in which hypothesis k goes on from the old parents[:, k]
    reorder: Callable[[Any, jax.Array], Any]
    # (states [B, K, …], nodes [B, K], their children [B, K, W]) → log-probabilities [B, K, W]
    log_probs: Callable[[jax.Array, jax.Array, Children], jax.Array]


@dataclass(frozen=True)
class SearchSpec:
    """How to search; compiled in."""

    beams: int
    eos: int  # also starts the decoder
    pad: int
    search: Search = "constrained"
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.length_penalty < 0:
            raise ValueError(f"length_penalty is {self.length_penalty}, expected 0 or more")

    def final_score(
        self, log_probability: jax.Array, n_tokens: int | Int[Array, "..."]
    ) -> Float[Array, "..."]:
        """`log_probability` of a name of `n_tokens`, `</s>` included."""
        if self.length_penalty == 0.0:
            return log_probability
        return log_probability / jnp.asarray(n_tokens, jnp.float32) ** self.length_penalty


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SearchState:
    """The loop's state. Live hypotheses are unfinished names, done ones end with `</s>`."""

    position: Int[Array, ""]  # tokens written so far
    open: Bool[Array, " B"]  # a live hypothesis may still do better than a done one
    live_scores: Float[Array, "B L"]  # log-probabilities, -inf: no hypothesis
    live_tokens: Int[Array, "B L S"]
    live_nodes: Int[Array, "B L"]  # of the trie; only constrained search moves them
    done_scores: Float[Array, "B K"]  # final scores, best first, -inf: no hypothesis
    done_tokens: Int[Array, "B K S"]
    cache: Any


class SearchResult(NamedTuple):
    """Best first. An item of -1 is no item of the catalogue; such come last, in their order."""

    items: Int[Array, "B K"]
    scores: Float[Array, "B K"]  # log-probability in nats, by length where that is penalised
    tokens: Int[Array, "B K S"]  # padded behind `</s>`


def beam_search(
    decoder: Decoder, trie: DeviceTrie, spec: SearchSpec, seen: Int[Array, "B H"] | None = None
) -> SearchResult:
    """The `spec.beams` best names of each user.

    Args:
        decoder: the model with what it has read of each user.
        trie: of the catalogue.
        spec: how to search.
        seen: items to leave out for each user, -1 for none; constrained search alone can.
    """
    constrained = spec.search == "constrained"
    if seen is not None and not constrained:
        raise ValueError("free search cannot leave items out")
    prefix = trie.prefix if constrained else ()
    states, cache = decoder.start((spec.eos, *prefix), spec.beams, trie.depth - len(prefix) - 1)
    dead = None if seen is None else seen_nodes(trie, seen)
    widths = trie.widths[len(prefix) :]
    grow = partial(_grow, decoder, trie, spec, dead)

    def unfinished(state: SearchState) -> jax.Array:
        return (state.position < trie.depth) & jnp.any(state.open)

    def step(state: SearchState) -> SearchState:
        previous = jnp.take(state.live_tokens, state.position - 1, axis=2)
        states, cache = decoder.advance(previous, state.live_nodes, state.position, state.cache)
        return grow(widths[1:], state, states, cache)

    first = grow(widths[:1], _start(decoder, trie, spec, prefix, states), states[:, -1:], cache)
    final = jax.lax.while_loop(unfinished, step, first) if len(widths) > 1 else first
    items = jnp.where(jnp.isfinite(final.done_scores), find_items(trie, final.done_tokens), -1)
    order = jnp.argsort(items < 0, axis=1, stable=True)
    return SearchResult(
        items=jnp.take_along_axis(items, order, axis=1),
        scores=jnp.take_along_axis(final.done_scores, order, axis=1),
        tokens=jnp.take_along_axis(final.done_tokens, order[..., None], axis=1),
    )


def _start(
    decoder: Decoder,
    trie: DeviceTrie,
    spec: SearchSpec,
    prefix: tuple[int, ...],
    states: Float[Array, "B P _"],
) -> SearchState:
    """One hypothesis a user, which has written the prefix."""
    users, n = states.shape[0], len(prefix)
    written = jnp.array(prefix, jnp.int32)
    # The prefix is a chain: its node of level n has the number n.
    chain = jnp.broadcast_to(jnp.arange(n), (users, n))
    log_probs = decoder.log_probs(states[:, :n], chain, children(trie, chain, 1))
    tokens = jnp.full((users, 1, trie.depth), spec.pad, jnp.int32).at[:, :, :n].set(written)
    return SearchState(
        position=jnp.array(n, jnp.int32),
        open=jnp.ones(users, dtype=bool),
        live_scores=jnp.sum(log_probs, axis=(1, 2))[:, None],
        live_tokens=tokens,
        live_nodes=jnp.full((users, 1), n, jnp.int32),
        done_scores=jnp.full((users, spec.beams), -jnp.inf),
        done_tokens=jnp.full((users, spec.beams, trie.depth), spec.pad, jnp.int32),
        cache=None,
    )


def _grow(
    decoder: Decoder,
    trie: DeviceTrie,
    spec: SearchSpec,
    dead: Int[Array, "B H S"] | None,
    widths: tuple[int, ...],
    state: SearchState,
    states: Float[Array, "B L _"],
    cache: Any,
) -> SearchState:
    """Every live hypothesis by one token; the best of them live on or are done.

    `widths` are those of the levels that `state` may stand at, down to the last.
    """
    beams = spec.beams
    if spec.search == "constrained":
        best = _best_children(decoder, trie, state, states, dead, widths, 2 * beams)
    else:
        best = _best_tokens(state, states, 2 * beams)
    written = jnp.take_along_axis(state.live_tokens, best.beams[..., None], axis=1)
    written = written.at[:, :, state.position].set(best.tokens)
    if spec.search == "free":
        ends = (best.tokens == spec.eos) | (state.position == trie.depth - 1)
        may_be_done = ends & (jnp.arange(2 * beams) < beams) & state.open[:, None]
    else:
        may_be_done = ends = trie.items[best.nodes] >= 0

    position = state.position + 1
    final = jnp.where(may_be_done, spec.final_score(best.scores, position), -jnp.inf)
    done_scores, place = _top(jnp.concatenate([state.done_scores, final], axis=1), beams)
    done_tokens = jnp.concatenate([state.done_tokens, written], axis=1)
    live_scores, kept = _top(jnp.where(ends, -jnp.inf, best.scores), beams)
    # No name is longer than the trie is deep, so no live hypothesis can end with a better score
    # than at that length; `generate` looks at the present length instead.
    reach = trie.depth if spec.search == "constrained" else position
    hope = spec.final_score(live_scores[:, 0], reach)
    return SearchState(
        position=position,
        open=state.open & (hope > done_scores[:, -1]),
        live_scores=live_scores,
        live_tokens=jnp.take_along_axis(written, kept[..., None], axis=1),
        live_nodes=jnp.take_along_axis(best.nodes, kept, axis=1),
        done_scores=done_scores,
        done_tokens=jnp.take_along_axis(done_tokens, place[..., None], axis=1),
        cache=decoder.reorder(cache, jnp.take_along_axis(best.beams, kept, axis=1)),
    )


class Continuations(NamedTuple):
    """The best 2K continuations of all live hypotheses of a user, best first."""

    scores: Float[Array, "B n"]  # log-probabilities, -inf: no continuation
    beams: Int[Array, "B n"]  # the hypothesis that each continues
    tokens: Int[Array, "B n"]
    nodes: Int[Array, "B n"]


def _best_children(
    decoder: Decoder,
    trie: DeviceTrie,
    state: SearchState,
    states: Float[Array, "B L _"],
    dead: Int[Array, "B H S"] | None,
    widths: tuple[int, ...],
    count: int,
) -> Continuations:
    """Only tokens that go on with a name; a branch a width, since levels differ in it.

    Widths are rounded up to powers of two, so that the dozen levels of long names (titles) compile
    a few branches.
    """

    def best_of(width: int) -> Continuations:
        found = children(trie, state.live_nodes, width)
        log_probs = decoder.log_probs(states, state.live_nodes, found)
        scores = jnp.where(found.exist, state.live_scores[..., None] + log_probs, -jnp.inf)
        if dead is not None:
            level = jnp.take(dead, state.position, axis=2)
            scores = without_seen(trie, scores, state.live_nodes, level)
        best, place = _top(scores.reshape(len(scores), -1), count)

        def chosen(values: Int[Array, "B K W"]) -> Int[Array, "B n"]:
            return jnp.take_along_axis(values.reshape(len(values), -1), place, axis=1)

        return Continuations(best, place // width, chosen(found.tokens), chosen(found.nodes))

    rounded = [1 << (width - 1).bit_length() for width in widths]
    distinct = sorted(set(rounded))
    if len(distinct) == 1:
        return best_of(distinct[0])
    branch = jnp.array([distinct.index(width) for width in rounded])
    first_level = trie.depth - len(widths)
    branches = [partial(best_of, width) for width in distinct]
    return jax.lax.switch(branch[state.position - first_level], branches)


def _best_tokens(state: SearchState, logits: Float[Array, "B L V"], count: int) -> Continuations:
    """All tokens of the vocabulary; the trie is left alone."""
    scores = state.live_scores[..., None] + jax.nn.log_softmax(logits, axis=2)
    best, place = _top(scores.reshape(len(scores), -1), count)
    beams, tokens = jnp.divmod(place, logits.shape[2])
    return Continuations(best, beams, tokens, jnp.zeros_like(tokens))


def _top(scores: Float[Array, "B n"], k: int) -> tuple[Float[Array, "B k"], Int[Array, "B k"]]:
    """`lax.top_k`, filled up with -inf where there are fewer than k."""
    missing = max(0, k - scores.shape[1])
    padded = jnp.pad(scores, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    best, index = jax.lax.top_k(padded, k)
    return best, jnp.minimum(index, scores.shape[1] - 1)

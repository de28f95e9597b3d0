"""Beam search as one `lax.while_loop`, free or constrained to the trie of item identifiers.

The search is independent of the model: a `Decoder` supplies the decoder states and the log-
probabilities of a trie node's children. The score of a hypothesis is the sum of its tokens' log-
probabilities under the full softmax, including `</s>`. This holds for both kinds of search, so
their scores are comparable. With a `length_penalty`, the score is divided by the number of tokens
to that power. Finished hypotheses are kept apart from the K live ones. The search ends for a user
when no live hypothesis can score higher than the K-th finished one.

Constrained search expands each live hypothesis only to the children of its trie node, gathered with
the fixed width of their level, and never ranks the vocabulary. It returns K different items if the
catalogue has K: at most K of the best 2K continuations end an identifier, so K hypotheses stay live
until K have finished. Seen items are excluded per user, together with all nodes that lead only to
seen items, so the guarantee also holds for the remaining catalogue.

Free search produces the same tokens as `transformers` `generate` with `num_beams`: it ranks the
vocabulary, finishes a hypothesis only if its `</s>` is among the best K continuations, estimates
from the current length whether a live hypothesis can still improve, and counts hypotheses that
reach the maximum length as finished. Its output need not be an item.

Axes: B users, K beams, L live hypotheses (one at the start, then K), P tokens of the common prefix,
S decoder tokens, V vocabulary, W children of a node, H items of history.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.decoding.seen import excluded_nodes, find_items, mask_children
from genrec_jax.models.device_trie import Children, DeviceTrie, children

Search = Literal["constrained", "free"]


class Decoder(NamedTuple):
    """The operations of a model that beam search uses.

    A state is the decoder's output after a token. Free search takes states as logits; constrained
    search passes them to `log_probs`.
    """

    # (common prefix of all hypotheses, `</s>` first; K; R) → (states [B, P, …], cache with room for
    # R more tokens of K hypotheses)
    start: Callable[[tuple[int, ...], int, int], tuple[jax.Array, Any]]
    # (tokens [B, K], the trie nodes that they lead to [B, K], position [], cache) → (states
    # [B, K, …], cache)
    advance: Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
    # (cache, parents [B, K]) → the cache in which hypothesis k continues hypothesis parents[:, k]
    reorder: Callable[[Any, jax.Array], Any]
    # (states [B, K, …], nodes [B, K], their children [B, K, W]) → log-probabilities [B, K, W]
    log_probs: Callable[[jax.Array, jax.Array, Children], jax.Array]


@dataclass(frozen=True)
class SearchSpec:
    """The settings of a search, static at compile time."""

    beams: int  # K
    eos: int  # token id of `</s>`, which is also the decoder's start token
    pad: int  # token id after `</s>`
    search: Search = "constrained"
    length_penalty: float = 0.0  # exponent of the number of tokens; 0: no penalty

    def __post_init__(self) -> None:
        if self.length_penalty < 0:
            raise ValueError(f"length_penalty: found {self.length_penalty}, expected 0 or more")

    def final_score(
        self, log_probability: jax.Array, n_tokens: int | Int[Array, "..."]
    ) -> Float[Array, "..."]:
        """Return the score of a finished hypothesis: its length-normalised log-probability.

        Args:
            log_probability: sum of the tokens' log-probabilities, in nats.
            n_tokens: number of tokens, including `</s>`.
        """
        if self.length_penalty == 0.0:
            return log_probability
        return log_probability / jnp.asarray(n_tokens, jnp.float32) ** self.length_penalty


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SearchState:
    """The loop state: live hypotheses are unfinished, finished ones end with `</s>`."""

    position: Int[Array, ""]  # number of tokens generated so far
    active: Bool[Array, " B"]  # whether a live hypothesis can still beat a finished one
    live_scores: Float[Array, "B L"]  # log-probabilities; -inf: no hypothesis
    live_tokens: Int[Array, "B L S"]  # padded after `position`
    live_nodes: Int[Array, "B L"]  # trie nodes; only constrained search updates them
    finished_scores: Float[Array, "B K"]  # final scores, best first; -inf: no hypothesis
    finished_tokens: Int[Array, "B K S"]
    cache: Any  # keys and values of the live hypotheses


class SearchResult(NamedTuple):
    """The K best hypotheses of each user, best first.

    Hypotheses that are no item of the catalogue have item -1 and follow those that are, in order of
    their scores.
    """

    items: Int[Array, "B K"]
    scores: Float[Array, "B K"]  # log-probability in nats, divided by the length penalty
    tokens: Int[Array, "B K S"]  # padded after `</s>`


def beam_search(
    decoder: Decoder, trie: DeviceTrie, spec: SearchSpec, seen: Int[Array, "B H"] | None = None
) -> SearchResult:
    """Return the `spec.beams` best hypotheses of each user.

    Args:
        decoder: the model, after it has encoded the users' histories.
        trie: the identifiers of the catalogue.
        spec: the search settings.
        seen: items to exclude for each user, -1 for padding; only for constrained search.

    Raises:
        ValueError: `seen` is given for free search.
    """
    constrained = spec.search == "constrained"
    if seen is not None and not constrained:
        raise ValueError("free search cannot exclude items: found `seen`, expected None")
    prefix = trie.prefix if constrained else ()
    states, cache = decoder.start((spec.eos, *prefix), spec.beams, trie.depth - len(prefix) - 1)
    excluded = None if seen is None else excluded_nodes(trie, seen)
    widths = trie.widths[len(prefix) :]
    expand = partial(_expand, decoder, trie, spec, excluded)

    def unfinished(state: SearchState) -> jax.Array:
        return (state.position < trie.depth) & jnp.any(state.active)

    def step(state: SearchState) -> SearchState:
        previous = jnp.take(state.live_tokens, state.position - 1, axis=2)
        states, cache = decoder.advance(previous, state.live_nodes, state.position, state.cache)
        return expand(widths[1:], state, states, cache)

    first = expand(widths[:1], _start(decoder, trie, spec, prefix, states), states[:, -1:], cache)
    final = jax.lax.while_loop(unfinished, step, first) if len(widths) > 1 else first
    is_finished = jnp.isfinite(final.finished_scores)
    items = jnp.where(is_finished, find_items(trie, final.finished_tokens), -1)
    order = jnp.argsort(items < 0, axis=1, stable=True)
    return SearchResult(
        items=jnp.take_along_axis(items, order, axis=1),
        scores=jnp.take_along_axis(final.finished_scores, order, axis=1),
        tokens=jnp.take_along_axis(final.finished_tokens, order[..., None], axis=1),
    )


def _start(
    decoder: Decoder,
    trie: DeviceTrie,
    spec: SearchSpec,
    prefix: tuple[int, ...],
    states: Float[Array, "B P _"],
) -> SearchState:
    """Return the initial state: one live hypothesis per user, which is the common prefix."""
    users, n = states.shape[0], len(prefix)
    # The prefix is a chain: its node at level n is node n of the trie.
    chain = jnp.broadcast_to(jnp.arange(n), (users, n))
    log_probs = decoder.log_probs(states[:, :n], chain, children(trie, chain, 1))
    tokens = jnp.full((users, 1, trie.depth), spec.pad, jnp.int32)
    return SearchState(
        position=jnp.array(n, jnp.int32),
        active=jnp.ones(users, dtype=bool),
        live_scores=jnp.sum(log_probs, axis=(1, 2))[:, None],
        live_tokens=tokens.at[:, :, :n].set(jnp.array(prefix, jnp.int32)),
        live_nodes=jnp.full((users, 1), n, jnp.int32),
        finished_scores=jnp.full((users, spec.beams), -jnp.inf),
        finished_tokens=jnp.full((users, spec.beams, trie.depth), spec.pad, jnp.int32),
        cache=None,
    )


def _expand(
    decoder: Decoder,
    trie: DeviceTrie,
    spec: SearchSpec,
    excluded: Int[Array, "B H S"] | None,
    widths: tuple[int, ...],
    state: SearchState,
    states: Float[Array, "B L _"],
    cache: Any,
) -> SearchState:
    """Extend every live hypothesis by one token and keep the best live and finished ones.

    `widths` are the trie widths of the levels that `state.position` can have, down to the last.
    """
    beams = spec.beams
    if spec.search == "constrained":
        best = _best_children(decoder, trie, state, states, excluded, widths, 2 * beams)
    else:
        best = _best_tokens(state, states, 2 * beams)
    tokens = jnp.take_along_axis(state.live_tokens, best.beams[..., None], axis=1)
    tokens = tokens.at[:, :, state.position].set(best.tokens)
    if spec.search == "free":
        ends = (best.tokens == spec.eos) | (state.position == trie.depth - 1)
        can_finish = ends & (jnp.arange(2 * beams) < beams) & state.active[:, None]
    else:
        can_finish = ends = trie.items[best.nodes] >= 0

    position = state.position + 1
    final = jnp.where(can_finish, spec.final_score(best.scores, position), -jnp.inf)
    scores = jnp.concatenate([state.finished_scores, final], axis=1)
    finished_scores, finished = _top(scores, beams)
    finished_tokens = jnp.concatenate([state.finished_tokens, tokens], axis=1)
    live_scores, live = _top(jnp.where(ends, -jnp.inf, best.scores), beams)
    # No identifier is longer than the trie is deep, so a live hypothesis scores at most what it
    # would score at that length. `generate` uses the current length instead.
    longest = trie.depth if spec.search == "constrained" else position
    best_possible = spec.final_score(live_scores[:, 0], longest)
    return SearchState(
        position=position,
        active=state.active & (best_possible > finished_scores[:, -1]),
        live_scores=live_scores,
        live_tokens=jnp.take_along_axis(tokens, live[..., None], axis=1),
        live_nodes=jnp.take_along_axis(best.nodes, live, axis=1),
        finished_scores=finished_scores,
        finished_tokens=jnp.take_along_axis(finished_tokens, finished[..., None], axis=1),
        cache=decoder.reorder(cache, jnp.take_along_axis(best.beams, live, axis=1)),
    )


class Continuations(NamedTuple):
    """The best 2K continuations of a user's live hypotheses, best first."""

    scores: Float[Array, "B n"]  # log-probabilities; -inf: no continuation
    beams: Int[Array, "B n"]  # index of the hypothesis that each continues
    tokens: Int[Array, "B n"]
    nodes: Int[Array, "B n"]


def _best_children(
    decoder: Decoder,
    trie: DeviceTrie,
    state: SearchState,
    states: Float[Array, "B L _"],
    excluded: Int[Array, "B H S"] | None,
    widths: tuple[int, ...],
    count: int,
) -> Continuations:
    """Return the best continuations along the trie.

    Levels differ in width, so each width is a branch of a `lax.switch`. Widths are rounded up to
    powers of two, so that the many levels of long identifiers (titles) compile only a few branches.
    """

    def best_of(width: int) -> Continuations:
        candidates = children(trie, state.live_nodes, width)
        log_probs = decoder.log_probs(states, state.live_nodes, candidates)
        scores = jnp.where(candidates.exist, state.live_scores[..., None] + log_probs, -jnp.inf)
        if excluded is not None:
            excluded_children = jnp.take(excluded, state.position, axis=2)
            scores = mask_children(trie, scores, state.live_nodes, excluded_children)
        best, indices = _top(scores.reshape(len(scores), -1), count)

        def select(values: Int[Array, "B K W"]) -> Int[Array, "B n"]:
            return jnp.take_along_axis(values.reshape(len(values), -1), indices, axis=1)

        tokens, nodes = select(candidates.tokens), select(candidates.nodes)
        return Continuations(best, indices // width, tokens, nodes)

    rounded = [1 << (width - 1).bit_length() for width in widths]
    distinct = sorted(set(rounded))
    if len(distinct) == 1:
        return best_of(distinct[0])
    branch = jnp.array([distinct.index(width) for width in rounded])
    first_level = trie.depth - len(widths)
    branches = [partial(best_of, width) for width in distinct]
    return jax.lax.switch(branch[state.position - first_level], branches)


def _best_tokens(state: SearchState, logits: Float[Array, "B L V"], count: int) -> Continuations:
    """Return the best continuations over the whole vocabulary, with node 0 for all of them."""
    scores = state.live_scores[..., None] + jax.nn.log_softmax(logits, axis=2)
    best, indices = _top(scores.reshape(len(scores), -1), count)
    beams, tokens = jnp.divmod(indices, logits.shape[2])
    return Continuations(best, beams, tokens, jnp.zeros_like(tokens))


def _top(scores: Float[Array, "B n"], k: int) -> tuple[Float[Array, "B k"], Int[Array, "B k"]]:
    """Return `lax.top_k`, padded with -inf if there are fewer than k scores."""
    missing = max(0, k - scores.shape[1])
    padded = jnp.pad(scores, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    best, indices = jax.lax.top_k(padded, k)
    return best, jnp.minimum(indices, scores.shape[1] - 1)

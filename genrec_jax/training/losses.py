"""What each output of a model answers with, and how wrong it is.

    vocabulary   every token of the target's name and `</s>`: cross-entropy over the vocabulary
    trie         every decision on the target's path: cross-entropy over the children of a node
                 that has several
    item         the target: cross-entropy over all items

Axes: B users, G questions a user, S tokens or steps, V vocabulary, N items.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.layers.dropout import Key, split
from genrec_jax.models.bart import Memory
from genrec_jax.models.device_trie import paths
from genrec_jax.models.genrec import GenRec, Head
from genrec_jax.models.heads import TrieHead, head_of
from genrec_jax.models.inputs import DecoderInput, DeviceTable, decoder_input
from genrec_jax.models.item_inputs import Sentence
from genrec_jax.models.trie_head import TreeAnswer, level_scores


class ItemAnswer(NamedTuple):
    """The targets as they are; `weights` is False where there is none."""

    items: Int[Array, "B G"]
    weights: Bool[Array, "B G 1"]

    @property
    def has_target(self) -> Bool[Array, "B G"]:
        return self.items >= 0


Answer = DecoderInput | TreeAnswer | ItemAnswer


class Losses(NamedTuple):
    """Of everything that is answered, 0 and True where the answer's weights are False."""

    nats: Float[Array, "*axes"]
    right: Bool[Array, "*axes"]  # it had the highest score


def right_answer(head: Head, table: DeviceTable, targets: Int[Array, "B *G"]) -> Answer:
    """What the model should say.

    Args:
        head: of the model.
        table: the tokens of every name, and the trie.
        targets: item rows, -1 for none; G questions a user where the head is not the vocabulary.
    """
    if head == "vocabulary":
        return decoder_input(table, targets)
    targets = targets.reshape(len(targets), -1)
    if head == "item":
        return ItemAnswer(targets, (targets >= 0)[..., None])
    assert table.trie is not None
    nodes = paths(table.trie, targets)
    is_decision = table.trie.n_children[jnp.maximum(nodes[..., :-1], 0)] > 1
    return TreeAnswer(nodes, is_decision & (nodes[..., 1:] >= 0))


def answer_losses(
    model: GenRec,
    table: DeviceTable,
    sentence: Sentence,
    answer: Answer,
    key: Key,
    rematerialise: bool,
) -> Losses:
    """How far the model is from the answer; dropout is on if a key is given."""
    if isinstance(answer, DecoderInput):
        logits = model(sentence, answer.tokens, key, rematerialise)
        return _losses(logits, answer.labels, answer.weights)
    encoder_key, decoder_key = split(key, 2)
    memory = model.read(sentence, encoder_key, rematerialise)
    if isinstance(answer, ItemAnswer):
        return _item_losses(model, memory, answer)
    head = head_of(model, table.trie, memory)
    assert isinstance(head, TrieHead)
    return _path_losses(head, memory, table.eos, answer, decoder_key, rematerialise)


def token_loss(
    logits: Float[Array, "B S V"], labels: Int[Array, "B S"], weights: Bool[Array, "B S"]
) -> Float[Array, ""]:
    """Sum of the cross-entropy over the weighted tokens, in nats."""
    return jnp.sum(_losses(logits, labels, weights).nats)


def _item_losses(model: GenRec, memory: Memory, answer: ItemAnswer) -> Losses:
    """One question of all users after the other: the scores of all items are held for that one
    alone, and where there are several they are made anew in the backward pass."""
    assert memory.states is not None

    def of_question(
        asked: tuple[Float[Array, "B D"], Int[Array, " B"]],
    ) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
        states, items = asked
        logits = model.item_logits(states[:, None])[:, 0]
        target = jnp.take_along_axis(logits, jnp.maximum(items, 0)[:, None], axis=1)[:, 0]
        nats = jax.nn.logsumexp(logits, axis=1) - target
        return jnp.where(items >= 0, nats, 0.0), (target >= jnp.max(logits, axis=1)) | (items < 0)

    if answer.items.shape[1] > 1:
        of_question = jax.checkpoint(of_question)
    by_question = (jnp.swapaxes(memory.states, 0, 1), answer.items.T)
    nats, right = jax.lax.map(of_question, by_question)
    return Losses(nats.T[..., None], right.T[..., None])


def _path_losses(
    head: TrieHead, memory: Memory, eos: int, answer: TreeAnswer, key: Key, rematerialise: bool
) -> Losses:
    users, questions, steps = answer.weights.shape
    model, trie = head.model, head.trie
    nodes = jnp.maximum(answer.nodes[..., :-1], 0)  # what each step leaves from
    tokens = jnp.where(nodes > 0, trie.tokens[nodes], eos)
    flat = (users, questions * steps)
    look = memory.look
    if look.shape[1] > 1:
        look = jnp.repeat(look, steps, axis=1)
    x, _ = model.decoder(
        head.embed(tokens.reshape(flat), nodes.reshape(flat)),
        jnp.tile(jnp.arange(steps), questions),
        jnp.tril(jnp.ones((1, steps, steps), dtype=bool)),
        memory._replace(look=look),
        key,
        rematerialise=rematerialise,
        names=questions,
    )
    x = head.states(x).reshape(*nodes.shape, -1)  # [B, G, S, D]
    by_step = []
    for step in range(trie.depth):
        scores, first = level_scores(
            x[:, :, step], nodes[:, :, step], trie, head.vectors, step, head.masses
        )
        column = answer.nodes[..., step + 1] - first
        by_step.append(_losses(scores, column, answer.weights[..., step]))
    return Losses(*(jnp.stack(parts, axis=-1) for parts in zip(*by_step, strict=True)))


def _losses(
    logits: Float[Array, "*axes V"], labels: Int[Array, "*axes"], weights: Bool[Array, "*axes"]
) -> Losses:
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return Losses(
        nats=jnp.where(weights, nats, 0.0),
        right=(jnp.argmax(logits, axis=-1) == labels) | ~weights,
    )

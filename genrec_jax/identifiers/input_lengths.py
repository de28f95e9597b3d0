"""The encoder positions that histories take, how histories are cut to fit, and the batches."""

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from genrec_jax.core.errors import InputError
from genrec_jax.data.batches import BatchPlan, CutReport, cut_histories, history_tokens
from genrec_jax.data.sequences import Examples
from genrec_jax.identifiers.token_table import TokenTable

log = logging.getLogger(__name__)

FRAME = 3  # <s>, </s> and the mask


@dataclass(frozen=True)
class InputLengths:
    """The encoder positions of the parts of an input sequence, which add up."""

    frame: int  # positions that every input sequence has
    users: Int[np.ndarray, " U"]  # positions of each user, if the user is known
    items: Int[np.ndarray, " N"]  # positions of each item
    most: int  # the encoder's positions
    key: str  # the config key that limits them


def token_lengths(table: TokenTable, most: int) -> InputLengths:
    """Return the lengths of input sequences of tokens, with room for the mask.

    Pretraining, where the mask replaces an item, needs no more positions.

    Args:
        table: the tokens of every identifier.
        most: the encoder's positions, `config.model.max_tokens`.
    """
    lengths = (table.user_lengths, table.item_lengths)
    return InputLengths(FRAME, *lengths, most, "config.model.max_tokens")


@dataclass(frozen=True)
class Fitted:
    """n examples whose histories have been cut to fit, and their encoder positions."""

    examples: Examples
    n_tokens: Int[np.ndarray, " n"]  # encoder positions of each example
    cut: CutReport
    least: int  # positions that suffice for any user with any single item


def fit_histories(examples: Examples, lengths: InputLengths, most: int) -> Fitted:
    """Cut histories to `most` encoder positions by dropping whole items from the oldest end.

    An example without a user (-1) has no positions of a user.

    Raises:
        InputError: `most` is too small for a user and one item.
    """
    users = np.where(examples.users >= 0, lengths.users[examples.users], 0)
    framed: Int[np.ndarray, " n"] = lengths.frame + users
    if (least := int(framed.max() + lengths.items.max())) > most:
        raise InputError(
            f"{lengths.key}: found {most}, expected at least {least}, the positions of the longest "
            "user identifier, one item and the mask"
        )
    fitting, cut = cut_histories(examples, lengths.items, most - framed)
    n_tokens = np.maximum(framed + history_tokens(fitting, lengths.items), 1)
    return Fitted(fitting, n_tokens, cut, least)


def longest_input(examples: Examples, lengths: InputLengths) -> int:
    """Return the positions of the longest example after cutting, at least those of one item.

    Raises:
        InputError: the encoder has too few positions for a user and one item.
    """
    fitted = fit_histories(examples, lengths, lengths.most)
    return max(int(fitted.n_tokens.max()), fitted.least)


def plan_batches(
    examples: Examples,
    lengths: InputLengths,
    batch_size: int,
    buckets: int,
    label: str,
    most: int = 0,
) -> BatchPlan:
    """Cut histories to fit the encoder, and group the examples into batches by length.

    The number of dropped items and the share of padding are logged.

    Args:
        examples: histories and targets.
        lengths: the encoder positions of users and items.
        batch_size: the examples of a batch.
        buckets: the most padded lengths.
        label: the label of the log lines.
        most: the positions to use; 0: all of the encoder's.

    Raises:
        InputError: the encoder has too few positions for a user and one item.
    """
    most = most or lengths.most
    fitted = fit_histories(examples, lengths, most)
    plan = BatchPlan(fitted.examples, fitted.n_tokens, batch_size, buckets, whole=examples)
    shapes = ", ".join(f"{b.n_tokens}" for b in plan.buckets)
    log.info(
        "%s: %d sequences in %d batches of up to %d; padded to %s tokens (%.1f %% padding)",
        label,
        len(examples),
        plan.steps_per_epoch,
        batch_size,
        shapes,
        100 * plan.padding_share,
    )
    if fitted.cut.items:
        log.info(
            "%s: dropped %d items from the oldest end of %d histories to fit %d tokens",
            label,
            fitted.cut.items,
            fitted.cut.histories,
            most,
        )
    return plan

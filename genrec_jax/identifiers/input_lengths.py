"""Input lengths in encoder positions: cut histories to fit and batch examples by length."""

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from genrec_jax.core.errors import InputError
from genrec_jax.data.batches import BatchPlan, CutReport, cut_histories, history_tokens
from genrec_jax.data.sequences import Examples
from genrec_jax.identifiers.token_table import TokenTable

log = logging.getLogger(__name__)

FRAME = 3  # positions of <s>, </s> and the mask


@dataclass(frozen=True)
class InputLengths:
    """The number of encoder positions of each part of an input sequence."""

    frame: int  # positions of the special tokens, which every input sequence has
    users: Int[np.ndarray, " U"]  # positions of each user's identifier
    items: Int[np.ndarray, " N"]  # positions of each item
    most: int  # maximum length of an input sequence
    key: str  # the config key that sets `most`


def token_lengths(table: TokenTable, most: int) -> InputLengths:
    """Return the lengths of input sequences of tokens, with a position for the mask.

    Pretraining, where the mask replaces an item, needs no additional position.

    Args:
        table: the tokens of all identifiers.
        most: the maximum length of an input sequence, `config.model.max_tokens`.
    """
    lengths = (table.user_lengths, table.item_lengths)
    return InputLengths(FRAME, *lengths, most, "config.model.max_tokens")


@dataclass(frozen=True)
class Fitted:
    """n examples whose histories were cut to fit the encoder, and their lengths."""

    examples: Examples
    n_tokens: Int[np.ndarray, " n"]  # encoder positions of each example
    cut: CutReport  # the dropped items
    least: int  # positions that suffice for any of the users with any single item


def fit_histories(examples: Examples, lengths: InputLengths, most: int) -> Fitted:
    """Drop the oldest items of each history until the input fits `most` encoder positions.

    Args:
        examples: the histories; a user of -1 takes no positions.
        lengths: the encoder positions of users and items.
        most: the maximum length of an input sequence.

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
    """Return the length of the longest input after cutting, enough for any user with one item.

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

    Logs the number of dropped items and the share of padding.

    Args:
        examples: histories and targets.
        lengths: the encoder positions of users and items.
        batch_size: the number of examples per batch.
        buckets: the maximum number of padded lengths.
        label: the prefix of the log lines.
        most: the maximum length of an input sequence; 0: the encoder's limit.

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

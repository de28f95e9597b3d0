"""How many encoder positions a history takes, what fits, and so the batches it falls into."""

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
    """The encoder positions that a history takes: the sum of its parts."""

    frame: int  # of what every history has
    users: Int[np.ndarray, " U"]  # of each user, where the user is known
    items: Int[np.ndarray, " N"]  # of each item
    most: int  # that the encoder has
    key: str  # of the config, which says so


def token_lengths(table: TokenTable, most: int) -> InputLengths:
    """Of sentences: the tokens of the names, with room for the mask.

    Pretraining, where the mask takes an item's place, needs no more than that either.
    """
    names = (table.user_lengths, table.item_lengths)
    return InputLengths(FRAME, *names, most, "config.model.max_tokens")


@dataclass(frozen=True)
class Fitted:
    """n examples whose histories have been cut to fit, and the encoder positions of each."""

    examples: Examples
    n_tokens: Int[np.ndarray, " n"]
    cut: CutReport
    least: int  # positions that any user with any one item takes


def fit_histories(examples: Examples, lengths: InputLengths, most: int) -> Fitted:
    """Cut histories to `most` encoder positions by dropping whole items from the oldest end.

    An example without a user (-1) has nothing of a user.

    Raises:
        InputError: `most` cannot hold a user and one item.
    """
    users = np.where(examples.users >= 0, lengths.users[examples.users], 0)
    framed: Int[np.ndarray, " n"] = lengths.frame + users
    if (least := int(framed.max() + lengths.items.max())) > most:
        raise InputError(
            f"{lengths.key}: found {most}, expected at least {least}, which the longest user name, "
            "one item and the mask take"
        )
    fitting, cut = cut_histories(examples, lengths.items, most - framed)
    n_tokens = np.maximum(framed + history_tokens(fitting, lengths.items), 1)
    return Fitted(fitting, n_tokens, cut, least)


def longest_input(examples: Examples, lengths: InputLengths) -> int:
    """The encoder positions of the longest example, cut to fit, or of any history of one item.

    Raises:
        InputError: the encoder's positions cannot hold a user and one item.
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
    """Cut histories to fit the encoder, and group them into batches by length.

    See `fit_histories`. What was cut, and the padding, is logged under `label`.

    Args:
        examples: histories and targets.
        lengths: the encoder positions that they take.
        batch_size: examples a batch.
        buckets: the most padded lengths.
        label: for the log.
        most: positions that may be used; 0: all of the encoder's.

    Raises:
        InputError: the encoder's positions cannot hold a user and one item.
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
            "%s: %d items cut from the oldest end of %d histories to fit %d tokens",
            label,
            fitted.cut.items,
            fitted.cut.histories,
            most,
        )
    return plan

"""How many tokens a history takes as a sentence, what fits, and so the batches it falls into."""

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from genrec_jax.core.errors import InputError
from genrec_jax.data.batches import BatchPlan, CutReport, cut_histories, history_tokens
from genrec_jax.data.sequences import Examples
from genrec_jax.identifiers.token_table import TokenTable

log = logging.getLogger(__name__)

FRAME = 2  # <s> and </s>
MASK = 1
BEGINNING = 1  # the slot of the user, where an item is one slot


@dataclass(frozen=True)
class Fitted:
    """n examples whose histories have been cut to fit, and the encoder tokens of each."""

    examples: Examples
    n_tokens: Int[np.ndarray, " n"]
    cut: CutReport
    least: int  # tokens of the longest user name, the longest item name and the mask


def fit_histories(
    examples: Examples, table: TokenTable, max_tokens: int, unit: str = "token"
) -> Fitted:
    """Cut histories to `max_tokens` encoder tokens by dropping whole items from the oldest end.

    With another unit than `token` the encoder reads one vector an item, after one for the user.
    An example without a user (-1) has no user's name. Room for the mask is always kept:
    pretraining, where the mask takes an item's place, needs no more than that either.

    Raises:
        InputError: `max_tokens` cannot hold a user's name and one item.
    """
    if unit == "token":
        item_lengths = table.item_lengths
        user_tokens = np.where(examples.users >= 0, table.user_lengths[examples.users], 0)
        framed: Int[np.ndarray, " n"] = FRAME + MASK + user_tokens
    else:
        item_lengths = np.ones_like(table.item_lengths)
        framed = np.full(len(examples), BEGINNING + MASK)
    if (least := int(framed.max() + item_lengths.max())) > max_tokens:
        raise InputError(
            f"config.model.max_tokens: found {max_tokens}, expected at least {least}, which the "
            "longest user name, one item and the mask take"
        )
    fitting, cut = cut_histories(examples, item_lengths, max_tokens - framed)
    return Fitted(fitting, framed + history_tokens(fitting, item_lengths), cut, least)


def longest_input(
    examples: Examples, table: TokenTable, max_tokens: int, unit: str = "token"
) -> int:
    """The encoder tokens of the longest example, cut to fit, or of any history of one item.

    Args:
        examples: histories, which may be longer than `max_tokens`.
        table: the tokens of every name.
        max_tokens: of the encoder.
        unit: what the encoder reads one vector of.

    Raises:
        InputError: `max_tokens` cannot hold a user's name and one item.
    """
    fitted = fit_histories(examples, table, max_tokens, unit)
    return max(int(fitted.n_tokens.max()), fitted.least)


def plan_batches(
    examples: Examples,
    table: TokenTable,
    max_tokens: int,
    batch_size: int,
    buckets: int,
    label: str,
    unit: str = "token",
) -> BatchPlan:
    """Cut histories to `max_tokens` encoder tokens, and group them into batches by length.

    See `fit_histories`. What was cut, and the padding, is logged under `label`.

    Raises:
        InputError: `max_tokens` cannot hold a user's name and one item.
    """
    fitted = fit_histories(examples, table, max_tokens, unit)
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
            max_tokens,
        )
    return plan

"""A dataset and an indexing, looked at before anything is trained: does the numbering leak?

Statistics, baselines, and two permutation tests (leak.py), which end in one sentence.
"""

import dataclasses
import logging
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from genrec_jax.core.errors import InputError
from genrec_jax.data.prepared import Names
from genrec_jax.data.sequences import TEST_HOLDOUT, Examples, UserSequences, next_item_examples
from genrec_jax.evaluation.leak import (
    ALPHA,
    NEAR,
    PERMUTATIONS,
    Written,
    against_any_numbering,
    against_training_numbering,
    new_targets,
    shared_pieces,
    telling_pieces,
    verdict,
)
from genrec_jax.evaluation.metrics import metrics
from genrec_jax.evaluation.transition_settings import choose_settings
from genrec_jax.identifiers.codes import deal_codes
from genrec_jax.identifiers.indexing import TEXT_KINDS, Indexing, writing
from genrec_jax.identifiers.token_table import TokenTable, build_token_table
from genrec_jax.models import load_family
from genrec_jax.models.heuristics.baselines import TRANSITIONS, largest_numbers, reference_lists
from genrec_jax.models.heuristics.rankings import training_counts
from genrec_jax.models.heuristics.transitions import TransitionSettings, transition_lists
from genrec_jax.models.run_config import EvaluateConfig, RunConfig, WithIdentifiers
from genrec_jax.runs.dataset import load_names, load_sequences
from genrec_jax.runs.identifiers import code_vectors, make_names

log = logging.getLogger(__name__)


PLAIN = f"{TRANSITIONS}, not tuned"
PLAIN_WITH_VALIDATION = "… and validation items counted"
LAST, ANYTHING = "the last item", "a random item"
TRAINING = "training numbering"
SEED = 0  # of the permutations: the same numbering is always judged alike


def audit(config: RunConfig) -> dict[str, Any]:
    """Audit what a config describes, before anything is trained.

    Returns:
        What `audit_numbering` and `reached` return, and `tokenizer`, the one that was used.

    Raises:
        InputError: a dataset that cannot be read, or a checkpoint that is no folder or hub id.
    """
    family = load_family(config.model.family)
    if not isinstance(config, WithIdentifiers):
        raise InputError(
            f"config.model.family: found {family.name}, which reads no identifiers that could "
            "leak, expected a family that does, as in configs/beauty.py"
        )
    sequences = load_sequences(config.data)
    folder, source = family.tokenizer_at_hand(config)
    names = load_names(config.data)
    indexing, vocabulary = make_names(config, sequences, names, folder)
    table = build_token_table(vocabulary, indexing.item_names(), [])
    told = held_out_tell(config, sequences, names, indexing)
    found = audit_numbering(sequences, indexing, table, told)
    found |= {"tokenizer": source, **reached(sequences, indexing, config.evaluate)}
    return found


def held_out_tell(
    config: WithIdentifiers, sequences: UserSequences, names: Names | None, indexing: Indexing
) -> bool | None:
    """Whether the codes of the items are others where other users have the held-out items.

    They are made again, after the last two items of all users have changed hands. None for items
    that are not written by codes.
    """
    if indexing.codes is None:
        return None

    def made(sequences: UserSequences) -> Int[np.ndarray, "N levels"]:
        vectors = code_vectors(config, sequences, names)
        return deal_codes(sequences.n_items, vectors, config.indexing_seed)

    again = made(exchanged(sequences, SEED))
    if np.array_equal(again, indexing.codes):
        return False
    # A run from another machine may have been dealt other codes, for the rounding of its SVD.
    return not np.array_equal(again, made(sequences))


def exchanged(sequences: UserSequences, seed: int) -> UserSequences:
    """The same users, but the held-out items of all of them are dealt out anew, by chance."""
    ends = sequences.offsets[1:]
    held_out = np.concatenate([ends - 1, ends - 2])
    items = sequences.items.copy()
    items[held_out] = np.random.default_rng([seed, 0xE8]).permutation(items[held_out])
    return dataclasses.replace(sequences, items=items)


def audit_numbering(
    sequences: UserSequences, indexing: Indexing, table: TokenTable, told: bool | None = None
) -> dict[str, Any]:
    """What is found about a numbering, over all users of the test split, ready for JSON.

    A code is looked at as a number whose digits are its symbols.

    Args:
        sequences: the dataset.
        indexing: its users' and items' numbers.
        table: the tokens of the items' names.
        told: what `held_out_tell` says of its codes.
    """
    written = Written(
        indexing.user_numbers,
        indexing.item_numbers,
        telling_pieces(table.item_tokens, table.item_lengths),
    )
    examples = next_item_examples(sequences, TEST_HOLDOUT)
    cold = training_counts(sequences) == 0
    # Titles stand in the log's catalogue: what they tell of an item is not the numbering's doing.
    dealt = without_pieces(written) if indexing.item_texts else written
    tests = {"any numbering": against_any_numbering(dealt, examples, SEED)}
    # What a text tells of an item without interactions no test tells from what these would.
    if indexing.codes is None or indexing.kind not in TEXT_KINDS:
        test = against_training_numbering(dealt, examples, cold, SEED)
        tests[TRAINING] = test
    found = {
        "dataset": sequences.name,
        "indexing": indexing.kind,
        "statistics": statistics(sequences),
        "test": test_items(written, examples, cold),
        "tests": {name: test and dataclasses.asdict(test) for name, test in tests.items()},
        "verdict": "leaks" if told else verdict(tests["any numbering"], tests.get(TRAINING)),
        "codes tell held-out items": told,
    }
    return found | {"sentence": sentence(found)}


def reached(
    sequences: UserSequences, indexing: Indexing, evaluate: EvaluateConfig
) -> dict[str, Any]:
    """What the baselines reach on the test split, under the rule that a run is evaluated by.

    Args:
        sequences: the dataset.
        indexing: of its items.
        evaluate: how long lists are, and whether items of the history are left out.

    Returns:
        `references`, the metrics of every baseline; `kNN`, its settings; `exclude_history`.
    """
    top_k, exclude = evaluate.top_k, evaluate.exclude_history
    examples = next_item_examples(sequences, TEST_HOLDOUT)
    settings = choose_settings(sequences, exclude_history=exclude)
    lists = reference_lists(sequences, examples, indexing.item_numbers, settings, top_k, exclude)
    plain = TransitionSettings(repeats=settings.repeats)
    for name, holdout in ((PLAIN, 2), (PLAIN_WITH_VALIDATION, 1)):
        lists[name] = transition_lists(sequences, examples, plain, top_k, holdout)
    figures = {name: metrics(ranked, examples.targets) for name, ranked in lists.items()}
    return {"references": figures, "kNN": str(settings), "exclude_history": exclude}


def statistics(sequences: UserSequences) -> dict[str, int | float]:
    """The paper's Table 2, and the longest history."""
    n = len(sequences.items)
    return {
        "users": sequences.n_users,
        "items": sequences.n_items,
        "interactions": n,
        "items a user": n / sequences.n_users,
        "users an item": n / sequences.n_items,
        "longest sequence": int(sequences.lengths.max()),
    }


def test_items(
    written: Written, examples: Examples, cold: Bool[np.ndarray, " N"]
) -> dict[str, float]:
    """Shares of all test users, and of the name pieces of their test items."""
    above = written.item_numbers[examples.targets] - largest_numbers(written.item_numbers, examples)
    rng = np.random.default_rng(SEED)
    targets = written.pieces[examples.targets]
    last = examples.items[examples.stops - 1]
    anything = rng.integers(len(written.pieces), size=len(examples))
    return {
        "in the history already": 1.0 - len(new_targets(examples)) / len(examples),
        "without a training interaction": float(cold[examples.targets].mean()),
        "largest number of the history + 1": float((above == 1).mean()),
        f"largest number + 1 to + {NEAR}": float(((above >= 1) & (above <= NEAR)).mean()),
        f"name pieces shared with {LAST}": float(
            shared_pieces(targets, written.pieces[last]).mean()
        ),
        f"name pieces shared with {ANYTHING}": float(
            shared_pieces(targets, written.pieces[anything]).mean()
        ),
    }


def without_pieces(written: Written) -> Written:
    """The numbers alone; the statistic of the name pieces is 0 of it, by chance too."""
    return dataclasses.replace(written, pieces=np.full((len(written.pieces), 1), -1, np.int32))


def sentence(found: dict[str, Any]) -> str:
    """The verdict in one sentence, with the bound that it was reached by."""
    if found["indexing"] == "title" and found["verdict"] == "clean":
        shares = [found["test"][f"name pieces shared with {item}"] for item in (LAST, ANYTHING)]
        return (
            f"No leak found in the numbers: {found['dataset']} is written by its titles, and the "
            "numbers behind some of them are dealt out by chance. A test item's title shares "
            f"{shares[0]:.2%} of its pieces with the last item's, {shares[1]:.2%} with any item's: "
            "what titles tell is for whoever wrote them to vouch for, since no test can say "
            "whether they knew the interactions."
        )
    numbers = f"the {writing(found['indexing'])} of {found['dataset']}"
    first, second = (found["tests"].get(name) for name in ("any numbering", TRAINING))
    told = found["codes tell held-out items"]
    if told:
        return (
            f"LEAK: {numbers} were made from held-out interactions too: they are others once the "
            "last two items of all users have changed hands."
        )
    if found["verdict"] == "tells" and told is not None:
        return codes_sentence(found, numbers, second)
    if found["verdict"] == "leaks":
        share = found["test"]["largest number of the history + 1"]
        return (
            f"LEAK: {numbers} know held-out interactions: {share:.2%} of the test items are the "
            f"largest number of the history + 1, and none of {PERMUTATIONS} shuffles of the "
            f"numbers of the {second['items']} items without training interactions tells as much "
            f"about who gets them (p ≤ {ALPHA})."
        )
    if found["verdict"] == "clean":
        p = "" if first is None else f"p = {first['p']:.3f}; "
        return (
            f"No leak found: {numbers} tell no more about the test items than numbers dealt out "
            f"by chance ({p}those are called otherwise in at most {2 * ALPHA:.1%} of all cases)."
        )
    if second is None:
        return (
            f"Unclear: {numbers} tell more about the test items than numbers dealt out by chance "
            f"(p ≤ {ALPHA}), and too few test items lack training interactions to say whether "
            "from held-out ones: trust them only if they were made from training interactions."
        )
    return (
        f"No leak found: {numbers} tell more about the test items than numbers dealt out by chance "
        f"(p ≤ {ALPHA}), as numbers made from training interactions do, but nothing of the "
        f"{second['items']} items that only held-out interactions know (p = {second['p']:.3f})."
    )


def codes_sentence(found: dict[str, Any], codes: str, second: dict[str, Any] | None) -> str:
    """Of codes that tell more than chance does, and yet do not leak."""
    text = (
        f"No leak found: {codes} tell more about the test items than codes dealt out by chance "
        f"(p ≤ {ALPHA}), as they are meant to; but made again after the last two items of all "
        "users have changed hands, every code is the same"
    )
    if second is not None:
        text += (
            f", and they tell nothing of the {second['items']} items that only held-out "
            f"interactions know (p = {second['p']:.3f})"
        )
    if found["indexing"] in TEXT_KINDS:
        text += "; what titles and attributes tell is for whoever wrote them to vouch for"
    return f"{text}."

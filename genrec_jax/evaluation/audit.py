"""The audit of a dataset and an indexing before training: does the numbering leak test items?

It reports statistics, baselines, and two permutation tests (leak.py), summarised in one sentence.
"""

import dataclasses
import logging
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from genrec_jax.core.errors import InputError
from genrec_jax.data.prepared import LogMetadata
from genrec_jax.data.sequences import TEST_EXCLUDES, Examples, UserSequences, next_item_examples
from genrec_jax.evaluation.leak import (
    ALPHA,
    NEAR,
    PERMUTATIONS,
    Numbering,
    against_any_numbering,
    against_training_numbering,
    informative_pieces,
    new_targets,
    shared_pieces,
    verdict,
)
from genrec_jax.evaluation.metrics import metrics
from genrec_jax.evaluation.transition_settings import choose_settings
from genrec_jax.identifiers.codes import assign_codes
from genrec_jax.identifiers.indexing import TEXT_KINDS, Indexing, describe_kind
from genrec_jax.identifiers.token_table import TokenTable, build_token_table
from genrec_jax.models import load_family
from genrec_jax.models.heuristics.baselines import TRANSITIONS, baseline_rankings, largest_numbers
from genrec_jax.models.heuristics.rankings import training_counts
from genrec_jax.models.heuristics.transitions import TransitionSettings, transition_rankings
from genrec_jax.models.run_config import EvaluateConfig, RunConfig, WithIdentifiers
from genrec_jax.runs.dataset import load_log_metadata, load_sequences
from genrec_jax.runs.identifiers import code_vectors, make_identifiers

log = logging.getLogger(__name__)


PLAIN = f"{TRANSITIONS}, not tuned"
PLAIN_WITH_VALIDATION = "… and validation items counted"
LAST, ANYTHING = "the last item", "a random item"
TRAINING = "training numbering"
SEED = 0  # seed of the permutations: fixed, so that a numbering always gets the same verdict


def audit(config: RunConfig) -> dict[str, Any]:
    """Audit the dataset and the indexing of a config; nothing is trained.

    Returns:
        What `audit_numbering` and `baseline_metrics` return, and the `tokenizer` used.

    Raises:
        InputError: the dataset cannot be read, the checkpoint is neither a folder nor a hub id, or
            the family reads no identifiers.
    """
    family = load_family(config.model.family)
    if not isinstance(config, WithIdentifiers):
        raise InputError(
            f"config.model.family: found {family.name}, which reads no identifiers that could "
            "leak, expected a family that reads them, as in configs/beauty.py"
        )
    sequences = load_sequences(config.data)
    folder, source = family.local_tokenizer(config)
    metadata = load_log_metadata(config.data)
    indexing, vocabulary = make_identifiers(config, sequences, metadata, folder)
    table = build_token_table(vocabulary, indexing.item_identifiers(), [])
    leak = codes_leak(config, sequences, metadata, indexing)
    result = audit_numbering(sequences, indexing, table, leak)
    result |= {"tokenizer": source, **baseline_metrics(sequences, indexing, config.evaluate)}
    return result


def codes_leak(
    config: WithIdentifiers,
    sequences: UserSequences,
    metadata: LogMetadata | None,
    indexing: Indexing,
) -> bool | None:
    """Test whether the items' codes depend on validation or test items.

    The codes are rebuilt after the last two items of all users have been randomly exchanged.

    Args:
        config: the run's config.
        sequences: the dataset.
        metadata: the log's titles and attributes, for codes from texts.
        indexing: the codes to test.

    Returns:
        Whether a code differs; None if the items' identifiers are not codes.
    """
    if indexing.codes is None:
        return None

    def make_codes(sequences: UserSequences) -> Int[np.ndarray, "N levels"]:
        vectors = code_vectors(config, sequences, metadata)
        return assign_codes(sequences.n_items, vectors, config.indexing_seed)

    rebuilt = make_codes(with_targets_exchanged(sequences, SEED))
    if np.array_equal(rebuilt, indexing.codes):
        return False
    # The SVD of a run from another machine may round differently, and so give other codes.
    return not np.array_equal(rebuilt, make_codes(sequences))


def with_targets_exchanged(sequences: UserSequences, seed: int) -> UserSequences:
    """Randomly exchange the validation and test items of all users."""
    ends = sequences.offsets[1:]
    targets = np.concatenate([ends - 1, ends - 2])
    items = sequences.items.copy()
    items[targets] = np.random.default_rng([seed, 0xE8]).permutation(items[targets])
    return dataclasses.replace(sequences, items=items)


def audit_numbering(
    sequences: UserSequences, indexing: Indexing, table: TokenTable, leak: bool | None = None
) -> dict[str, Any]:
    """Audit a numbering over all users of the test split.

    A code counts as a number whose digits are its symbols.

    Args:
        sequences: the dataset.
        indexing: the numbers of its users and items.
        table: the tokens of the items' identifiers.
        leak: the result of `codes_leak`.

    Returns:
        The findings as JSON values: `statistics`, `test` (shares over the test items), `tests` (the
        permutation tests), `verdict`, and the summary as `sentence`.
    """
    numbering = Numbering(
        indexing.user_numbers,
        indexing.item_numbers,
        informative_pieces(table.item_tokens, table.item_lengths),
    )
    examples = next_item_examples(sequences, TEST_EXCLUDES)
    cold = training_counts(sequences) == 0
    # Titles come from the log's catalogue: their information is not due to the numbering.
    tested = without_pieces(numbering) if indexing.item_texts else numbering
    tests = {"any numbering": against_any_numbering(tested, examples, SEED)}
    # No test can separate a text's information about a cold item from that of test interactions.
    if indexing.codes is None or indexing.kind not in TEXT_KINDS:
        tests[TRAINING] = against_training_numbering(tested, examples, cold, SEED)
    result = {
        "dataset": sequences.name,
        "indexing": indexing.kind,
        "statistics": statistics(sequences),
        "test": test_items(numbering, examples, cold),
        "tests": {name: test and dataclasses.asdict(test) for name, test in tests.items()},
        "verdict": "leaks" if leak else verdict(tests["any numbering"], tests.get(TRAINING)),
        "codes depend on test items": leak,
    }
    return result | {"sentence": sentence(result)}


def baseline_metrics(
    sequences: UserSequences, indexing: Indexing, evaluate: EvaluateConfig
) -> dict[str, Any]:
    """Evaluate the baselines on the test split, under the rules by which a run is evaluated.

    Args:
        sequences: the dataset.
        indexing: the numbers of its items.
        evaluate: the length of rankings, and whether items of the history are excluded.

    Returns:
        `references`, the metrics of every baseline; `kNN`, its settings; `exclude_history`.
    """
    top_k, exclude = evaluate.top_k, evaluate.exclude_history
    examples = next_item_examples(sequences, TEST_EXCLUDES)
    settings = choose_settings(sequences, exclude_history=exclude)
    numbers = indexing.item_numbers
    rankings = baseline_rankings(sequences, examples, numbers, settings, top_k, exclude)
    plain = TransitionSettings(repeats=settings.repeats)
    for name, n_excluded in ((PLAIN, 2), (PLAIN_WITH_VALIDATION, 1)):
        rankings[name] = transition_rankings(sequences, examples, plain, top_k, n_excluded)
    of_baselines = {name: metrics(ranked, examples.targets) for name, ranked in rankings.items()}
    return {"references": of_baselines, "kNN": str(settings), "exclude_history": exclude}


def statistics(sequences: UserSequences) -> dict[str, int | float]:
    """Return the statistics of the paper's Table 2, and the length of the longest sequence."""
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
    numbering: Numbering, examples: Examples, cold: Bool[np.ndarray, " N"]
) -> dict[str, float]:
    """Return shares over all test users, and over the pieces of their test items' identifiers."""
    numbers, pieces = numbering.item_numbers, numbering.pieces
    above = numbers[examples.targets] - largest_numbers(numbers, examples)
    targets = pieces[examples.targets]
    last = examples.items[examples.stops - 1]
    random = np.random.default_rng(SEED).integers(len(pieces), size=len(examples))
    return {
        "in the history already": 1.0 - len(new_targets(examples)) / len(examples),
        "without a training interaction": float(cold[examples.targets].mean()),
        "largest number of the history + 1": float((above == 1).mean()),
        f"largest number + 1 to + {NEAR}": float(((above >= 1) & (above <= NEAR)).mean()),
        f"name pieces shared with {LAST}": float(shared_pieces(targets, pieces[last]).mean()),
        f"name pieces shared with {ANYTHING}": float(shared_pieces(targets, pieces[random]).mean()),
    }


def without_pieces(numbering: Numbering) -> Numbering:
    """Return the numbers without pieces; the statistic of the pieces is then always 0."""
    return dataclasses.replace(numbering, pieces=np.full((len(numbering.pieces), 1), -1, np.int32))


def sentence(result: dict[str, Any]) -> str:
    """Summarise an audit in one sentence, with the error bound of its verdict."""
    if result["indexing"] == "title" and result["verdict"] == "no evidence":
        shares = [result["test"][f"name pieces shared with {item}"] for item in (LAST, ANYTHING)]
        return (
            f"No leak found in the numbers: the items of {result['dataset']} are identified by "
            "their titles, and the numbers after some of them are randomly assigned. A test item's "
            f"title shares {shares[0]:.2%} of its pieces with the last item's and {shares[1]:.2%} "
            "with a random item's. Whether the authors of the titles knew the interactions, no "
            "test can tell."
        )
    numbers = f"the {describe_kind(result['indexing'])} of {result['dataset']}"
    first, second = (result["tests"].get(name) for name in ("any numbering", TRAINING))
    codes_depend = result["codes depend on test items"]
    if codes_depend:
        return (
            f"LEAK: {numbers} depend on validation or test interactions: they differ after the "
            "last two items of all users are randomly exchanged."
        )
    if result["verdict"] == "informative" and codes_depend is not None:
        return codes_sentence(result, numbers, second)
    if result["verdict"] == "leaks":
        share = result["test"]["largest number of the history + 1"]
        return (
            f"LEAK: {numbers} carry information about validation or test interactions: {share:.2%} "
            "of the test items are the largest number of the history + 1, and none of "
            f"{PERMUTATIONS} permutations of the numbers of the {second['items']} items without "
            f"training interactions predicts their users as well (p ≤ {ALPHA})."
        )
    if result["verdict"] == "no evidence":
        p = "" if first is None else f"p = {first['p']:.3f}; "
        return (
            f"No leak found: {numbers} carry no more information about the test items than "
            f"randomly assigned numbers ({p}false alarm rate at most {2 * ALPHA:.1%})."
        )
    if second is None:
        return (
            f"Unclear: {numbers} carry more information about the test items than randomly "
            f"assigned numbers (p ≤ {ALPHA}), and too few test items lack training interactions to "
            "decide whether it comes from validation or test interactions. Trust them only if they "
            "were made from training interactions."
        )
    return (
        f"No leak found: {numbers} carry more information about the test items than randomly "
        f"assigned numbers (p ≤ {ALPHA}), as numbers made from training interactions do, but none "
        f"about the {second['items']} items without training interactions (p = {second['p']:.3f})."
    )


def codes_sentence(result: dict[str, Any], codes: str, second: dict[str, Any] | None) -> str:
    """Summarise the audit of codes that are informative and do not leak."""
    text = (
        f"No leak found: {codes} carry more information about the test items than randomly "
        f"assigned codes (p ≤ {ALPHA}), as intended, but all codes stay the same when the last two "
        "items of all users are randomly exchanged"
    )
    if second is not None:
        text += (
            f", and they carry none about the {second['items']} items without training "
            f"interactions (p = {second['p']:.3f})"
        )
    text += "."
    if result["indexing"] in TEXT_KINDS:
        text += (
            " Whether the authors of titles and attributes knew the interactions, no test can tell."
        )
    return text

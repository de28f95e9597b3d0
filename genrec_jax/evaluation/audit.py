"""The leakage audit of a dataset's item identifiers, which runs before any training.

It consists of dataset statistics, baselines, two permutation tests (leak.py), and a verdict.
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
    against_random_numbers,
    against_training_numbers,
    informative_tokens,
    new_targets,
    shared_tokens,
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
PLAIN_WITH_VALIDATION = "… with validation items counted"
LAST, ANY = "the last item", "a random item"
RANDOM, TRAINING = "randomly assigned numbers", "numbers from training interactions"
SEED = 0  # fixed seed of the permutations, so that an audit always gives the same verdict


def audit(config: RunConfig) -> dict[str, Any]:
    """Audit the item identifiers of a config's dataset and indexing without training a model.

    Args:
        config: the config of a run.

    Returns:
        The merged results of `audit_numbering` and `baseline_metrics`, and the `tokenizer` used.

    Raises:
        InputError: the dataset cannot be read, the checkpoint is neither a folder nor a hub id, or
            the model family reads no identifiers.
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
    codes_depend = codes_leak(config, sequences, metadata, indexing)
    result = audit_numbering(sequences, indexing, table, codes_depend)
    result |= {"tokenizer": source, **baseline_metrics(sequences, indexing, config.evaluate)}
    return result


def codes_leak(
    config: WithIdentifiers,
    sequences: UserSequences,
    metadata: LogMetadata | None,
    indexing: Indexing,
) -> bool | None:
    """Test whether the items' codes depend on validation or test items.

    The codes are rebuilt after randomly exchanging the last two items of all users.

    Args:
        config: the config of the run.
        sequences: the dataset.
        metadata: the log's titles and attributes, for codes from texts.
        indexing: the codes to test.

    Returns:
        Whether any code changes; None if the items' identifiers are not codes.
    """
    if indexing.codes is None:
        return None

    def make_codes(sequences: UserSequences) -> Int[np.ndarray, "N levels"]:
        vectors = code_vectors(config, sequences, metadata)
        return assign_codes(sequences.n_items, vectors, config.indexing_seed)

    rebuilt = make_codes(with_targets_exchanged(sequences, SEED))
    if np.array_equal(rebuilt, indexing.codes):
        return False
    # The codes of a run from another machine may differ because its SVD rounds differently.
    return not np.array_equal(rebuilt, make_codes(sequences))


def with_targets_exchanged(sequences: UserSequences, seed: int) -> UserSequences:
    """Return the dataset after randomly permuting all validation and test items among all users."""
    ends = sequences.offsets[1:]
    targets = np.concatenate([ends - 1, ends - 2])
    items = sequences.items.copy()
    items[targets] = np.random.default_rng([seed, 0xE8]).permutation(items[targets])
    return dataclasses.replace(sequences, items=items)


def audit_numbering(
    sequences: UserSequences,
    indexing: Indexing,
    table: TokenTable,
    codes_depend: bool | None = None,
) -> dict[str, Any]:
    """Audit the item identifiers over all users of the test split.

    A code is treated as a number whose digits are its symbols.

    Args:
        sequences: the dataset.
        indexing: the numbers of its users and items.
        table: the tokens of the items' identifiers.
        codes_depend: the result of `codes_leak`.

    Returns:
        JSON values: `statistics` of the dataset, `test` (shares over the test items), `tests` (the
        results of the permutation tests, None for a skipped one), `verdict`, and `sentence`, the
        verdict in words.
    """
    numbering = Numbering(
        indexing.user_numbers,
        indexing.item_numbers,
        informative_tokens(table.item_tokens, table.item_lengths),
    )
    examples = next_item_examples(sequences, TEST_EXCLUDES)
    cold = training_counts(sequences) == 0
    # The tokens of titles come from the log, so they are no evidence about the numbers.
    tested = without_tokens(numbering) if indexing.item_texts else numbering
    tests = {RANDOM: against_random_numbers(tested, examples, SEED)}
    # Texts may be informative about cold items without any leak, so test 2 does not apply to them.
    if indexing.codes is None or indexing.kind not in TEXT_KINDS:
        tests[TRAINING] = against_training_numbers(tested, examples, cold, SEED)
    result = {
        "dataset": sequences.name,
        "indexing": indexing.kind,
        "statistics": statistics(sequences),
        "test": test_items(numbering, examples, cold),
        "tests": {name: test and dataclasses.asdict(test) for name, test in tests.items()},
        "verdict": "leaks" if codes_depend else verdict(tests[RANDOM], tests.get(TRAINING)),
        "codes depend on test items": codes_depend,
    }
    return result | {"sentence": verdict_sentence(result)}


def baseline_metrics(
    sequences: UserSequences, indexing: Indexing, evaluate: EvaluateConfig
) -> dict[str, Any]:
    """Evaluate the baselines on the test split in the same way as a run.

    Args:
        sequences: the dataset.
        indexing: the numbers of its items.
        evaluate: the length of the rankings, and whether items of the history are excluded.

    Returns:
        `references`, the metrics of every baseline by its name; `kNN`, the selected settings of the
        kNN as text; `exclude_history`.
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
    """Return the dataset statistics of the paper's Table 2, and the longest sequence."""
    n = len(sequences.items)
    return {
        "users": sequences.n_users,
        "items": sequences.n_items,
        "interactions": n,
        "items per user": n / sequences.n_users,
        "users per item": n / sequences.n_items,
        "longest sequence": int(sequences.lengths.max()),
    }


def test_items(
    numbering: Numbering, examples: Examples, cold: Bool[np.ndarray, " N"]
) -> dict[str, float]:
    """Return shares of all test users, and mean shares of their test items' tokens.

    Args:
        numbering: the numbers of users and items, and the tokens of the items' identifiers.
        examples: the examples of the test split.
        cold: True for the items without training interactions.
    """
    numbers, tokens = numbering.item_numbers, numbering.tokens
    above = numbers[examples.targets] - largest_numbers(numbers, examples)
    targets = tokens[examples.targets]
    last = examples.items[examples.stops - 1]
    random = np.random.default_rng(SEED).integers(len(tokens), size=len(examples))
    return {
        "already in the history": 1.0 - len(new_targets(examples)) / len(examples),
        "without training interactions": float(cold[examples.targets].mean()),
        "largest number of the history + 1": float((above == 1).mean()),
        f"largest number + 1 to + {NEAR}": float(((above >= 1) & (above <= NEAR)).mean()),
        f"tokens shared with {LAST}": float(shared_tokens(targets, tokens[last]).mean()),
        f"tokens shared with {ANY}": float(shared_tokens(targets, tokens[random]).mean()),
    }


def without_tokens(numbering: Numbering) -> Numbering:
    """Return the numbers without tokens, so that the statistic of shared tokens is always 0."""
    return dataclasses.replace(numbering, tokens=np.full((len(numbering.tokens), 1), -1, np.int32))


def verdict_sentence(result: dict[str, Any]) -> str:
    """Describe the verdict of an audit in words, with its p-values.

    Args:
        result: the result of `audit_numbering` without its `sentence`.
    """
    dataset, test = result["dataset"], result["test"]
    if result["indexing"] == "title" and result["verdict"] == "no evidence":
        shared = {item: test[f"tokens shared with {item}"] for item in (LAST, ANY)}
        return (
            f"No evidence of leakage in the numbers: the items of {dataset} are identified by "
            "their titles, and the numbers that are appended to some titles are randomly assigned. "
            f"On average, a test item's title shares {shared[LAST]:.2%} of its tokens with the "
            f"title of the history's last item and {shared[ANY]:.2%} with that of a random item. "
            "Whether the titles were written with knowledge of the interactions cannot be tested."
        )
    numbers = f"the {describe_kind(result['indexing'])} of {dataset}"
    first, second = (result["tests"].get(name) for name in (RANDOM, TRAINING))
    codes_depend = result["codes depend on test items"]
    if codes_depend:
        return (
            f"LEAK: {numbers} depend on validation or test interactions: they change when the "
            "last two items of all users are randomly exchanged."
        )
    if result["verdict"] == "informative" and codes_depend is not None:
        return codes_sentence(result, numbers, second)
    if result["verdict"] == "leaks":
        share = test["largest number of the history + 1"]
        return (
            f"LEAK: {numbers} carry information about validation or test interactions: {share:.2%} "
            "of the test items have the largest number of the user's history + 1, and the numbers "
            f"of the {second['items']} items without training interactions are more strongly "
            f"associated with the items' test users than any of {PERMUTATIONS} random permutations "
            f"of these numbers (p ≤ {ALPHA})."
        )
    if result["verdict"] == "no evidence":
        p = "" if first is None else f"p = {first['p']:.3f}; "
        return (
            f"No evidence of leakage: {numbers} carry no more information about the test items "
            f"than randomly assigned numbers ({p}false alarm rate at most {2 * ALPHA:.1%})."
        )
    if second is None:
        return (
            f"Inconclusive: {numbers} carry more information about the test items than randomly "
            f"assigned numbers (p ≤ {ALPHA}), and too few test items lack training interactions to "
            "test whether this information comes from validation or test interactions. Trust them "
            "only if they were assigned from training interactions."
        )
    return (
        f"No evidence of leakage: {numbers} carry more information about the test items than "
        f"randomly assigned numbers (p ≤ {ALPHA}), as expected of numbers assigned from training "
        f"interactions, but none was detected about the {second['items']} items without training "
        f"interactions (p = {second['p']:.3f})."
    )


def codes_sentence(result: dict[str, Any], codes: str, second: dict[str, Any] | None) -> str:
    """Describe the verdict on codes that are informative and do not leak.

    Args:
        result: the result of `audit_numbering` without its `sentence`.
        codes: the phrase for the codes.
        second: the result of test 2; None if it was skipped.
    """
    text = (
        f"No evidence of leakage: {codes} carry more information about the test items than "
        f"randomly assigned codes (p ≤ {ALPHA}), as intended, but all codes stay the same when the "
        "last two items of all users are randomly exchanged"
    )
    if second is not None:
        text += (
            f", and no information about the {second['items']} items without training "
            f"interactions was detected (p = {second['p']:.3f})"
        )
    text += "."
    if result["indexing"] in TEXT_KINDS:
        text += (
            " Whether titles and attributes were written with knowledge of the interactions cannot "
            "be tested."
        )
    return text

"""A dataset and an indexing, looked at before anything is trained: does the numbering leak?

Statistics, lines to beat, and two permutation tests (measures/leak.py), which end in one sentence.
"""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import try_to_load_from_cache
from jaxtyping import Bool

from genrec_jax.config import Config
from genrec_jax.data.sequences import TEST_HOLDOUT, Examples, UserSequences, next_item_examples
from genrec_jax.experiment import load_names, load_sequences, make_names
from genrec_jax.identifiers.indexing import Indexing
from genrec_jax.identifiers.token_table import TokenTable, build_token_table
from genrec_jax.measures.leak import (
    ALPHA,
    LABELS,
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
from genrec_jax.measures.lists import training_counts
from genrec_jax.measures.metrics import metrics
from genrec_jax.measures.references import TRANSITIONS, largest_numbers, reference_lists
from genrec_jax.measures.report import format_table
from genrec_jax.measures.transitions import TransitionSettings, choose_settings, transition_lists
from genrec_jax.model.hub import BART_BASE, checkpoint_folder

log = logging.getLogger(__name__)


PLAIN = f"{TRANSITIONS}, not tuned"
PLAIN_WITH_VALIDATION = "… and validation items counted"
LAST, ANYTHING = "the last item", "a random item"
SEED = 0  # of the permutations: the same numbering is always judged alike


def audit(config: Config) -> dict[str, Any]:
    """Audit what a config describes, before anything is trained, and print it.

    Returns:
        What `audit_numbering` and `reached` return, and `tokenizer`, the one that was used.

    Raises:
        InputError: a dataset that cannot be read, or a checkpoint that is no folder or hub id.
    """
    sequences = load_sequences(config.data)
    folder, source = tokenizer_at_hand(config)
    indexing, vocabulary = make_names(config, sequences, load_names(config.data), folder)
    table = build_token_table(vocabulary, indexing.item_names(), [])
    found = audit_numbering(sequences, indexing, table)
    found |= {"tokenizer": source, **reached(sequences, indexing, config.evaluate.top_k)}
    log.info("%s", audit_text(found))
    return found


def tokenizer_at_hand(config: Config) -> tuple[Path | None, str]:
    """The folder of the run's tokenizer, and which one that is; nothing is downloaded for it.

    None for one trained on the names. That takes the place of BART's where its files are not on
    this machine: the name pieces are others then, the numbers are the same.
    """
    pretrained = config.model.pretrained
    if not pretrained:
        return None, "trained on the names"
    if folder := _folder_at_hand(pretrained):
        return folder, pretrained
    return None, f"trained on the names, since {pretrained} is not on this machine"


def _folder_at_hand(pretrained: str) -> Path | None:
    given = pretrained == BART_BASE and os.environ.get("GENREC_BART_DIR")
    is_hub_id = pretrained.count("/") == 1 and not pretrained.startswith((".", "/", "~"))
    if given or not is_hub_id or Path(pretrained).is_dir():
        return checkpoint_folder(pretrained)
    cached = try_to_load_from_cache(pretrained, "vocab.json")
    return Path(cached).parent if isinstance(cached, str) else None


def audit_numbering(
    sequences: UserSequences, indexing: Indexing, table: TokenTable
) -> dict[str, Any]:
    """What is found about a numbering, over all users of the test split, ready for JSON.

    Args:
        sequences: the dataset.
        indexing: its users' and items' numbers.
        table: the tokens of the items' names.
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
    tests = {
        "any numbering": against_any_numbering(dealt, examples, SEED),
        "training numbering": against_training_numbering(dealt, examples, cold, SEED),
    }
    found = {
        "dataset": sequences.name,
        "indexing": indexing.kind,
        "statistics": statistics(sequences),
        "test": test_items(written, examples, cold),
        "tests": {name: test and dataclasses.asdict(test) for name, test in tests.items()},
        "verdict": verdict(*tests.values()),
    }
    return found | {"sentence": sentence(found)}


def reached(sequences: UserSequences, indexing: Indexing, top_k: int) -> dict[str, Any]:
    """`references`, the figures of every line to beat on the test split; `kNN`, its settings."""
    examples = next_item_examples(sequences, TEST_HOLDOUT)
    settings = choose_settings(sequences)
    lists = reference_lists(sequences, examples, indexing.item_numbers, settings, top_k)
    plain = TransitionSettings(repeats=settings.repeats)
    for name, holdout in ((PLAIN, 2), (PLAIN_WITH_VALIDATION, 1)):
        lists[name] = transition_lists(sequences, examples, plain, top_k, holdout)
    figures = {name: metrics(ranked, examples.targets) for name, ranked in lists.items()}
    return {"references": figures, "kNN": str(settings)}


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
    numbers = f"the {found['indexing']} numbers of {found['dataset']}"
    first, second = (found["tests"][name] for name in ("any numbering", "training numbering"))
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


def audit_text(found: dict[str, Any]) -> str:
    """What --mode=audit prints; the sentence comes last."""
    written = "titles" if found["indexing"] == "title" else f"{found['indexing']} numbers"
    lines = [f"{found['dataset']}, {written}"]
    if "tokenizer" in found:
        lines[0] += f", tokenizer {found['tokenizer']}"
    lines += ["", "the dataset"]
    lines += [
        _line(name, f"{value:,.4g}" if value % 1 else f"{value:,}")
        for name, value in found["statistics"].items()
    ]
    lines += ["", "the test items"]
    lines += [_line(name, f"{value:.2%}") for name, value in found["test"].items()]
    title = f"test, {found['statistics']['users']} users"
    lines += ["", format_table(found["references"], title), f"kNN: {found['kNN']}"]
    for name, test in found["tests"].items():
        lines += ["", *_test_lines(name, test)]
    return "\n".join([*lines, "", found["sentence"]])


def _line(name: str, value: str) -> str:
    return f"  {name:<40} {value:>10}"


def _test_lines(name: str, test: dict[str, Any] | None) -> list[str]:
    if test is None:
        return [f"against {name}: not possible, too few test items to look at"]
    lines = [
        f"against {name}: the numbers of {test['items']:,} items dealt anew {PERMUTATIONS} times, "
        f"{test['users']:,} users, p = {test['p']:.3f}",
        f"  {'':40} {'found':>10} {'by chance':>10} {'z':>8}",
    ]
    for statistic, label in LABELS.items():
        found, chance = (f"{test[key][statistic]:.4f}" for key in ("observed", "by_chance"))
        lines.append(f"{_line(label, found)} {chance:>10} {test['z'][statistic]:>8.1f}")
    return lines

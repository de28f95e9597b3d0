"""Every key of a run's config: its type, its default, what it means; checked as a whole.

The defaults are the paper's recipe (section 7.1) on the synthetic dataset. `configs/*.py` change
what differs, and `--config.key=value` changes a key for one run. The keys of `config.model` depend
on the model family: the `config.py` of its package in `models/`.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genrec_jax.core.config_fields import build, expect_one_of, flat
from genrec_jax.core.errors import InputError
from genrec_jax.identifiers.indexing import KINDS
from genrec_jax.models import DEFAULT, FAMILIES, config_class

DATASETS = ("synthetic", "beauty", "sports", "yelp", "file")
INDEXINGS = KINDS
SEARCHES = ("constrained", "free", "exhaustive")


@dataclass(frozen=True)
class DataConfig:
    name: str = "synthetic"  # one of DATASETS
    dir: str = ""  # folder of the named datasets' files; "": GENREC_DATA_DIR, cache, download
    # With name=file: a folder that `python -m genrec_jax prepare` or `to-tfds` wrote, or a sequence
    # file of your own, `user item item …` a line.
    file: str = ""
    synthetic_users: int = 10000
    synthetic_items: int = 100
    synthetic_seed: int = 0
    # So many items are taken off the end of every sequence before anything else. 1: the test target
    # is what else is the validation target, so that settings can be chosen by it.
    drop_last: int = 0
    buckets: int = 8  # shapes that batches are padded to, at most


@dataclass(frozen=True)
class CodesConfig:
    """How items get vectors and so codes, where `indexing` is one of CODE_KINDS."""

    dims: int = 64  # of the vectors
    window: int = 5  # collaborative: places between two items that are together, at most
    text_weight: float = 0.3  # combined: the share of titles and attributes in a cosine


@dataclass(frozen=True)
class PhaseConfig:
    epochs: int = 10
    max_steps: int = 0  # stop the phase (and its schedule) after so many steps; 0: no limit
    batch_size: int = 16
    # Parts that a batch is computed in, one after the other, for the memory of one part: the same
    # step to float tolerance (but for dropout, which each part draws anew). Divides batch_size.
    accumulate: int = 1
    learning_rate: float = 1e-5
    weight_decay: float = 1e-5
    warmup: float = 0.05  # share of the steps
    clip_norm: float = 5.0
    # What AdamW keeps its mean of gradients in; bfloat16 saves 2 of 16 bytes a parameter.
    first_moment: str = "float32"
    validate_every_epochs: int = 1  # 0: only at the end of the phase
    validate_every_steps: int = 0  # if not 0, instead of epochs


@dataclass(frozen=True)
class FinetuneConfig(PhaseConfig):
    epochs: int = 25
    # Items hidden at the end of each sequence; the last of the rest is the target. 2: the last
    # item of the training part. 1: the validation target, as the paper's text also allows.
    holdout: int = 2
    # last: the one target, at a mask (the paper). Beyond the paper, without a mask, by an encoder
    # that looks back only: prefixes: each item of the sequence but the first, by those before it
    # as a sequence of their own; every: the same in one pass over the whole sequence.
    targets: str = "last"


@dataclass(frozen=True)
class EvaluateConfig:
    # constrained: beams over the trie of the catalogue. free: beams over the vocabulary, token for
    # token what `transformers` writes. exhaustive: the exact probability of every item.
    search: str = "constrained"
    beams: int = 20
    top_k: int = 20
    # Scores are divided by (tokens of the name) ** this; for the family genrec.
    length_penalty: float = 0.0
    exclude_history: bool = False  # leave out the items of the user's history; the paper does not
    exact_users: int = 0  # of so many of the users, what beam search misses of the exact lists
    batch_size: int = 32
    # Test users, a sample that is the same whatever the seed; 0: all.
    users: int = 0
    validation_users: int = 3000  # the same for validation


@dataclass(frozen=True)
class Config:
    data: DataConfig = field(default_factory=DataConfig)
    indexing: str = "published"  # one of INDEXINGS; identifiers/indexing.py says what each tells
    indexing_seed: int = 0  # of all but published
    # With indexing=title: tokens of a name at most, cut behind a whole word; a number that tells
    # items of the same name apart comes on top.
    title_tokens: int = 12
    codes: CodesConfig = field(default_factory=CodesConfig)
    model: Any = field(default_factory=config_class(DEFAULT))  # of the family in its key `family`
    pretrain: PhaseConfig = field(default_factory=PhaseConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    seed: int = 0
    # Training steps that the device makes before the host is asked again, from 1 to 8 (and never
    # more than log_every_steps). The result is the same bit for bit. A GPU saves the host's time
    # for each step of a small batch, a CPU that of fresh memory; a signal waits for the call.
    steps_per_call: int = 8
    # Keep only what goes into each layer for the backward pass and compute the rest again: less
    # memory, a third more arithmetic.
    rematerialise: bool = False
    # Devices that share one copy of the two id tables and of their optimizer moments, each with its
    # part of the width, for tables that one device has no memory for. Divides the width and the
    # number of devices. Every device computes its share of each batch, whatever this is.
    model_parallel: int = 1
    profile: bool = False  # a trace of a few steps of each phase into the run's folder `profile`
    log_every_steps: int = 50
    # Checkpoints besides those at validations: after so many steps, after so many minutes, or both;
    # 0: none. A run that is killed loses what came after the last one.
    checkpoint_every_steps: int = 0
    checkpoint_every_minutes: float = 10.0
    # The latest so many are kept, and with each the best by validation that it knows. With one,
    # there is none to go back to where that is damaged.
    keep_checkpoints: int = 2

    @classmethod
    def of_family(cls, family: str) -> "Config":
        """The defaults with a family's keys of `model`."""
        return cls(model=config_class(family)())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """From nested mappings that hold every key, checked as a whole.

        Raises:
            InputError: an unknown, missing or ill-typed key, or values that do not fit together.
        """
        config = build(cls.of_family(family_of(values)), values)
        _check(config)
        return config

    def searching(self, evaluate: EvaluateConfig) -> "Config":
        """The same with another search, checked as a whole; raises InputError."""
        config = dataclasses.replace(self, evaluate=evaluate)
        _check(config)
        return config

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"


def family_of(values: Mapping[str, Any]) -> str:
    """The model family that nested mappings are the config of.

    Raises:
        InputError: they name none, or one that does not exist.
    """
    model = values.get("model")
    if not isinstance(model, Mapping) or "family" not in model:
        raise InputError("config.model.family: found none, expected one of " + _words(FAMILIES))
    expect_one_of("config.model.family", model["family"], FAMILIES)
    return model["family"]


def check_variant(found: str, expected: tuple[str, ...]) -> None:
    """For `get_config(variant)` of a config file; the empty variant is the file as it stands."""
    if found and found not in expected:
        known = f"one of {_words(expected)}" if expected else "none: this config has no variants"
        raise InputError(f"--config: no variant {found!r}, expected {known}")


def _check(config: Config) -> None:
    one_of = {
        "config.data.name": (config.data.name, DATASETS),
        "config.indexing": (config.indexing, INDEXINGS),
        "config.evaluate.search": (config.evaluate.search, SEARCHES),
        "config.finetune.holdout": (config.finetune.holdout, (1, 2)),
        "config.finetune.targets": (config.finetune.targets, ("last", "prefixes", "every")),
        "config.steps_per_call": (config.steps_per_call, (1, 2, 3, 4, 5, 6, 7, 8)),
        **{
            f"config.{name}.first_moment": (phase.first_moment, ("float32", "bfloat16"))
            for name, phase in (("pretrain", config.pretrain), ("finetune", config.finetune))
        },
    }
    for key, (found, allowed) in one_of.items():
        expect_one_of(key, found, allowed)
    for key, value in flat(config.to_dict()).items():
        word = key.rsplit(".", 1)[-1]
        if word in _AT_LEAST and value < _AT_LEAST[word]:
            raise InputError(f"{key}: found {value}, expected at least {_AT_LEAST[word]}")
        if word in _SHARES and not 0 <= value < 1:
            raise InputError(f"{key}: found {value}, expected a share from 0 to below 1")
        if word in _POSITIVE and value <= 0:
            raise InputError(f"{key}: found {value}, expected a number above 0")
    _check_together(config)


# By the last word of the key.
_AT_LEAST = {
    **dict.fromkeys(
        ("synthetic_users", "buckets", "d_model", "encoder_layers", "decoder_layers", "window"), 1
    ),
    **dict.fromkeys(
        ("layers", "attention_heads", "ffn_dim", "batch_size", "beams", "top_k", "log_every_steps"),
        1,
    ),
    **dict.fromkeys(("epochs", "max_steps", "validate_every_epochs", "validate_every_steps"), 0),
    **dict.fromkeys(("users", "validation_users", "exact_users", "drop_last"), 0),
    **dict.fromkeys(("checkpoint_every_steps", "checkpoint_every_minutes"), 0),
    **dict.fromkeys(("weight_decay", "length_penalty", "temperature"), 0),
    **dict.fromkeys(("seed", "indexing_seed", "synthetic_seed"), 0),
    "accumulate": 1,
    "model_parallel": 1,
    "keep_checkpoints": 1,
    "frequencies": 1,
    "synthetic_items": 20,
    "title_tokens": 8,
    "dims": 2,
    "max_tokens": 16,
    "max_items": 8,
    "vocab_size": 32,
}
_SHARES = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "user_dropout",
    "low_pass",
    "warmup",
    "text_weight",
)
_POSITIVE = ("learning_rate", "clip_norm", "init_std")


def _check_together(config: Config) -> None:
    evaluate, data = config.evaluate, config.data
    config.model.check_run(config)
    check_evaluate(evaluate)
    for name, phase in (("pretrain", config.pretrain), ("finetune", config.finetune)):
        if phase.batch_size % phase.accumulate:
            raise InputError(
                f"config.{name}.accumulate: found {phase.accumulate}, expected a divisor of "
                f"config.{name}.batch_size = {phase.batch_size}"
            )
    if evaluate.top_k < 10:
        raise InputError(
            f"config.evaluate.top_k: found {evaluate.top_k}, expected at least 10, since the best "
            "checkpoint is chosen by NDCG@10"
        )
    if (data.name == "file") != bool(data.file):
        found = f"name={data.name!r}, file={data.file!r}"
        raise InputError(f"config.data: found {found}, expected a file just where name is 'file'")
    if config.indexing == "title" and data.name != "file":
        raise InputError(
            f"config.indexing: found 'title' with data.name={data.name!r}, which has no titles, "
            "expected data.name='file' and a prepared dataset that has some"
        )
    if data.synthetic_users > 10_000_000:
        raise InputError(
            f"config.data.synthetic_users: found {data.synthetic_users}, expected at most 10000000"
        )
    if config.pretrain.epochs == 0 and config.finetune.epochs == 0:
        raise InputError("config.finetune.epochs: found 0 in both phases, expected one to train")


def check_evaluate(evaluate: EvaluateConfig) -> None:
    """Raises InputError for a search that does not exist or cannot give such lists."""
    expect_one_of("config.evaluate.search", evaluate.search, SEARCHES)
    if evaluate.search != "exhaustive" and evaluate.top_k > evaluate.beams:
        raise InputError(
            f"config.evaluate.top_k: found {evaluate.top_k}, expected at most "
            f"config.evaluate.beams = {evaluate.beams}"
        )
    if evaluate.search == "free" and evaluate.exclude_history:
        raise InputError(
            "config.evaluate.exclude_history: found True with evaluate.search = free, expected "
            "constrained or exhaustive, which know the catalogue"
        )


def _words(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))

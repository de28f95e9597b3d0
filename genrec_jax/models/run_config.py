"""The config of a run: keys that all model families share, and groups of keys for some families.

`RunConfig` has the keys that all families read. A family's `config.py` extends it to its class
`Config`, with the family's keys of `config.model` and the groups of keys that it reads. A key
exists only in families where it has an effect. The defaults of a family's `Config` are a complete
recipe. `configs/*.py` override keys for a dataset, and `--config.KEY=VALUE` overrides a key for a
run.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from genrec_jax.core.config_fields import at_least, check_fields, one_of, positive, share
from genrec_jax.core.errors import InputError
from genrec_jax.identifiers.indexing import KINDS

DATASETS = ("synthetic", "beauty", "sports", "yelp", "file")
MOST_SYNTHETIC_USERS = 10_000_000


@dataclass(frozen=True)
class DataConfig:
    """The dataset and how its batches are padded."""

    name: str = one_of(DATASETS, "synthetic")
    # Folder of the files of beauty, sports and yelp. "": GENREC_DATA_DIR if set, else the cache,
    # into which missing files are downloaded.
    dir: str = ""
    # With name=file: a folder written by `python -m genrec_jax prepare` or `to-tfds`, or a sequence
    # file with a line `user item item …` per user.
    file: str = ""
    # With name=synthetic: the number of users and items, and the seed of the sequences.
    synthetic_users: int = at_least(1, 10000)
    synthetic_items: int = at_least(20, 100)
    synthetic_seed: int = at_least(0, 0)
    # Shift the leave-one-out split: remove this many items from the end of every sequence first.
    # With 1, the test item is the usual validation item, so that settings can be tuned on it.
    drop_last: int = at_least(0, 0)
    buckets: int = at_least(1, 8)  # most lengths that batches are padded to


@dataclass(frozen=True)
class CodesConfig:
    """Item vectors, and the codes made from them if `indexing` is one of CODE_KINDS."""

    dims: int = at_least(2, 64)  # dimensions of the item vectors
    # collaborative: the largest distance in a sequence at which two items count as co-occurring.
    window: int = at_least(1, 5)
    text_weight: float = share(0.3)  # combined: weight of titles and attributes in the cosine


@dataclass(frozen=True)
class PhaseConfig:
    """The keys of a training phase: pretraining or finetuning."""

    epochs: int = at_least(0, 10)  # 0: skip the phase
    # End the phase and its learning rate schedule after this many steps; 0: no limit.
    max_steps: int = at_least(0, 0)
    batch_size: int = at_least(1, 16)
    # Gradient accumulation: a batch is computed in this many parts, one after another, in the
    # memory of one part. The step is the same to float tolerance, except that dropout is drawn per
    # part. Must divide batch_size.
    accumulate: int = at_least(1, 1)
    learning_rate: float = positive(1e-5)
    weight_decay: float = at_least(0, 1e-5)
    warmup: float = share(0.05)  # share of the phase's steps with a rising learning rate
    clip_norm: float = positive(5.0)  # largest global norm of the gradient
    # Dtype of AdamW's first moment; bfloat16 saves 2 of 16 bytes per parameter.
    first_moment: str = one_of(("float32", "bfloat16"), "float32")
    validate_every_epochs: int = at_least(0, 1)  # 0: only at the end of the phase
    validate_every_steps: int = at_least(0, 0)  # if not 0, instead of epochs


@dataclass(frozen=True)
class FinetuneConfig(PhaseConfig):
    """The keys of finetuning, which predicts the next item."""

    epochs: int = at_least(0, 25)
    # Also train on the validation item of every user, another reading of the paper's text. Then
    # validation metrics are not meaningful, and the kNN ensemble's weight cannot be tuned.
    include_validation_item: bool = False

    @property
    def n_excluded(self) -> int:
        """The number of items at the end of each sequence that finetuning does not use."""
        return 1 if self.include_validation_item else 2

    @property
    def uses_prefixes(self) -> bool:
        """Whether every prefix of a sequence is a separate training example."""
        return False


# The values of `finetune.targets` in version 0.1 → the current values.
RENAMED_TARGETS = {
    "last": "last_only",
    "prefixes": "prefix_augmentation",
    "every": "all_positions",
}


@dataclass(frozen=True)
class TargetsConfig(FinetuneConfig):
    """The keys of finetuning for families with several choices of training targets.

    last_only: only the last item of the training part, predicted at a mask, as in the paper.
    prefix_augmentation: every item but the first, each as a separate example with the items before
        it as history.
    all_positions: the same targets in one pass over the sequence, with a causal encoder.
    """

    targets: str = one_of(
        ("last_only", "prefix_augmentation", "all_positions"),
        "prefix_augmentation",
        RENAMED_TARGETS,
    )

    @property
    def uses_prefixes(self) -> bool:
        return self.targets == "prefix_augmentation"


class SearchSettings(NamedTuple):
    """How the top-k items are searched."""

    search: str = "exhaustive"
    beams: int = 0  # 0: no beam search
    length_penalty: float = 0.0
    exact_users: int = 0  # users whose beam search is compared with exhaustive search


@dataclass(frozen=True)
class EvaluateConfig:
    """The keys of validation, test and recommendation, for families that score every item."""

    top_k: int = at_least(1, 20)  # items of a ranking
    exclude_history: bool = False  # never rank items of the user's history; the paper ranks them
    batch_size: int = at_least(1, 32)
    # Number of test users, a sample that does not depend on the seed; 0: all.
    users: int = at_least(0, 0)
    # Number of validation users, a sample that does not depend on the seed; 0: all.
    validation_users: int = at_least(0, 3000)

    def search_settings(self) -> SearchSettings:
        """Return the search; exhaustive for families without other searches."""
        return SearchSettings()

    def check(self) -> None:
        """Check the values and their combinations.

        Raises:
            InputError: a value or a combination of values is not allowed.
        """
        check_fields(self, "config.evaluate")


@dataclass(frozen=True)
class BeamConfig(EvaluateConfig):
    """The keys of validation, test and recommendation, for families that generate identifiers."""

    # constrained: beam search over the catalogue's trie. exhaustive: the exact probability of every
    # item.
    search: str = one_of(("constrained", "exhaustive"), "constrained")
    beams: int = at_least(1, 20)  # the beam width
    exact_users: int = at_least(0, 0)  # users whose beam search is compared with exhaustive search

    def search_settings(self) -> SearchSettings:
        return SearchSettings(self.search, self.beams, exact_users=self.exact_users)

    def check(self) -> None:
        super().check()
        if self.search != "exhaustive" and self.top_k > self.beams:
            raise InputError(
                f"config.evaluate.top_k: found {self.top_k}, expected at most "
                f"config.evaluate.beams = {self.beams}"
            )
        if self.search == "exhaustive" and self.exact_users:
            raise InputError(
                f"config.evaluate.exact_users: found {self.exact_users} with evaluate.search = "
                "exhaustive, whose rankings are already exact, expected 0"
            )


@dataclass(frozen=True)
class RunConfig:
    """The keys of every family's config."""

    file: ClassVar[str] = ""  # FILE[:variant] of a shipped config of the family, for messages

    model: Any  # the family's ModelConfig, with the family's name in its key `family`
    data: DataConfig = field(default_factory=DataConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    seed: int = at_least(0, 0)
    # Training steps per dispatch, from 1 to 8 and at most log_every_steps: the number of steps that
    # the device runs before it returns to the host. The result is bit for bit the same. Larger
    # values save host time per step on a GPU with small batches, and memory allocation on a CPU.
    # Signals are handled between dispatches.
    steps_per_dispatch: int = one_of((1, 2, 3, 4, 5, 6, 7, 8), 8)
    # Keep only the input of each layer for the backward pass and recompute its activations, which
    # takes less memory and a third more operations.
    rematerialise: bool = False
    profile: bool = False  # trace a few steps of each phase, in the run's folder `profile`
    log_every_steps: int = at_least(1, 50)
    # Write checkpoints every so many steps or minutes, or both, in addition to those at
    # validations; 0: never. A killed run loses the steps after its last checkpoint.
    checkpoint_every_steps: int = at_least(0, 0)
    checkpoint_every_minutes: float = at_least(0, 10.0)
    # Number of recent checkpoints to keep, each with the best one by validation up to it. With 1,
    # a damaged checkpoint has no predecessor to fall back to.
    keep_checkpoints: int = at_least(1, 2)

    def phases(self) -> dict[str, PhaseConfig]:
        """Return the config of each phase by its name, in the order of training."""
        return {"finetune": self.finetune}

    def table_parts(self) -> int:
        """Return the number of devices that each embedding table is split over, by its width."""
        return 1

    def check(self) -> None:
        """Check combinations of values; families add their own checks.

        Raises:
            InputError: a combination of values is not allowed.
        """
        self.evaluate.check()
        data, phases = self.data, self.phases()
        for name, phase in phases.items():
            if phase.batch_size % phase.accumulate:
                raise InputError(
                    f"config.{name}.accumulate: found {phase.accumulate}, expected a divisor of "
                    f"config.{name}.batch_size = {phase.batch_size}"
                )
        if not any(phase.epochs for phase in phases.values()):
            where = " in both phases" if len(phases) > 1 else ""
            raise InputError(f"config.finetune.epochs: found 0{where}, expected at least 1")
        if (data.name == "file") != bool(data.file):
            found = f"name={data.name!r}, file={data.file!r}"
            raise InputError(
                f"config.data: found {found}, expected a file if and only if name is 'file'"
            )
        if data.synthetic_users > MOST_SYNTHETIC_USERS:
            raise InputError(
                f"config.data.synthetic_users: found {data.synthetic_users}, expected at most "
                f"{MOST_SYNTHETIC_USERS}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the config as nested dicts."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return the config as the text of `config.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


@dataclass(frozen=True)
class WithPretraining(RunConfig):
    """The keys of a family with pretraining, which predicts random items at a mask."""

    pretrain: PhaseConfig = field(default_factory=PhaseConfig)

    def phases(self) -> dict[str, PhaseConfig]:
        return {"pretrain": self.pretrain, **super().phases()}


@dataclass(frozen=True)
class WithIdentifiers(RunConfig):
    """The keys of a family that reads or generates item identifiers.

    Its `model` also needs the key `vocab_size`, the size of the tokenizer trained on them.
    """

    indexing: str = one_of(KINDS, "published")  # identifiers/indexing.py describes each kind
    indexing_seed: int = at_least(0, 0)  # seed of every kind but published
    # With indexing=title: the most tokens of a title, which is cut after a whole word. A number is
    # appended to titles that several items share.
    title_tokens: int = at_least(8, 12)
    codes: CodesConfig = field(default_factory=CodesConfig)

    def check(self) -> None:
        super().check()
        if self.indexing == "title" and self.data.name != "file":
            raise InputError(
                f"config.indexing: found 'title' with data.name={self.data.name!r}, which has no "
                "titles, expected data.name='file' with a prepared dataset that has titles"
            )

"""The config of a run: the keys of every model family, and groups of keys for some of them.

`RunConfig` has the keys that all families read. A family's `config.py` extends it to a class
`Config`, with its own keys of `config.model` and with the groups that it reads: a key exists only
where it has an effect. The defaults of a family's `Config` are a recipe that runs as it is;
`configs/*.py` change what differs for a dataset, and `--config.KEY=VALUE` a key for one run.
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
    """The dataset."""

    name: str = one_of(DATASETS, "synthetic")
    dir: str = ""  # folder of the named datasets' files; "": GENREC_DATA_DIR, cache, download
    # With name=file: a folder that `python -m genrec_jax prepare` or `to-tfds` wrote, or a sequence
    # file of your own, `user item item …` a line.
    file: str = ""
    synthetic_users: int = at_least(1, 10000)
    synthetic_items: int = at_least(20, 100)
    synthetic_seed: int = at_least(0, 0)
    # Items that are cut off the end of every sequence before anything else. 1: the test item is
    # what is otherwise the validation item, so that settings can be chosen by it.
    drop_last: int = at_least(0, 0)
    buckets: int = at_least(1, 8)  # the most shapes that batches are padded to


@dataclass(frozen=True)
class CodesConfig:
    """Item vectors, and the codes made from them where `indexing` is one of CODE_KINDS."""

    dims: int = at_least(2, 64)  # of the vectors
    # collaborative: the most positions that two items may be apart to count as together.
    window: int = at_least(1, 5)
    text_weight: float = share(0.3)  # combined: the share of titles and attributes in a cosine


@dataclass(frozen=True)
class PhaseConfig:
    """Training in one phase: pretraining or finetuning."""

    epochs: int = at_least(0, 10)
    max_steps: int = at_least(0, 0)  # end the phase (and its schedule) after these steps; 0: none
    batch_size: int = at_least(1, 16)
    # Parts that a batch is computed in, one after the other, in the memory of one part: the same
    # step to float tolerance, except for dropout, which is drawn per part. Divides batch_size.
    accumulate: int = at_least(1, 1)
    learning_rate: float = positive(1e-5)
    weight_decay: float = at_least(0, 1e-5)
    warmup: float = share(0.05)  # share of the steps
    clip_norm: float = positive(5.0)
    # Dtype of AdamW's mean of gradients; bfloat16 saves 2 of 16 bytes per parameter.
    first_moment: str = one_of(("float32", "bfloat16"), "float32")
    validate_every_epochs: int = at_least(0, 1)  # 0: only at the end of the phase
    validate_every_steps: int = at_least(0, 0)  # if not 0, instead of epochs


@dataclass(frozen=True)
class FinetuneConfig(PhaseConfig):
    """Finetuning: the next item."""

    epochs: int = at_least(0, 25)
    # Train on the validation item of every user too, as the paper's text also allows. Validation
    # metrics then say nothing, and the kNN ensemble cannot choose its weight.
    include_validation_item: bool = False

    @property
    def holdout(self) -> int:
        """Items at the end of each sequence that finetuning does not see; the last before them is
        its last target."""
        return 1 if self.include_validation_item else 2

    @property
    def uses_prefixes(self) -> bool:
        """Whether every prefix of a sequence is an example of its own."""
        return False


# The values of `finetune.targets` in 0.1 → now.
RENAMED_TARGETS = {
    "last": "last_only",
    "prefixes": "prefix_augmentation",
    "every": "all_positions",
}


@dataclass(frozen=True)
class TargetsConfig(FinetuneConfig):
    """Finetuning of a family with a choice of targets.

    last_only: the last item of the training part, predicted at a mask, as in the paper.
    prefix_augmentation: each item but the first, by the items before it, as an example of its own.
    all_positions: the same in one pass over the sequence, by an encoder that looks back only.
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
    """How the best items are found, for families with and without a choice."""

    search: str = "exhaustive"
    beams: int = 0
    length_penalty: float = 0.0
    exact_users: int = 0


@dataclass(frozen=True)
class EvaluateConfig:
    """Validation, test and recommendations. Every item is scored, unless a family extends this."""

    top_k: int = at_least(1, 20)  # items of a ranking
    exclude_history: bool = False  # leave out the items of the user's history; the paper does not
    batch_size: int = at_least(1, 32)
    # Test users, a sample that does not depend on the seed; 0: all.
    users: int = at_least(0, 0)
    validation_users: int = at_least(0, 3000)  # the same for validation

    def search_settings(self) -> SearchSettings:
        """The search, exhaustive where there is no choice."""
        return SearchSettings()

    def check(self) -> None:
        """Raise InputError for a value that is not allowed, or values that do not fit together."""
        check_fields(self, "config.evaluate")


@dataclass(frozen=True)
class BeamConfig(EvaluateConfig):
    """Ranking by a model that writes identifiers."""

    # constrained: beams over the trie of the catalogue. exhaustive: the exact probability of every
    # item.
    search: str = one_of(("constrained", "exhaustive"), "constrained")
    beams: int = at_least(1, 20)
    exact_users: int = at_least(0, 0)  # users whose beams are compared with the exact rankings

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
                "exhaustive, whose rankings are the exact ones, expected 0"
            )


@dataclass(frozen=True)
class RunConfig:
    """The keys that every family reads."""

    file: ClassVar[str] = ""  # FILE[:variant] of a shipped config of the family, for messages

    model: Any  # the family's ModelConfig, whose key `family` names it
    data: DataConfig = field(default_factory=DataConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    seed: int = at_least(0, 0)
    # Training steps per dispatch, from 1 to 8 (and never more than log_every_steps): the device
    # runs so many before it returns to the host. The result is the same bit for bit. A GPU saves
    # the host's time per step of a small batch, a CPU that of fresh memory; signals wait for it.
    steps_per_dispatch: int = one_of((1, 2, 3, 4, 5, 6, 7, 8), 8)
    # Keep only what goes into each layer for the backward pass and compute the rest again: less
    # memory, a third more arithmetic.
    rematerialise: bool = False
    profile: bool = False  # a trace of a few steps of each phase, in the run's folder `profile`
    log_every_steps: int = at_least(1, 50)
    # Checkpoints besides those at validations: after so many steps, after so many minutes, or both;
    # 0: none. A run that is killed loses what came after the last one.
    checkpoint_every_steps: int = at_least(0, 0)
    checkpoint_every_minutes: float = at_least(0, 10.0)
    # The most recent checkpoints that are kept, and with each the best by validation that it knows.
    # With one, there is none to go back to where that is damaged.
    keep_checkpoints: int = at_least(1, 2)

    def phases(self) -> dict[str, PhaseConfig]:
        """The keys of each phase by its name, in the order of training."""
        return {"finetune": self.finetune}

    def table_parts(self) -> int:
        """Devices that share one copy of the id tables, each with its part of the width."""
        return 1

    def check(self) -> None:
        """Raise InputError for values that do not fit together; families add their own checks."""
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
            raise InputError(f"config.finetune.epochs: found 0{where}, expected one to train")
        if (data.name == "file") != bool(data.file):
            found = f"name={data.name!r}, file={data.file!r}"
            raise InputError(
                f"config.data: found {found}, expected a file just where name is 'file'"
            )
        if data.synthetic_users > MOST_SYNTHETIC_USERS:
            raise InputError(
                f"config.data.synthetic_users: found {data.synthetic_users}, expected at most "
                f"{MOST_SYNTHETIC_USERS}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The config as nested dicts."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The config as `config.json` holds it."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


@dataclass(frozen=True)
class WithPretraining(RunConfig):
    """The keys of a family that may be pretrained, on random items at a mask."""

    pretrain: PhaseConfig = field(default_factory=PhaseConfig)

    def phases(self) -> dict[str, PhaseConfig]:
        return {"pretrain": self.pretrain, **super().phases()}


@dataclass(frozen=True)
class WithIdentifiers(RunConfig):
    """The keys of a family that reads or writes the identifiers of items.

    Its `model` also has `vocab_size`, the size of the tokenizer that is trained on them.
    """

    indexing: str = one_of(KINDS, "published")  # identifiers/indexing.py describes each
    indexing_seed: int = at_least(0, 0)  # of every kind but published
    # With indexing=title: the most tokens of a name, cut after a whole word; a number that tells
    # items of the same name apart is added to them.
    title_tokens: int = at_least(8, 12)
    codes: CodesConfig = field(default_factory=CodesConfig)

    def check(self) -> None:
        super().check()
        if self.indexing == "title" and self.data.name != "file":
            raise InputError(
                f"config.indexing: found 'title' with data.name={self.data.name!r}, which has no "
                "titles, expected data.name='file' and a prepared dataset that has some"
            )

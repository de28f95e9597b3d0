"""The config of a SASRec run. The defaults are the recipe of `configs/sasrec.py`."""

from dataclasses import dataclass, field

from genrec_jax.core.config_fields import (
    at_least,
    expect_heads,
    expect_multiple,
    one_of,
    positive,
    share,
)
from genrec_jax.core.errors import InputError
from genrec_jax.models.run_config import (
    RENAMED_TARGETS,
    DataConfig,
    EvaluateConfig,
    RunConfig,
    TargetsConfig,
)


@dataclass(frozen=True)
class ModelConfig:
    """The keys of `config.model` for SASRec."""

    family: str = one_of(("sasrec",), "sasrec")
    d_model: int = at_least(1, 64)
    layers: int = at_least(1, 2)
    attention_heads: int = at_least(1, 2)
    ffn_dim: int = at_least(1, 256)
    dropout: float = share(0.5)
    attention_dropout: float = share(0.5)
    activation_dropout: float = share(0.0)
    init_std: float = positive(0.02)
    max_items: int = at_least(8, 56)  # longer histories lose their oldest items
    dtype: str = one_of(("auto", "float32", "bfloat16"), "auto")  # auto: bfloat16 on GPU and TPU
    # Count positions from the end, so that the most recent item has position 0 in every history.
    # Not allowed with targets=all_positions.
    reversed_positions: bool = True

    def __post_init__(self) -> None:
        expect_multiple("config.model.max_items", self.max_items, 8)
        expect_heads(self.attention_heads, self.d_model)


@dataclass(frozen=True)
class SASRecFinetuneConfig(TargetsConfig):
    """The keys of training. `last_only` needs a mask token, which SASRec does not have."""

    targets: str = one_of(
        ("prefix_augmentation", "all_positions"), "prefix_augmentation", RENAMED_TARGETS
    )


def _finetune() -> SASRecFinetuneConfig:
    return SASRecFinetuneConfig(
        epochs=20, batch_size=256, learning_rate=1e-3, weight_decay=0.0, validate_every_epochs=5
    )


@dataclass(frozen=True)
class Config(RunConfig):
    """The config of a SASRec run."""

    file = "configs/sasrec.py"

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(buckets=4))
    finetune: SASRecFinetuneConfig = field(default_factory=_finetune)
    evaluate: EvaluateConfig = field(default_factory=lambda: EvaluateConfig(batch_size=256))

    def check(self) -> None:
        super().check()
        if self.model.reversed_positions and self.finetune.targets == "all_positions":
            raise InputError(
                "config.model.reversed_positions: found True with finetune.targets=all_positions, "
                "which predicts from every position, not only the last, expected False, or "
                "finetune.targets=prefix_augmentation"
            )

"""The keys of `config.model` for SASRec."""

from dataclasses import dataclass
from typing import Any

from genrec_jax.core.config_fields import expect_heads, expect_multiple, expect_one_of
from genrec_jax.core.errors import InputError


@dataclass(frozen=True)
class ModelConfig:
    """Causal self-attention over items; the defaults are those of `configs/sasrec.py`."""

    family: str = "sasrec"
    d_model: int = 64
    layers: int = 2
    attention_heads: int = 2
    ffn_dim: int = 256
    dropout: float = 0.5
    attention_dropout: float = 0.5
    activation_dropout: float = 0.0
    init_std: float = 0.02
    max_items: int = 56  # longer histories lose their oldest items
    dtype: str = "auto"  # float32, bfloat16; auto: bfloat16 on GPU and TPU, float32 on CPU
    # Where positions are counted from. end: the most recent item has the same position however
    # long the history is; not for targets=every.
    count_from: str = "end"

    def __post_init__(self) -> None:
        expect_one_of("config.model.family", self.family, ("sasrec",))
        expect_one_of("config.model.dtype", self.dtype, ("auto", "float32", "bfloat16"))
        expect_one_of("config.model.count_from", self.count_from, ("start", "end"))
        expect_multiple("config.model.max_items", self.max_items, 8)
        expect_heads(self.attention_heads, self.d_model)

    def check_run(self, config: Any) -> None:
        """Raise InputError for keys of the whole config that do not fit this model."""
        targets = config.finetune.targets
        expect_one_of("config.finetune.targets", targets, ("prefixes", "every"), self.family)
        if self.count_from == "end" and targets == "every":
            raise InputError(
                "config.model.count_from: found 'end' with finetune.targets='every', where every "
                "position of a sequence is the end of another history, expected 'start', or "
                "targets=prefixes"
            )
        expect_one_of("config.pretrain.epochs", config.pretrain.epochs, (0,), self.family)
        plain = ("published", "sequential", "random")
        expect_one_of("config.indexing", config.indexing, plain, self.family)
        search = config.evaluate.search
        expect_one_of("config.evaluate.search", search, ("exhaustive",), self.family)
        penalty = config.evaluate.length_penalty
        expect_one_of("config.evaluate.length_penalty", penalty, (0.0,), self.family)
        expect_one_of("config.model_parallel", config.model_parallel, (1,), self.family)

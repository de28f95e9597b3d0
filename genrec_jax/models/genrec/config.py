"""The config of a run of the genrec family; its defaults are the paper's recipe (section 7.1)."""

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
    BeamConfig,
    SearchSettings,
    WithIdentifiers,
    WithPretraining,
)


@dataclass(frozen=True)
class ModelConfig:
    """The settings of the model: BART with user and item id tables."""

    family: str = one_of(("genrec",), "genrec")
    pretrained: str = ""  # folder or hub id of a BART checkpoint; "": from scratch
    # From scratch: the size of the tokenizer trained on the identifiers, to which the symbols of
    # codes are added.
    vocab_size: int = at_least(32, 512)
    # The shape of a model from scratch. With `pretrained` the checkpoint determines the shape
    # (bart-large, or a distilled one with fewer decoder layers): keys at their defaults then have
    # no effect, and other values must agree with the checkpoint.
    d_model: int = at_least(1, 768)
    encoder_layers: int = at_least(1, 6)
    decoder_layers: int = at_least(1, 6)
    attention_heads: int = at_least(1, 12)
    ffn_dim: int = at_least(1, 3072)
    dropout: float = share(0.1)
    attention_dropout: float = share(0.1)
    activation_dropout: float = share(0.1)
    # Share of training examples without the user's identifier and embedding. The paper uses 0. A
    # model from scratch then memorises the items of each user and learns little else.
    user_dropout: float = share(0.0)
    init_std: float = positive(0.02)  # of parameters that are not in a checkpoint
    max_tokens: int = at_least(16, 512)  # encoder tokens; longer histories lose their oldest items
    dtype: str = one_of(("auto", "float32", "bfloat16"), "auto")  # auto: bfloat16 on GPU and TPU
    # Count the encoder's positions from the end, for models from scratch, so that the most recent
    # item has the same position in every history. False: as in BART. With `pretrained` the
    # checkpoint determines it, like the shape.
    reversed_positions: bool = False

    def __post_init__(self) -> None:
        expect_multiple("config.model.max_tokens", self.max_tokens, 8)
        if not self.pretrained:
            expect_heads(self.attention_heads, self.d_model)


@dataclass(frozen=True)
class GenRecEvaluateConfig(BeamConfig):
    """The settings of ranking; unlike other families, genrec also has a free search."""

    # constrained: beam search over the catalogue's trie. free: beam search over the vocabulary,
    # token for token as in `transformers`. exhaustive: the exact scores of all items.
    search: str = one_of(("constrained", "free", "exhaustive"), "constrained")
    length_penalty: float = at_least(0, 0.0)  # scores are divided by (number of tokens) ** this

    def search_settings(self) -> SearchSettings:
        return super().search_settings()._replace(length_penalty=self.length_penalty)

    def check(self) -> None:
        super().check()
        if self.search == "free" and self.exclude_history:
            raise InputError(
                "config.evaluate.exclude_history: found True with evaluate.search = free, expected "
                "evaluate.search = constrained or exhaustive, which only find catalogue items"
            )


@dataclass(frozen=True)
class Config(WithIdentifiers, WithPretraining):
    """The config of a run of the genrec family, which finetunes on one masked item per user."""

    file = "configs/beauty.py"

    model: ModelConfig = field(default_factory=ModelConfig)
    evaluate: GenRecEvaluateConfig = field(default_factory=GenRecEvaluateConfig)
    # Devices that share one copy of the two id tables and of their optimizer moments, each with a
    # part of the width, for tables that do not fit into the memory of one device. Must divide the
    # width and the number of devices. Every device computes its share of each batch in any case.
    model_parallel: int = at_least(1, 1)

    def table_parts(self) -> int:
        return self.model_parallel

"""The keys of `config.model` for the paper's model."""

from dataclasses import dataclass
from typing import Any

from genrec_jax.core.config_fields import expect_heads, expect_multiple, expect_one_of


@dataclass(frozen=True)
class ModelConfig:
    """BART with id tables; the defaults are the paper's recipe (section 7.1), from scratch."""

    family: str = "genrec"
    pretrained: str = ""  # folder or hub id of a BART checkpoint; "": from scratch
    # From scratch: tokens of the tokenizer trained on the names. The symbols of codes come on top.
    vocab_size: int = 512
    # The shape of a model from scratch. With `pretrained` it is the checkpoint's, whatever that is
    # (bart-large, a distilled one with fewer decoder layers): a key at its default then says
    # nothing, and one that was changed must agree with the checkpoint.
    d_model: int = 768
    encoder_layers: int = 6
    decoder_layers: int = 6
    attention_heads: int = 12
    ffn_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    # Share of training examples that lose their user's name and id. 0 in the paper; a model from
    # scratch otherwise learns by heart which items each user has, and little else.
    user_dropout: float = 0.0
    init_std: float = 0.02  # of everything that no checkpoint gives
    max_tokens: int = 512  # of the encoder; longer histories lose their oldest items
    dtype: str = "auto"  # float32, bfloat16; auto: bfloat16 on GPU and TPU, float32 on CPU
    # Where the encoder's positions are counted from. start: as in BART. end, for models from
    # scratch: the most recent item has the same position however long the history is. With
    # `pretrained` it is the checkpoint's, as the shape is.
    count_from: str = "start"

    def __post_init__(self) -> None:
        expect_one_of("config.model.family", self.family, ("genrec",))
        expect_one_of("config.model.dtype", self.dtype, ("auto", "float32", "bfloat16"))
        expect_one_of("config.model.count_from", self.count_from, ("start", "end"))
        expect_multiple("config.model.max_tokens", self.max_tokens, 8)
        if not self.pretrained:
            expect_heads(self.attention_heads, self.d_model)

    def check_run(self, config: Any) -> None:
        """Raise InputError for keys of the whole config that do not fit this model."""
        expect_one_of("config.finetune.targets", config.finetune.targets, ("last",), self.family)

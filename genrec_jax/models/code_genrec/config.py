"""The config of a run over item codes. The defaults are the recipe of `configs/beauty.py:best`."""

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
from genrec_jax.identifiers.indexing import KINDS
from genrec_jax.models.run_config import (
    BeamConfig,
    DataConfig,
    PhaseConfig,
    TargetsConfig,
    WithIdentifiers,
    WithPretraining,
)

# The values of encoder_prior with which the encoder scores items.
SCORING_PRIORS = ("copying", "new_items")


@dataclass(frozen=True)
class ModelConfig:
    """The keys of `config.model` for the model over item codes."""

    family: str = one_of(("code_genrec",), "code_genrec")
    # Tokens of the tokenizer trained on the user identifiers. The code symbols are added to them.
    vocab_size: int = at_least(32, 512)
    d_model: int = at_least(1, 64)
    encoder_layers: int = at_least(1, 2)
    decoder_layers: int = at_least(1, 1)
    attention_heads: int = at_least(1, 2)
    ffn_dim: int = at_least(1, 256)
    dropout: float = share(0.5)
    attention_dropout: float = share(0.5)
    activation_dropout: float = share(0.0)
    # Share of training examples without the user's identifier and id. Without user dropout the
    # model mostly memorises the items of each user.
    user_dropout: float = share(0.9)
    init_std: float = positive(0.02)
    # Encoder positions: one for the user, one per item, one for a mask. Longer histories lose their
    # oldest items.
    max_tokens: int = at_least(16, 56)
    dtype: str = one_of(("auto", "float32", "bfloat16"), "auto")  # auto: bfloat16 on GPU and TPU
    # Count the encoder's positions from the end, so that the last position of every history is 0.
    # Not allowed with targets=all_positions.
    reversed_positions: bool = True
    # Weight of a low-pass filter beside self-attention (layers/low_pass.py), and the number of
    # lowest frequencies that pass. low_pass > 0 is not allowed with targets=all_positions.
    low_pass: float = share(0.5)
    frequencies: int = at_least(1, 3)
    # The use of the encoder's state at the query position, besides the decoder's cross-attention.
    # none: not used. state: added to the decoder's inputs and outputs. copying: a prior over all
    # items, with copy scores for items of the history, which the decoder's scores are added to.
    # new_items: the same prior over items that are not in the history, for data without repeat
    # consumption. copying and new_items are not allowed with targets=all_positions.
    encoder_prior: str = one_of(
        ("none", "state", "copying", "new_items"),
        "copying",
        {"vector": "state", "items": "copying", "unseen": "new_items"},
    )
    # With encoder_prior copying or new_items: the encoder scores an item by the cosine of two
    # vectors divided by this temperature; 0: by their inner product.
    temperature: float = at_least(0, 0.07)
    # Initial item embeddings. collaborative: vectors from co-occurrence in the training part
    # (identifiers/item_vectors.py), as for the codes of `indexing=collaborative`.
    item_init: str = one_of(("random", "collaborative"), "collaborative")

    def __post_init__(self) -> None:
        expect_multiple("config.model.max_tokens", self.max_tokens, 8)
        expect_heads(self.attention_heads, self.d_model)
        if self.temperature and self.encoder_prior not in SCORING_PRIORS:
            raise InputError(
                f"config.model.temperature: found {self.temperature} with model.encoder_prior="
                f"{self.encoder_prior!r}, with which the encoder does not score items, expected "
                "encoder_prior='copying' or 'new_items', or temperature=0"
            )
        if self.low_pass and 2 * self.frequencies > self.max_tokens:
            raise InputError(
                f"config.model.frequencies: found {self.frequencies}, expected at most half of "
                f"config.model.max_tokens = {self.max_tokens}, the highest frequency that "
                "positions can represent"
            )


def _pretrain() -> PhaseConfig:
    return PhaseConfig(epochs=0, batch_size=256, learning_rate=1e-3, weight_decay=0.0)


def _finetune() -> TargetsConfig:
    return TargetsConfig(
        epochs=8, batch_size=256, learning_rate=1e-3, weight_decay=0.0, validate_every_epochs=4
    )


@dataclass(frozen=True)
class Config(WithIdentifiers, WithPretraining):
    """The config of a run over item codes."""

    file = "configs/beauty.py:best"

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(buckets=4))
    indexing: str = one_of(KINDS, "collaborative")
    pretrain: PhaseConfig = field(default_factory=_pretrain)
    finetune: TargetsConfig = field(default_factory=_finetune)
    evaluate: BeamConfig = field(default_factory=lambda: BeamConfig(batch_size=128))

    def check(self) -> None:
        super().check()
        model = self.model
        # Whether each key conflicts with all_positions, and the value that does not.
        conflicts = {
            "low_pass": (bool(model.low_pass), "0"),
            "encoder_prior": (
                model.encoder_prior in SCORING_PRIORS,
                "'none' or 'state', with temperature=0",
            ),
            "reversed_positions": (model.reversed_positions, "False"),
        }
        for key, (is_conflict, expected) in conflicts.items():
            if self.finetune.targets == "all_positions" and is_conflict:
                raise InputError(
                    f"config.model.{key}: found {getattr(model, key)!r} with finetune.targets="
                    "all_positions, which predicts from every position, not only the last, "
                    f"expected {expected}, or another value of finetune.targets"
                )
        if model.encoder_prior == "new_items" and not self.evaluate.exclude_history:
            raise InputError(
                "config.evaluate.exclude_history: found False with model.encoder_prior="
                "'new_items', which gives items of the history no probability, expected True"
            )

"""The config of a run of the model over item codes. The defaults are the recipe of `:best`."""

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

SCORING_PRIORS = ("copying", "new_items")  # the priors by which the encoder itself scores items


@dataclass(frozen=True)
class ModelConfig:
    """An encoder of one vector per item and a decoder that scores the nodes of the code trie."""

    family: str = one_of(("code_genrec",), "code_genrec")
    # Tokens of the tokenizer trained on the user names. The symbols of codes are added to them.
    vocab_size: int = at_least(32, 512)
    d_model: int = at_least(1, 64)
    encoder_layers: int = at_least(1, 2)
    decoder_layers: int = at_least(1, 1)
    attention_heads: int = at_least(1, 2)
    ffn_dim: int = at_least(1, 256)
    dropout: float = share(0.5)
    attention_dropout: float = share(0.5)
    activation_dropout: float = share(0.0)
    # Share of training examples without the user's name and id: otherwise the model memorises
    # which items each user has, and learns little else.
    user_dropout: float = share(0.9)
    init_std: float = positive(0.02)
    # Positions of the encoder: one for the user, one per item, one for a mask. Longer histories
    # lose their oldest items.
    max_tokens: int = at_least(16, 56)
    dtype: str = one_of(("auto", "float32", "bfloat16"), "auto")  # auto: bfloat16 on GPU and TPU
    # Count the encoder's positions from the end: the most recent item has the same position however
    # long the history is. Not with targets=all_positions.
    reversed_positions: bool = True
    # Share of a low-pass filter over the history, in place of attention (layers/low_pass.py), and
    # how many frequencies pass. Not with targets=all_positions.
    low_pass: float = share(0.5)
    frequencies: int = at_least(1, 3)
    # What the encoder contributes to the output besides the decoder's cross-attention, from its
    # state at the query position. none: nothing. state: the state is added to what the decoder
    # reads and to what it outputs. copying: probabilities of all items, with copy scores for those
    # of the history, which the decoder corrects. new_items: the same over the items that are not in
    # the history, for data without repeat consumption. The last two not with targets=all_positions.
    encoder_prior: str = one_of(
        ("none", "state", "copying", "new_items"),
        "copying",
        {"vector": "state", "items": "copying", "unseen": "new_items"},
    )
    # With encoder_prior copying or new_items: the encoder scores an item by the cosine of two
    # vectors divided by this, and not by their product; 0: by the product. Small ones are sharp.
    temperature: float = at_least(0, 0.07)
    # Where the item embeddings start. collaborative: from which items users have together in the
    # training part (identifiers/item_vectors.py), like the codes of `indexing=collaborative`.
    item_init: str = one_of(("random", "collaborative"), "collaborative")

    def __post_init__(self) -> None:
        expect_multiple("config.model.max_tokens", self.max_tokens, 8)
        expect_heads(self.attention_heads, self.d_model)
        if self.temperature and self.encoder_prior not in SCORING_PRIORS:
            raise InputError(
                f"config.model.temperature: found {self.temperature} with model.encoder_prior="
                f"{self.encoder_prior!r}, where the encoder scores no items, expected "
                "encoder_prior='copying' or 'new_items', or temperature=0"
            )
        if self.low_pass and 2 * self.frequencies > self.max_tokens:
            raise InputError(
                f"config.model.frequencies: found {self.frequencies}, expected at most half of "
                f"config.model.max_tokens = {self.max_tokens}, the shortest waves that positions "
                "can show"
            )


def _pretrain() -> PhaseConfig:
    return PhaseConfig(epochs=0, batch_size=256, learning_rate=1e-3, weight_decay=0.0)


def _finetune() -> TargetsConfig:
    return TargetsConfig(
        epochs=8, batch_size=256, learning_rate=1e-3, weight_decay=0.0, validate_every_epochs=4
    )


@dataclass(frozen=True)
class Config(WithIdentifiers, WithPretraining):
    """The keys of a run."""

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
        unfit = {
            "low_pass": (bool(model.low_pass), "0"),
            "encoder_prior": (
                model.encoder_prior in SCORING_PRIORS,
                "'none' or 'state', with temperature=0",
            ),
            "reversed_positions": (model.reversed_positions, "False"),
        }
        for key, (is_unfit, expected) in unfit.items():
            if self.finetune.targets == "all_positions" and is_unfit:
                raise InputError(
                    f"config.model.{key}: found {getattr(model, key)!r} with finetune.targets="
                    "all_positions, where every position of a sequence is the end of another "
                    f"history, expected {expected}, or another value of targets"
                )
        if model.encoder_prior == "new_items" and not self.evaluate.exclude_history:
            raise InputError(
                "config.evaluate.exclude_history: found False with model.encoder_prior="
                "'new_items', which gives no probability to the items of the history, expected True"
            )

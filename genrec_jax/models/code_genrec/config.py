"""The keys of `config.model` for the generative model over item codes."""

from dataclasses import dataclass
from typing import Any

from genrec_jax.core.config_fields import expect_heads, expect_multiple, expect_one_of
from genrec_jax.core.errors import InputError


@dataclass(frozen=True)
class ModelConfig:
    """An encoder of one vector an item and a decoder that scores the nodes of the code trie."""

    family: str = "code_genrec"
    vocab_size: int = 512  # tokens of the tokenizer of user names; the codes' symbols come on top
    d_model: int = 64
    encoder_layers: int = 2
    decoder_layers: int = 1
    attention_heads: int = 2
    ffn_dim: int = 256
    dropout: float = 0.5
    attention_dropout: float = 0.5
    activation_dropout: float = 0.0
    # Share of training examples that lose their user's name and id: otherwise the model learns by
    # heart which items each user has, and little else.
    user_dropout: float = 0.9
    init_std: float = 0.02
    # Positions of the encoder: one for the user, one an item, one for a mask. Longer histories lose
    # their oldest items.
    max_tokens: int = 56
    dtype: str = "auto"  # float32, bfloat16; auto: bfloat16 on GPU and TPU, float32 on CPU
    # Where the encoder's positions are counted from. end: the most recent item has the same
    # position however long the history is; not for targets=every.
    count_from: str = "end"
    # Share of a filter that lets the slow part of a history through, in place of attention
    # (layers/low_pass.py), and how many frequencies are slow; not for targets=every.
    low_pass: float = 0.5
    frequencies: int = 3
    # What of the encoder goes round the decoder too. vector: its vector at the query, added to what
    # the decoder reads and says. items: the probabilities that this vector alone gives all items,
    # with copy scores for those of the history, which the decoder corrects; not for targets=every.
    # unseen: the same of the items that are not in the history, where none comes again.
    residual: str = "items"
    # With residual items or unseen: the encoder scores an item by the cosine of two vectors over
    # this, and not by their product; 0: by the product. Small ones are sharp.
    temperature: float = 0.07
    # What the items' id vectors start from. collaborative: which items users have together in the
    # training part (identifiers/item_vectors.py), as the codes of `indexing=collaborative` do.
    item_vectors: str = "collaborative"

    def __post_init__(self) -> None:
        expect_one_of("config.model.family", self.family, ("code_genrec",))
        expect_one_of("config.model.dtype", self.dtype, ("auto", "float32", "bfloat16"))
        expect_one_of("config.model.count_from", self.count_from, ("start", "end"))
        residuals = ("none", "vector", "items", "unseen")
        expect_one_of("config.model.residual", self.residual, residuals)
        vectors = ("random", "collaborative")
        expect_one_of("config.model.item_vectors", self.item_vectors, vectors)
        expect_multiple("config.model.max_tokens", self.max_tokens, 8)
        expect_heads(self.attention_heads, self.d_model)
        if self.temperature and self.residual not in ("items", "unseen"):
            raise InputError(
                f"config.model.temperature: found {self.temperature} with model.residual="
                f"{self.residual!r}, where the encoder scores no items, expected residual='items' "
                "or 'unseen', or temperature=0"
            )
        if self.low_pass and 2 * self.frequencies > self.max_tokens:
            raise InputError(
                f"config.model.frequencies: found {self.frequencies}, expected at most half of "
                f"config.model.max_tokens = {self.max_tokens}, the shortest waves that positions "
                "can show"
            )

    def check_run(self, config: Any) -> None:
        """Raise InputError for keys of the whole config that do not fit this model."""
        targets, evaluate = config.finetune.targets, config.evaluate
        allowed = ("last", "prefixes", "every")
        expect_one_of("config.finetune.targets", targets, allowed, self.family)
        for key, found, fits in (
            ("low_pass", self.low_pass, not self.low_pass),
            ("residual", self.residual, self.residual not in ("items", "unseen")),
            ("count_from", self.count_from, self.count_from == "start"),
        ):
            if targets == "every" and not fits:
                raise InputError(
                    f"config.model.{key}: found {found!r} with finetune.targets='every', where "
                    "every position of a sequence is the end of another history, expected targets "
                    "last or prefixes"
                )
        if self.residual == "unseen" and not evaluate.exclude_history:
            raise InputError(
                "config.evaluate.exclude_history: found False with model.residual='unseen', which "
                "gives no probability to the items of the history, expected True"
            )
        searches = ("constrained", "exhaustive")
        expect_one_of("config.evaluate.search", evaluate.search, searches, self.family)
        if evaluate.length_penalty:
            raise InputError(
                f"config.evaluate.length_penalty: found {evaluate.length_penalty} with the family "
                "code_genrec, whose identifiers are as long as the trie is deep there, expected 0"
            )
        if config.model_parallel > 1:
            raise InputError(
                f"config.model_parallel: found {config.model_parallel} with the family "
                "code_genrec, whose output is the item table, expected 1"
            )

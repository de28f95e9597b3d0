"""PyTorch's BART, the oracle of the model: random checkpoints, and GenRec on top of one.

`TorchGenRec` is `transformers`' own BART with the two id tables added to its input embeddings, and
`feed` gives it a batch through the plain-Python reading of the paper, so that nothing of the code
that is tested comes between a user's history and PyTorch's logits, loss and gradients.

Axes: B users in a batch, T encoder tokens, S decoder tokens, D width, U users, N items.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import paper_reading as paper
import torch
from transformers import BartConfig, BartForConditionalGeneration
from transformers.modeling_outputs import Seq2SeqLMOutput

from genrec_jax.data.batches import Batch
from genrec_jax.identifiers.token_table import TokenTable
from genrec_jax.layers.losses import cross_entropy
from genrec_jax.models.contract import Params, abstract_model, merge
from genrec_jax.models.genrec.inputs import DecoderInput, EncoderInput, decoder_input, encoder_input
from genrec_jax.models.genrec.model import GenRec, GenRecShape
from genrec_jax.models.masking import append_mask
from genrec_jax.models.tables import DeviceTable, put_on_device

# ------------------------------------------------------------------ BART


def small_bart(vocab_size: int = 60, **changes: object) -> BartForConditionalGeneration:
    """Unequal depths, heads and widths, weights of a scale that makes every part matter."""
    sizes = {
        "vocab_size": vocab_size,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 40,
        "max_position_embeddings": 64,
        "init_std": 0.2,
    }
    return random_bart(BartConfig(**{**sizes, **changes}))


def base_bart() -> BartForConditionalGeneration:
    """BART-base's shape. At 1.5 times BART's initial scale.

    Larger weights make the decoder's positions alike after some random layers (at 2.5 times by all
    but 2e-4), and the gradients of its queries a difference of equal numbers, in PyTorch too.
    """
    layers = {"encoder_layers": 6, "decoder_layers": 6}
    heads = {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
    widths = {"d_model": 768, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}
    return random_bart(BartConfig(**layers, **heads, **widths, init_std=0.03))


def random_bart(config: BartConfig) -> BartForConditionalGeneration:
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and biases, which start at 1 and 0
            parameter.data += 0.2 * torch.randn_like(parameter)
        assert parameter.requires_grad, name
    model.final_logits_bias.normal_()
    return model


def save(model: BartForConditionalGeneration, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def shape_of(config: BartConfig, **changes: Any) -> GenRecShape:
    sizes = {
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_heads": config.encoder_attention_heads,
        "decoder_heads": config.decoder_attention_heads,
        "encoder_ffn_dim": config.encoder_ffn_dim,
        "decoder_ffn_dim": config.decoder_ffn_dim,
        "max_positions": config.max_position_embeddings,
    }
    return GenRecShape(**{**sizes, **changes})


# ------------------------------------------------------------------ what both are fed


@dataclass(frozen=True)
class Names:
    """Every user's and item's name as random tokens of BART's vocabulary."""

    users: list[list[int]]
    items: list[list[int]]
    special: dict[str, int]

    @classmethod
    def draw(cls, rng: np.random.Generator, n_users: int, n_items: int, vocab: int) -> "Names":
        """Names of 1 to 4 tokens; users may have 5, so that the table is wider than the items."""

        def name(longest: int) -> list[int]:
            return rng.integers(4, vocab - 1, rng.integers(1, longest + 1)).tolist()

        special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<mask>": vocab - 1}
        users = [name(5) for _ in range(n_users)]
        return cls(users, [name(4) for _ in range(n_items)], special)

    def table(self) -> DeviceTable:
        names = [*self.items, [self.special["<mask>"]], *self.users]
        tokens = np.full((len(names), max(map(len, names))), self.special["<pad>"], np.int32)
        for row, name in enumerate(names):
            tokens[row, : len(name)] = name
        lengths = np.array([len(name) for name in names], np.int32)
        special = (self.special[token] for token in ("<s>", "<pad>", "</s>"))
        return put_on_device(TokenTable(tokens, lengths, len(self.items), *special))


def draw_batch(rng: np.random.Generator, names: Names, size: int, longest: int) -> Batch:
    """Histories of 0 to `longest` items; the last row only fills the batch."""
    users = rng.integers(0, len(names.users), size).astype(np.int32)
    histories = rng.integers(0, len(names.items), (size, longest)).astype(np.int32)
    lengths = rng.permutation(np.arange(size) % (longest + 1))
    histories[np.arange(longest) >= lengths[:, None]] = -1
    targets = rng.integers(0, len(names.items), size).astype(np.int32)
    users[-1], histories[-1], targets[-1] = -1, -1, -1
    return Batch(users, histories, targets)


class TorchBatch(NamedTuple):
    """What PyTorch sees: a row of the id tables for each token, -1 for none."""

    tokens: torch.Tensor  # [B, T]
    users: torch.Tensor  # [B, T]
    items: torch.Tensor  # [B, T]
    mask: torch.Tensor  # [B, T] False at padding
    decoder_tokens: torch.Tensor  # [B, S]
    labels: torch.Tensor  # [B, S] -100 where there is no loss


def feed(names: Names, batch: Batch, n_tokens: int) -> TorchBatch:
    """The next item asked for, in the words of tests/paper_reading.py."""
    pad, eos = names.special["<pad>"], names.special["</s>"]
    longest = max(map(len, names.items)) + 1
    columns: list[list[Any]] = [[] for _ in TorchBatch._fields]
    for user, history, target in zip(*(rows.tolist() for rows in batch), strict=True):
        items = paper.mask_at_end([item for item in history if item >= 0])
        sentence = paper.encoder_sentence(
            user if user >= 0 else None, items, names.users, names.items, names.special
        )
        known = [True] * len(sentence) + [False] * (n_tokens - len(sentence))
        tokens, users, items = zip(*paper.padded(sentence, n_tokens, names.special), strict=True)
        inputs, labels = ([eos], [-100])  # of a row that only fills the batch
        if target >= 0:
            inputs, labels = paper.decoder_sentence(target, names.items, names.special)
        behind = longest - len(labels)
        row = (
            *(tokens, [_or_none(user) for user in users], [_or_none(item) for item in items]),
            *(known, inputs + [pad] * behind, labels + [-100] * behind),
        )
        for column, values in zip(columns, row, strict=True):
            column.append(list(values))
    return TorchBatch(*map(torch.tensor, columns))


def _or_none(row: int | None) -> int:
    return -1 if row is None else row


# ------------------------------------------------------------------ GenRec in PyTorch


class TorchGenRec(torch.nn.Module):
    """BART and the two id tables (equation 2 of the paper)."""

    def __init__(self, bart: BartForConditionalGeneration, n_users: int, n_items: int):
        super().__init__()
        self.bart = bart
        generator = torch.Generator().manual_seed(1)

        def table(rows: int) -> torch.nn.Parameter:
            drawn = torch.randn(rows, bart.config.d_model, generator=generator)
            return torch.nn.Parameter(bart.config.init_std * drawn)

        self.user_embedding = table(n_users)
        self.item_embedding = table(n_items)

    def forward(self, batch: TorchBatch) -> Seq2SeqLMOutput:
        x = self.bart.model.shared(batch.tokens)
        for table, rows in ((self.user_embedding, batch.users), (self.item_embedding, batch.items)):
            x = x + torch.where((rows >= 0)[..., None], table[rows.clamp(min=0)], 0.0)
        return self.bart(
            inputs_embeds=x,
            attention_mask=batch.mask,
            decoder_input_ids=batch.decoder_tokens,
            labels=batch.labels,
            output_hidden_states=True,
            use_cache=False,
        )

    def in_float64(self) -> "TorchGenRec":
        """The arbiter: what both float32 programs try to compute."""
        return copy.deepcopy(self).double()

    def gradients(self, batch: TorchBatch) -> Params:
        """Of the loss, in our tree. The output bias is a buffer in PyTorch: its gradient is 0."""
        self.zero_grad()
        self(batch).loss.backward()
        tree = self.in_our_tree(lambda parameter: parameter.grad)
        tree["final_logits_bias"] = np.zeros_like(tree["final_logits_bias"])
        return tree

    def in_our_tree(
        self, value: Callable[[torch.Tensor], Any] = lambda parameter: parameter
    ) -> Params:
        """A value of every parameter, copied to where our parameters have it."""
        tree: Params = {"final_logits_bias": self.bart.final_logits_bias[0].numpy().copy()}
        for name, parameter in self.named_parameters():
            *folders, leaf = our_path(name)
            array = value(parameter).detach().numpy()
            place = reduce(lambda node, folder: node.setdefault(folder, {}), folders, tree)
            place[leaf] = np.array(array.T if leaf == "kernel" else array, order="C")
        return tree


OUR_WORDS = {
    "bart.model.": "",
    "shared.weight": "token_embedding",
    "embed_positions.weight": "embedding.positions",
    "layernorm_embedding": "embedding.norm",
    "encoder_attn": "cross_attention",
    "self_attn": "self_attention",
    "_layer_norm": "_norm",
    "fc1": "feed_forward.up",
    "fc2": "feed_forward.down",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
}


def our_path(torch_name: str) -> list[str]:
    """Where we keep what PyTorch calls so; written apart from the table in genrec/names.py."""
    name = torch_name
    for theirs, ours in OUR_WORDS.items():
        name = name.replace(theirs, ours)
    if name.startswith("encoder."):
        name = name.replace("self_attention", "attention")
    if name.endswith(".weight"):
        kind = "scale" if "norm" in name else "kernel"  # PyTorch's kernels are [out, in]
        name = name.removesuffix("weight") + kind
    return name.split(".")


# ------------------------------------------------------------------ the two side by side


class Case(NamedTuple):
    """The same weights and the same batch, PyTorch's and ours."""

    theirs: TorchGenRec
    fed: TorchBatch
    shape: GenRecShape
    params: Params
    sentence: EncoderInput
    answer: DecoderInput

    def model(self, params: Params, dtype: str = "float32") -> GenRec:
        """Our model, computing in `dtype`."""
        sizes = (len(self.params["user_embedding"]), len(self.params["item_embedding"]))
        graph, _ = abstract_model(shape_of(self.theirs.bart.config, dtype=dtype), *sizes)
        return merge(graph, params)

    def logits_and_loss(self, params: Params, dtype: str = "float32") -> tuple[Any, Any]:
        """Our logits [B, S, V] and, as in the training step, the mean loss a weighted token."""
        logits = self.model(params, dtype)(self.sentence, self.answer.tokens)
        loss = token_loss(logits, self.answer.labels, self.answer.weights)
        return logits, loss / jnp.maximum(jnp.sum(self.answer.weights), 1)

    @property
    def real_rows(self) -> np.ndarray:
        """[B] False for a row that only fills the batch, whose logits nothing looks at."""
        return np.asarray(self.sentence.users) >= 0


def token_loss(logits: Any, labels: Any, weights: Any) -> jax.Array:
    """The sum of the cross-entropy over the weighted tokens."""
    return jnp.sum(cross_entropy(logits, labels, weights).loss)


def make_case(bart: BartForConditionalGeneration, names: Names, batch: Batch, width: int) -> Case:
    theirs = TorchGenRec(bart, len(names.users), len(names.items))
    table = names.table()
    masked = append_mask(jnp.asarray(batch.histories), table.mask_row)
    return Case(
        theirs=theirs,
        fed=feed(names, batch, width),
        shape=shape_of(bart.config),
        params=jax.tree.map(jnp.asarray, theirs.in_our_tree()),
        sentence=encoder_input(table, jnp.asarray(batch.users), masked, width),
        answer=decoder_input(table, jnp.asarray(batch.targets)),
    )


def small_case() -> Case:
    """B = 6 users of whom one only fills the batch, T = 28, S = 5, 5 users, 9 items."""
    rng = np.random.default_rng(0)
    names = Names.draw(rng, n_users=5, n_items=9, vocab=60)
    return make_case(small_bart(), names, draw_batch(rng, names, size=6, longest=4), width=28)


def base_case() -> Case:
    """BART-base's shape: B = 4, T = 32, S = 5, 30 users, 40 items."""
    rng = np.random.default_rng(0)
    names = Names.draw(rng, n_users=30, n_items=40, vocab=50265)
    return make_case(base_bart(), names, draw_batch(rng, names, size=4, longest=6), width=32)


# ------------------------------------------------------------------ how far apart


def relative_distances(found: Params, expected: Params) -> dict[str, float]:
    """|found - expected| / |expected|, a Euclidean norm each, for every tensor by its path.

    0 where both are zero.
    """
    distances = {}
    for (path, one), (_, other) in zip(leaves(found), leaves(expected), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.shape == other.shape, path
        gap, norm = np.linalg.norm(one - other), np.linalg.norm(other)
        distances[path] = 0.0 if gap == norm == 0.0 else float(gap / max(norm, 1e-300))
    return distances


def leaves(tree: Params) -> Sequence[tuple[str, Any]]:
    """(path, array) in one order for both sides."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [("/".join(key.key for key in path), leaf) for path, leaf in flat]


def zero_by_mathematics(tree: Params) -> set[str]:
    """The tensors whose gradient is zero: a constant added to every key changes no softmax."""
    return {path for path, _ in leaves(tree) if path.endswith("key/bias")}

"""One table of names: every tensor of a BART in PyTorch and its place in our parameters.

convert.py reads a checkpoint by it and export.py writes one. The id tables are not in
it: BART has none (see id_tables.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from genrec_jax.models.genrec.model import GenRecShape

PREFIX = "model."  # before every name but the bias's where the model has its output
BIAS = "final_logits_bias"
EMBEDDING = "shared.weight"
# Copies of the tied embedding, which older checkpoints write out.
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Entry:
    """One tensor: its name in PyTorch (without the `model.` prefix) and its place here."""

    torch_name: str
    path: tuple[str, ...]
    transpose: bool = False  # PyTorch keeps linear weights as [out, in], we as [in, out]
    row: bool = False  # PyTorch keeps the output bias as [1, V], we as [V]

    @property
    def full_name(self) -> str:
        """As BartForConditionalGeneration writes it."""
        return self.torch_name if self.torch_name == BIAS else PREFIX + self.torch_name

    def torch_shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in PyTorch of a parameter that has the shape `ours` here."""
        if self.row:
            return (1, *ours)
        return ours[::-1] if self.transpose else ours

    def from_torch(self, tensor: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        if self.row:
            return tensor[0]  # [1, V] → [V]
        return tensor.T if self.transpose else tensor

    def to_torch(self, value: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        if self.row:
            return value[None]  # [V] → [1, V]
        return np.ascontiguousarray(value.T) if self.transpose else value


def name_table(shape: GenRecShape) -> list[Entry]:
    """Every tensor of a BART of this shape."""
    entries = [Entry(EMBEDDING, ("token_embedding",)), Entry(BIAS, (BIAS,), row=True)]
    for side, layers in (("encoder", shape.encoder_layers), ("decoder", shape.decoder_layers)):
        entries.append(Entry(f"{side}.embed_positions.weight", (side, "embedding", "positions")))
        entries += _norm(f"{side}.layernorm_embedding", (side, "embedding", "norm"))
        for i in range(layers):
            entries += _layer(side, f"{side}.layers.{i}", (side, "layers", str(i)))
    return entries


def leaf(tree: Any, path: tuple[str, ...]) -> Any:
    """What stands at a path of a nested dict."""
    for name in path:
        tree = tree[name]
    return tree


def set_leaf(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _norm(torch_name: str, path: tuple[str, ...]) -> Iterator[Entry]:
    yield Entry(f"{torch_name}.weight", (*path, "scale"))
    yield Entry(f"{torch_name}.bias", (*path, "bias"))


def _linear(torch_name: str, path: tuple[str, ...]) -> Iterator[Entry]:
    yield Entry(f"{torch_name}.weight", (*path, "kernel"), transpose=True)
    yield Entry(f"{torch_name}.bias", (*path, "bias"))


def _layer(side: str, torch_name: str, path: tuple[str, ...]) -> Iterator[Entry]:
    attentions = {"encoder": {"self_attn": "attention"}}.get(
        side, {"self_attn": "self_attention", "encoder_attn": "cross_attention"}
    )
    for theirs, ours in attentions.items():
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
            yield from _linear(f"{torch_name}.{theirs}.{letter}_proj", (*path, ours, name))
        yield from _norm(f"{torch_name}.{theirs}_layer_norm", (*path, f"{ours}_norm"))
    yield from _linear(f"{torch_name}.fc1", (*path, "feed_forward", "up"))
    yield from _linear(f"{torch_name}.fc2", (*path, "feed_forward", "down"))
    yield from _norm(f"{torch_name}.final_layer_norm", (*path, "final_norm"))

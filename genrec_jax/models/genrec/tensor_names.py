"""Map the names of a BART's tensors in Hugging Face checkpoints to paths in our parameters.

convert.py reads checkpoints with this mapping, and export.py writes them. It does not cover the id
tables, since a BART has none (id_tables.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from genrec_jax.models.genrec.model import GenRecShape

PREFIX = "model."  # the prefix of all names but BIAS in BartForConditionalGeneration
BIAS = "final_logits_bias"
EMBEDDING = "shared.weight"
# Copies of EMBEDDING, to which they are tied, in older checkpoints.
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Entry:
    """One tensor: its name in PyTorch, its path in our parameters, and their layouts."""

    torch_name: str  # without PREFIX
    path: tuple[str, ...]  # keys of the nested dict of parameters
    transpose: bool = False  # PyTorch stores linear weights as [out, in], we as [in, out]
    row: bool = False  # PyTorch stores the output bias as [1, V], we as [V]

    @property
    def full_name(self) -> str:
        """The tensor's name in BartForConditionalGeneration."""
        return self.torch_name if self.torch_name == BIAS else PREFIX + self.torch_name

    def torch_shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Convert a shape from our layout to PyTorch's."""
        if self.row:
            return (1, *ours)
        return ours[::-1] if self.transpose else ours

    def from_torch(self, tensor: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Convert a tensor from PyTorch's layout to ours."""
        if self.row:
            return tensor[0]  # [1, V] → [V]
        return tensor.T if self.transpose else tensor

    def to_torch(self, value: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Convert a parameter from our layout to PyTorch's."""
        if self.row:
            return value[None]  # [V] → [1, V]
        return np.ascontiguousarray(value.T) if self.transpose else value


def name_table(shape: GenRecShape) -> list[Entry]:
    """Return one entry per tensor of a BART with the given numbers of layers."""
    entries = [Entry(EMBEDDING, ("token_embedding",)), Entry(BIAS, (BIAS,), row=True)]
    for side, layers in (("encoder", shape.encoder_layers), ("decoder", shape.decoder_layers)):
        entries.append(Entry(f"{side}.embed_positions.weight", (side, "embedding", "positions")))
        entries += _norm(f"{side}.layernorm_embedding", (side, "embedding", "norm"))
        for i in range(layers):
            entries += _layer(side, f"{side}.layers.{i}", (side, "layers", str(i)))
    return entries


def leaf(tree: Any, path: tuple[str, ...]) -> Any:
    """Return the value at a path of a nested dict."""
    for name in path:
        tree = tree[name]
    return tree


def set_leaf(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set the value at a path of a nested dict, creating inner dicts."""
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

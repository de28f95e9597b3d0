"""A Hugging Face BART checkpoint → our parameters, by one table of names.

The id tables are not in the checkpoint and keep their random start.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file

from genrec_jax.errors import InputError
from genrec_jax.model.bart import BartShape
from genrec_jax.model.genrec import Params

ID_TABLES = ("user_embedding", "item_embedding")
# Copies of the tied embedding, which older checkpoints write out.
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")

# The way BART computes; another value would need another model.
REQUIRED = {
    "model_type": "bart",
    "activation_function": "gelu",
    "scale_embedding": False,
    "normalize_before": False,
    "add_final_layer_norm": False,
    "normalize_embedding": True,
}
SHAPE_KEYS = {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "encoder_heads": "encoder_attention_heads",
    "decoder_heads": "decoder_attention_heads",
    "encoder_ffn_dim": "encoder_ffn_dim",
    "decoder_ffn_dim": "decoder_ffn_dim",
    "max_positions": "max_position_embeddings",
}


@dataclass(frozen=True)
class Entry:
    """One tensor: its name in PyTorch (without the `model.` prefix) and its place here."""

    torch_name: str
    path: tuple[str, ...]
    transpose: bool = False  # PyTorch keeps linear weights as [out, in]


def read_shape(folder: Path) -> BartShape:
    """The sizes in a folder's config.json; dropout rates are left at their defaults.

    Raises:
        InputError: no config.json, or one of a model that is not BART as REQUIRED has it.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a BART config: {error}") from None
    for key, expected in REQUIRED.items():
        if config.get(key, expected) != expected:
            raise InputError(f"{path}: {key} is {config[key]!r}, expected {expected!r}")
    missing = [name for name in SHAPE_KEYS.values() if name not in config]
    if missing:
        raise InputError(f"{path}: the keys {', '.join(missing)} are missing")
    return BartShape(**{ours: config[theirs] for ours, theirs in SHAPE_KEYS.items()})


def name_table(shape: BartShape) -> list[Entry]:
    """Every tensor of a BART of this shape."""
    entries = [
        Entry("shared.weight", ("token_embedding",)),
        Entry("final_logits_bias", ("final_logits_bias",)),
    ]
    for side, layers in (("encoder", shape.encoder_layers), ("decoder", shape.decoder_layers)):
        entries.append(Entry(f"{side}.embed_positions.weight", (side, "embedding", "positions")))
        entries += _norm(f"{side}.layernorm_embedding", (side, "embedding", "norm"))
        for i in range(layers):
            entries += _layer(side, f"{side}.layers.{i}", (side, "layers", str(i)))
    return entries


def load_params(folder: Path, shape: BartShape, params: Params) -> Params:
    """`params` with everything but the id tables taken from the folder's model.safetensors.

    Raises:
        InputError: tensors that are missing, unknown or of another shape, all named together.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, expected BART's weights; to train from scratch set "
            "--config.model.pretrained="
        )
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from None
    tensors = {name.removeprefix("model."): value for name, value in tensors.items()}
    for name in TIED:
        tensors.pop(name, None)
    # A bare BartModel, as facebook/bart-base is, has no output bias: it is zero.
    tensors.setdefault("final_logits_bias", np.zeros((1, shape.vocab_size), np.float32))

    faults = []
    converted = {name: params[name] for name in ID_TABLES}
    for entry in name_table(shape):
        tensor = tensors.pop(entry.torch_name, None)
        expected = _leaf(params, entry.path).shape
        if tensor is None:
            faults.append(f"{entry.torch_name} is missing")
            continue
        value = _from_torch(tensor, entry)
        if value.shape != expected:
            faults.append(f"{entry.torch_name} has shape {tensor.shape}, expected {expected}")
            continue
        _set(converted, entry.path, jnp.asarray(value, jnp.float32))
    faults += [f"{name} is unknown" for name in sorted(tensors)]
    if faults:
        raise InputError(f"{path}: {len(faults)} tensors do not fit: {'; '.join(faults)}")
    if jax.tree.structure(converted) != jax.tree.structure(params):
        raise AssertionError("the name table does not cover the model's parameters")
    return converted


def _from_torch(tensor: Float[np.ndarray, "..."], entry: Entry) -> Float[np.ndarray, "..."]:
    if entry.path == ("final_logits_bias",):
        return tensor.reshape(-1)  # [1, V] → [V]
    return tensor.T if entry.transpose else tensor


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


def _leaf(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _set(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value

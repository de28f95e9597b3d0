"""A Hugging Face BART checkpoint → our parameters.

A BART has no id tables: they keep their random start, except the rows of users and items that a
folder which `python -m genrec_jax export` wrote knows (id_tables.py).
"""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from genrec_jax.core.errors import InputError
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.contract import Params
from genrec_jax.models.genrec.id_tables import TABLES, take_id_rows
from genrec_jax.models.genrec.model import POSITION_OFFSET, GenRecShape
from genrec_jax.models.genrec.names import (
    BIAS,
    EMBEDDING,
    PREFIX,
    TIED,
    Entry,
    leaf,
    name_table,
    set_leaf,
)
from genrec_jax.models.genrec.tensor_files import TensorFiles

log = logging.getLogger(__name__)

# The way BART computes; another value would need another model. A key that is not there has it.
REQUIRED = {
    "model_type": "bart",
    "is_encoder_decoder": True,
    "activation_function": "gelu",
    "scale_embedding": False,
    "normalize_before": False,
    "add_final_layer_norm": False,
    "normalize_embedding": True,
    "static_position_embeddings": False,
    "extra_pos_embeddings": POSITION_OFFSET,
    "tie_word_embeddings": True,
    "add_bias_logits": False,
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
# What export.py adds to config.json. The longest input is 0 where all positions are trained,
# as in a run that started from BART.
POSITION_KEYS = {
    "reversed_positions": "genrec_count_positions_from",
    "longest_input": "genrec_longest_trained_input",
}
COUNTED_FROM = {"start": False, "end": True}  # value of the first → whether they are reversed
FLOATS = ("float32", "float16", "bfloat16", "float64")
# Written by BARTs of long ago, and no part of the model.
IGNORED = ("encoder.version", "decoder.version")


@dataclass(frozen=True)
class Positions:
    """What a checkpoint's encoder positions mean; see the fields of `GenRecShape`."""

    reversed_positions: bool
    longest_input: int


def read_shape(folder: Path) -> GenRecShape:
    """The sizes in a folder's config.json; dropout rates are left at their defaults.

    Raises:
        InputError: no config.json, or one of a model that is not BART as REQUIRED has it.
    """
    path, config = folder / "config.json", _read_config(folder)
    for key, expected in REQUIRED.items():
        if config.get(key, expected) != expected:
            raise InputError(f"{path}: {key} is {config[key]!r}, expected {expected!r}")
    missing = [name for name in SHAPE_KEYS.values() if name not in config]
    if missing:
        raise InputError(f"{path}: the keys {', '.join(missing)} are missing")
    for name in SHAPE_KEYS.values():
        if type(config[name]) is not int or config[name] < 1:
            raise InputError(f"{path}: {name} is {config[name]!r}, expected a whole number from 1")
    for name in ("encoder_attention_heads", "decoder_attention_heads"):
        if config["d_model"] % config[name]:
            raise InputError(
                f"{path}: {name} is {config[name]}, expected a divisor of d_model = "
                f"{config['d_model']}"
            )
    return GenRecShape(**{ours: config[theirs] for ours, theirs in SHAPE_KEYS.items()})


def read_positions(folder: Path) -> Positions:
    """How the run that a folder was exported from counts positions; BART's way for other folders.

    Raises:
        InputError: a config.json that cannot be read, lacks one of the two keys, or has a value
            that does not fit the checkpoint.
    """
    path, config = folder / "config.json", _read_config(folder)
    if not is_export(folder):
        return Positions(False, 0)
    if missing := [key for key in POSITION_KEYS.values() if key not in config]:
        raise InputError(f"{path}: {missing[0]} is missing, which genrec_jax wrote there")
    count_from, longest = (config[key] for key in POSITION_KEYS.values())
    if count_from not in COUNTED_FROM:
        key = POSITION_KEYS["reversed_positions"]
        raise InputError(f"{path}: {key} is {count_from!r}, expected 'start' or 'end'")
    most = read_shape(folder).max_positions
    if type(longest) is not int or not 0 <= longest <= most:
        raise InputError(
            f"{path}: {POSITION_KEYS['longest_input']} is {longest!r}, expected a whole number up "
            f"to max_position_embeddings = {most}"
        )
    return Positions(COUNTED_FROM[count_from], longest)


def is_export(folder: Path) -> bool:
    """Whether export.py wrote the folder from a run, and not somebody else from a BART.

    Raises:
        InputError: a config.json that cannot be read.
    """
    return not _read_config(folder).keys().isdisjoint(POSITION_KEYS.values())


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"found {config!r}, expected an object with keys")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a BART config: {error}") from None
    return config


def load_params(
    folder: Path, shape: GenRecShape, params: Params, catalogue: Catalogue | None = None
) -> Params:
    """A folder's weights in the place of our parameters; see tensor_files.py for its forms.

    Args:
        folder: a Hugging Face folder.
        shape: what `read_shape` gives for it.
        params: the id tables to start with; of the rest only the shapes matter.
        catalogue: if given, rows of the folder's id tables are taken for the users and items that
            have the same ids.

    Raises:
        InputError: a file that cannot be read, or tensors that are missing, unknown, of another
            shape or type, or not tied, all named together.
    """
    converted: Params = {name: params[name] for name in TABLES}
    with TensorFiles(folder) as files:
        reader = _Reader(files)
        for entry in name_table(shape):
            expected = entry.torch_shape(leaf(params, entry.path).shape)
            if entry.torch_name == BIAS and not reader.has(BIAS):
                # A bare BartModel, as facebook/bart-base is, has no output bias: it is zero.
                value = np.zeros(expected, np.float32)
            else:
                value = reader.take(entry, expected)
            if value is not None:
                # A copy: what jax holds must not lean on a file or on a transposed view.
                ours = jnp.array(entry.from_torch(value), jnp.float32)
                set_leaf(converted, entry.path, ours)
        reader.finish()
    if jax.tree.structure(converted) != jax.tree.structure(params):
        raise AssertionError("the name table does not cover the model's parameters")
    if catalogue is not None:
        tables = take_id_rows(folder, catalogue, {name: params[name] for name in TABLES})
        converted |= {name: jnp.array(table) for name, table in tables.items()}
    return converted


def with_tokens(params: Params, first: int, vectors: Float[Array, "tokens D"]) -> Params:
    """The same parameters and tokens that no checkpoint knows, from row `first` on.

    The table grows where it must, and so does the output's bias, by zeros. The logits of the tokens
    that were there stay what they are.
    """
    if not len(vectors):
        return params
    stop = first + len(vectors)
    known, bias = params["token_embedding"], params[BIAS]
    return {
        **params,
        "token_embedding": jnp.concatenate([known[:first], vectors, known[stop:]]),
        BIAS: jnp.concatenate([bias[:first], jnp.zeros(len(vectors)), bias[stop:]]),
    }


class _Reader:
    """Takes the tensors of a checkpoint one after the other and collects what does not fit."""

    def __init__(self, files: TensorFiles):
        self._files = files
        self._faults: list[str] = []
        self._cast = Counter[str]()
        self._full_names: dict[str, str] = {}  # without the prefix → in the file
        for full_name in sorted(files.names()):
            name = full_name.removeprefix(PREFIX)
            if name in self._full_names:
                self._faults.append(f"{name} is there with and without {PREFIX!r} before it")
            elif name not in IGNORED:
                self._full_names[name] = full_name

    def has(self, name: str) -> bool:
        return name in self._full_names

    def take(self, entry: Entry, shape: tuple[int, ...]) -> Float[np.ndarray, "..."] | None:
        """The tensor in float32 as PyTorch has it; None, and a fault, where it does not fit."""
        if entry.torch_name == EMBEDDING:
            return self._embedding(shape)
        return self._take(entry.torch_name, shape)

    def finish(self) -> None:
        """Say what was cast; raise InputError if anything was wrong, or is left over."""
        faults = self._faults + [f"{name} is unknown" for name in sorted(self._full_names)]
        if faults:
            n = len(faults)
            what = "tensor does not fit" if n == 1 else "tensors do not fit"
            raise InputError(f"{self._files.path}: {n} {what}: {'; '.join(faults)}")
        if self._cast:
            counts = ", ".join(f"{n} tensors of {dtype}" for dtype, n in self._cast.items())
            note = " (float64 is rounded: float32 has fewer digits)" * ("float64" in self._cast)
            log.info("%s: %s became float32%s", self._files.path, counts, note)

    def _embedding(self, shape: tuple[int, ...]) -> Float[np.ndarray, "..."] | None:
        """The shared embedding, or a copy where only copies are; all must be the same."""
        present = [name for name in (EMBEDDING, *TIED) if self.has(name)]
        if not present:
            return self._take(EMBEDDING, shape)
        value = self._take(present[0], shape)
        for name in present[1:]:
            copy = self._take(name, shape)
            # Nothing to compare where one of them does not fit, which is a fault by itself.
            if value is None or copy is None or np.array_equal(value, copy, equal_nan=True):
                continue
            self._faults.append(f"{name} differs from {present[0]}: the model is not tied")
        return value

    def _take(self, name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "..."] | None:
        full_name = self._full_names.pop(name, None)
        if full_name is None:
            self._faults.append(f"{name} is missing")
            return None
        found, dtype = self._files.shape(full_name), self._files.dtype(full_name)
        if found != shape:
            self._faults.append(f"{name} has shape {found}, expected {shape}")
            return None
        if dtype not in FLOATS:
            self._faults.append(f"{name} is of type {dtype}, expected one of {', '.join(FLOATS)}")
            return None
        self._cast.update([dtype] if dtype != "float32" else [])
        with np.errstate(over="ignore"):  # told just below
            value = self._files.read(full_name).astype(np.float32, copy=False)
        if not np.isfinite(value).all():
            self._faults.append(f"{name} holds numbers that are not finite in float32")
            return None
        return value

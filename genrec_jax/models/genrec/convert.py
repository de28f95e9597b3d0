"""Convert a Hugging Face BART checkpoint to our parameters.

A BART has no id tables, so their rows keep their random initial values. A folder written by
`python -m genrec_jax export` also has the rows of its users and items (id_tables.py).
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
from genrec_jax.models.genrec.tensor_files import TensorFiles
from genrec_jax.models.genrec.tensor_names import (
    BIAS,
    EMBEDDING,
    PREFIX,
    TIED,
    Entry,
    leaf,
    name_table,
    set_leaf,
)

log = logging.getLogger(__name__)

# The values in config.json of the BART variant that the model implements, which are also the
# values of missing keys.
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
# Field of GenRecShape → key of config.json.
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
# Field of Positions → key that export.py adds to config.json.
POSITION_KEYS = {
    "reversed_positions": "genrec_count_positions_from",
    "longest_input": "genrec_longest_trained_input",
}
COUNTED_FROM = {"start": False, "end": True}  # value of the first key → reversed_positions
FLOATS = ("float32", "float16", "bfloat16", "float64")  # types that are cast to float32
# Tensors of very old checkpoints that are not part of the model.
IGNORED = ("encoder.version", "decoder.version")


@dataclass(frozen=True)
class Positions:
    """The direction of a checkpoint's encoder positions, and the number that is trained."""

    reversed_positions: bool  # whether the last token has position 0
    longest_input: int  # number of trained positions; 0: all, as in a run that started from BART


def read_shape(folder: Path) -> GenRecShape:
    """Read the sizes in a folder's config.json; dropout rates have their default values.

    Raises:
        InputError: config.json cannot be read, lacks a size or has a wrong one, or is not of the
            BART variant in REQUIRED.
    """
    path, config = folder / "config.json", _read_config(folder)
    for key, expected in REQUIRED.items():
        if config.get(key, expected) != expected:
            raise InputError(f"{path}: {key}: found {config[key]!r}, expected {expected!r}")
    missing = [name for name in SHAPE_KEYS.values() if name not in config]
    if missing:
        raise InputError(f"{path}: missing keys: {', '.join(missing)}, expected a BART config")
    for name in SHAPE_KEYS.values():
        if type(config[name]) is not int or config[name] < 1:
            raise InputError(
                f"{path}: {name}: found {config[name]!r}, expected a positive whole number"
            )
    for name in ("encoder_attention_heads", "decoder_attention_heads"):
        if config["d_model"] % config[name]:
            raise InputError(
                f"{path}: {name}: found {config[name]}, expected a divisor of d_model = "
                f"{config['d_model']}"
            )
    return GenRecShape(**{ours: config[theirs] for ours, theirs in SHAPE_KEYS.items()})


def read_positions(folder: Path) -> Positions:
    """Read how an exported folder uses its positions; other folders use them as BART does.

    Raises:
        InputError: config.json cannot be read, has only one of the two POSITION_KEYS, or has an
            impossible value.
    """
    path, config = folder / "config.json", _read_config(folder)
    if not is_export(folder):
        return Positions(False, 0)
    if missing := [key for key in POSITION_KEYS.values() if key not in config]:
        raise InputError(f"{path}: {missing[0]} is missing, expected the config.json of an export")
    count_from, longest = (config[key] for key in POSITION_KEYS.values())
    if count_from not in COUNTED_FROM:
        key = POSITION_KEYS["reversed_positions"]
        raise InputError(f"{path}: {key}: found {count_from!r}, expected 'start' or 'end'")
    most = read_shape(folder).max_positions
    if type(longest) is not int or not 0 <= longest <= most:
        raise InputError(
            f"{path}: {POSITION_KEYS['longest_input']}: found {longest!r}, expected a whole number "
            f"from 0 to max_position_embeddings = {most}"
        )
    return Positions(COUNTED_FROM[count_from], longest)


def is_export(folder: Path) -> bool:
    """Return whether a folder was written by export.py.

    Raises:
        InputError: config.json cannot be read.
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
    """Load a folder's weights as our parameters.

    Args:
        folder: a Hugging Face folder, in one of the formats of tensor_files.py.
        shape: the model's sizes, which are those of `read_shape(folder)`.
        params: the initial parameters. The id tables are used as they are; of the other parameters
            only the shapes are used.
        catalogue: the users and items of the run. If given, their id table rows are taken from the
            folder where it has the same ids.

    Returns:
        All parameters of the model, in float32.

    Raises:
        InputError: a file cannot be read, or tensors are missing, unknown, not tied, or of another
            shape or type; the message lists all faulty tensors.
    """
    converted: Params = {name: params[name] for name in TABLES}
    with TensorFiles(folder) as files:
        reader = _Reader(files)
        for entry in name_table(shape):
            expected = entry.torch_shape(leaf(params, entry.path).shape)
            if entry.torch_name == BIAS and not reader.has(BIAS):
                # A BartModel without an output, such as facebook/bart-base, has no bias.
                value = np.zeros(expected, np.float32)
            else:
                value = reader.take(entry, expected)
            if value is not None:
                # Copied, so that JAX does not alias the mapped file or a transposed view.
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
    """Add tokens to the parameters of a checkpoint.

    The logits of the tokens before them do not change.

    Args:
        params: the parameters of the checkpoint.
        first: the id of the first added token. Existing rows from `first` on are replaced, and the
            token embedding grows if necessary.
        vectors: the embeddings of the added tokens; their output biases are 0.
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
    """The tensors of a checkpoint, read one by one while faults are collected for one message."""

    def __init__(self, files: TensorFiles):
        self._files = files
        self._faults: list[str] = []
        self._cast = Counter[str]()
        self._full_names: dict[str, str] = {}  # name without the prefix → name in the file
        for full_name in sorted(files.names()):
            name = full_name.removeprefix(PREFIX)
            if name in self._full_names:
                self._faults.append(f"{name} exists with and without the prefix {PREFIX!r}")
            elif name not in IGNORED:
                self._full_names[name] = full_name

    def has(self, name: str) -> bool:
        """Return whether there is a tensor with this name that was not read yet."""
        return name in self._full_names

    def take(self, entry: Entry, shape: tuple[int, ...]) -> Float[np.ndarray, "..."] | None:
        """Read a tensor as float32 in PyTorch's layout; record a fault and return None if wrong."""
        if entry.torch_name == EMBEDDING:
            return self._embedding(shape)
        return self._take(entry.torch_name, shape)

    def finish(self) -> None:
        """Log casts to float32.

        Raises:
            InputError: there were faults, or tensors that no `take` has read.
        """
        faults = self._faults + [f"{name} is unknown" for name in sorted(self._full_names)]
        if faults:
            what = f"{len(faults)} faulty tensor{'s' * (len(faults) > 1)}"
            raise InputError(f"{self._files.path}: found {what}: {'; '.join(faults)}")
        if self._cast:
            counts = ", ".join(f"{n} {dtype} tensors" for dtype, n in self._cast.items())
            note = ", which rounds those of float64" * ("float64" in self._cast)
            log.info("%s: cast %s to float32%s", self._files.path, counts, note)

    def _embedding(self, shape: tuple[int, ...]) -> Float[np.ndarray, "..."] | None:
        """Read the tied embedding from the first of its copies; all copies must be equal."""
        present = [name for name in (EMBEDDING, *TIED) if self.has(name)]
        if not present:
            return self._take(EMBEDDING, shape)
        value = self._take(present[0], shape)
        for name in present[1:]:
            copy = self._take(name, shape)
            # A tensor that cannot be compared is already recorded as a fault.
            if value is None or copy is None or np.array_equal(value, copy, equal_nan=True):
                continue
            self._faults.append(f"{name} differs from {present[0]}, expected tied embeddings")
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
            self._faults.append(f"{name} has type {dtype}, expected one of {', '.join(FLOATS)}")
            return None
        self._cast.update([dtype] if dtype != "float32" else [])
        with np.errstate(over="ignore"):  # an overflow is recorded below
            value = self._files.read(full_name).astype(np.float32, copy=False)
        if not np.isfinite(value).all():
            self._faults.append(f"{name} has values that are not finite in float32")
            return None
        return value

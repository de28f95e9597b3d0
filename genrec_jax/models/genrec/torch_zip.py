"""PyTorch's `.bin` files without PyTorch: a zip of storages, and a pickle that says what is what.

    NAME/data.pkl      a pickled dict: tensor name → storage, offset, shape, strides
    NAME/data/KEY      the numbers of a storage, one after the other
    NAME/byteorder     "little"; older files have none

A pickle is a program. This one is run by an unpickler that knows the three functions and the
storage types that a state dict needs, and refuses everything else before it is looked up. The
functions only take notes: numbers are read a tensor at a time, when they are asked for.
"""

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from genrec_jax.core.errors import InputError

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
RESAVE = (
    'python -c "from transformers import BartForConditionalGeneration as B; '
    "B.from_pretrained('FOLDER').save_pretrained('FOLDER')\""
)


class Storage(NamedTuple):
    """A run of numbers in the zip."""

    key: str
    dtype: str
    size: int


class View(NamedTuple):
    """A tensor: some numbers of a storage. Offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchZip:
    """The tensors of one `.bin` file."""

    def __init__(self, path: Path):
        """Read what the file holds, but no numbers.

        Raises:
            InputError: the file is of the format before PyTorch 1.6, damaged, big-endian, or its
                pickle asks for more than a state dict needs.
        """
        self.path = path
        self._last: tuple[Storage, bytes] | None = None
        try:
            self._zip = ZipFile(path)
        except (OSError, BadZipFile) as error:
            raise InputError(_why_not_a_zip(path, error)) from None
        try:
            self._prefix = self._find_prefix()
            order = self._optional("byteorder")
            if order not in ("", "little"):
                raise InputError(f"{path}: its numbers are {order}-endian, expected little-endian")
            self._views = _unpickle(path, self._read("data.pkl"))
        except BaseException:
            self._zip.close()
            raise

    def names(self) -> list[str]:
        return list(self._views)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._views[name].shape

    def dtype(self, name: str) -> str:
        return self._views[name].storage.dtype

    def read(self, name: str) -> Shaped[np.ndarray, "..."]:
        """One tensor, contiguous.

        Raises:
            InputError: its storage is missing, damaged, or too small for it.
        """
        storage, offset, shape, strides = self._views[name]
        dtype = jnp.dtype(storage.dtype)  # of jax: numpy has no bfloat16
        numbers = self._numbers(storage)
        try:
            if len(numbers) != storage.size * dtype.itemsize:
                raise ValueError(f"{len(numbers)} bytes for {storage.size} {storage.dtype}")
            in_bytes = tuple(stride * dtype.itemsize for stride in strides)
            # numpy refuses a view that would reach beyond the buffer
            view = np.ndarray(shape, dtype, numbers, offset * dtype.itemsize, in_bytes)
        except ValueError as error:
            raise InputError(f"{self.path}: {name} does not fit its storage: {error}") from None
        return np.array(view, order="C")

    def close(self) -> None:
        self._zip.close()

    def _numbers(self, storage: Storage) -> bytes:
        """The bytes of a storage. The last is kept: tensors that share one stand together."""
        if self._last is None or self._last[0] != storage:
            self._last = None
            self._last = storage, self._read(f"data/{storage.key}")
        return self._last[1]

    def _find_prefix(self) -> str:
        found = [name for name in self._zip.namelist() if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise InputError(f"{self.path}: a zip without data.pkl, expected PyTorch's tensors")
        return found[0].removesuffix("data.pkl")

    def _optional(self, name: str) -> str:
        if self._prefix + name not in self._zip.namelist():
            return ""
        return self._read(name).decode("ascii", "replace").strip()

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(self._prefix + name)
        except KeyError:
            raise InputError(f"{self.path}: its part {name} is missing") from None
        except Exception as error:  # zipfile raises several kinds on a damaged file
            raise InputError(f"{self.path}: its part {name} cannot be read: {error}") from None


class _StateDictUnpickler(pickle.Unpickler):
    """Runs the pickle of a state dict and nothing else.

    A pickle can set attributes of what it gets. What it gets here are bound methods, strings and
    tuples, which have none to set, and OrderedDicts, where PyTorch does so too (`_metadata`).
    """

    def __init__(self, path: Path, data: bytes):
        super().__init__(io.BytesIO(data))
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name == "torch" and global_name in STORAGES:
            return STORAGES[global_name]
        allowed = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
        }
        name = f"{module_name}.{global_name}"
        if name not in allowed:
            raise InputError(
                f"{self._path}: its pickle asks for {name}, which no dict of tensors needs; refused"
            )
        return allowed[name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, size = pid
        if kind != "storage" or dtype not in STORAGES.values() or not isinstance(key, str):
            raise ValueError(f"found {pid!r}, expected a storage")
        return Storage(key, dtype, _count(size))

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> View:
        """The rest is whether a gradient is wanted, and hooks."""
        if not isinstance(storage, Storage) or len(shape) != len(strides):
            raise ValueError(f"found a tensor of {storage!r}, {shape!r}, {strides!r}")
        return View(storage, _count(offset), tuple(map(_count, shape)), tuple(map(_count, strides)))

    def _parameter(self, view: Any, *_: Any) -> View:
        if not isinstance(view, View):
            raise ValueError(f"found a parameter of {view!r}")
        return view


def _unpickle(path: Path, data: bytes) -> dict[str, View]:
    try:
        found = _StateDictUnpickler(path, data).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(f"{path}: its pickle cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, expected a dict of tensors")
    for name, view in found.items():
        if not isinstance(name, str) or not isinstance(view, View):
            raise InputError(f"{path}: its entry {name!r} is no tensor, expected a dict of tensors")
    return dict(found)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"found {value!r}, expected a whole number from 0")
    return value


def _why_not_a_zip(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError:
        start = b""
    if start[:1] == b"\x80":
        return (
            f"{path}: is in PyTorch's format from before 1.6, which only PyTorch reads; save it "
            f"anew as safetensors: {RESAVE}"
        )
    return f"{path}: cannot be read as PyTorch's zip of tensors: {error}"

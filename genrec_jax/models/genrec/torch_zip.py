"""Read PyTorch's `.bin` files without PyTorch: a zip of storages, described by a pickle.

    NAME/data.pkl      a pickled dict: tensor name → storage, offset, shape, strides
    NAME/data/KEY      the values of a storage
    NAME/byteorder     "little"; missing in older files

A pickle can run any function. This unpickler allows only the three functions and the storage types
of a state dict, and refuses other names without importing them. The functions only record their
arguments. Values are read later, tensor by tensor.
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
    """A contiguous array of values in the zip."""

    key: str  # name of its file in NAME/data
    dtype: str  # a NumPy type, such as float32
    size: int  # number of values


class View(NamedTuple):
    """A tensor as a view of a storage; the offset and the strides count values, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchZip:
    """The tensors of one `.bin` file, with the interface of SafetensorsFile."""

    def __init__(self, path: Path):
        """Open a file and read the names and shapes of its tensors, but no values.

        Raises:
            InputError: the file is missing or damaged, is big-endian, has the format from before
                PyTorch 1.6, or contains other objects than tensors.
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
                raise InputError(f"{path}: found {order}-endian values, expected little-endian")
            self._views = _unpickle(path, self._read("data.pkl"))
        except BaseException:
            self._zip.close()
            raise

    def names(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self._views)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._views[name].shape

    def dtype(self, name: str) -> str:
        """Return the type of a tensor, such as float32."""
        return self._views[name].storage.dtype

    def read(self, name: str) -> Shaped[np.ndarray, "..."]:
        """Read the values of a tensor as a contiguous array.

        Raises:
            InputError: the tensor's storage is missing, damaged, or of another size.
        """
        storage, offset, shape, strides = self._views[name]
        dtype = jnp.dtype(storage.dtype)  # JAX's, since NumPy has no bfloat16
        data = self._storage_bytes(storage)
        try:
            if len(data) != storage.size * dtype.itemsize:
                raise ValueError(
                    f"found {len(data)} bytes, expected {storage.size} values of {storage.dtype}"
                )
            in_bytes = tuple(stride * dtype.itemsize for stride in strides)
            # NumPy refuses a view beyond the buffer.
            view = np.ndarray(shape, dtype, data, offset * dtype.itemsize, in_bytes)
        except ValueError as error:
            raise InputError(f"{self.path}: {name} does not fit its storage: {error}") from None
        return np.array(view, order="C")

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def _storage_bytes(self, storage: Storage) -> bytes:
        """Read the bytes of a storage; the last one is cached for tensors that share it."""
        if self._last is None or self._last[0] != storage:
            self._last = None
            self._last = storage, self._read(f"data/{storage.key}")
        return self._last[1]

    def _find_prefix(self) -> str:
        """Return `NAME/`, with which the names of all parts start."""
        found = [name for name in self._zip.namelist() if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise InputError(
                f"{self.path}: found a zip with {len(found)} data.pkl, expected PyTorch's zip of "
                "tensors, which has one"
            )
        return found[0].removesuffix("data.pkl")

    def _optional(self, name: str) -> str:
        """Read a part as text; "" if it is missing."""
        if self._prefix + name not in self._zip.namelist():
            return ""
        return self._read(name).decode("ascii", "replace").strip()

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(self._prefix + name)
        except KeyError:
            raise InputError(f"{self.path}: {name} is missing in the zip") from None
        except Exception as error:  # zipfile raises several types of exceptions for a damaged file
            raise InputError(f"{self.path}: {name} in the zip cannot be read: {error}") from None


class _StateDictUnpickler(pickle.Unpickler):
    """An unpickler that reads a state dict and refuses all other objects.

    A pickle can set attributes of the objects that it gets. Here these are bound methods, strings
    and tuples, whose attributes cannot be set, and OrderedDicts, as in PyTorch (`_metadata`).
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
                f"{self._path}: found {name} in data.pkl, expected only tensors; it was not run"
            )
        return allowed[name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, size = pid
        if kind != "storage" or dtype not in STORAGES.values() or not isinstance(key, str):
            raise ValueError(f"found {pid!r}, expected a storage")
        return Storage(key, dtype, _count(size))

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> View:
        """Record a tensor; further arguments, such as gradient hooks, are ignored."""
        if not isinstance(storage, Storage) or len(shape) != len(strides):
            raise ValueError(
                f"found a tensor with the storage {storage!r}, shape {shape!r} and strides "
                f"{strides!r}"
            )
        return View(storage, _count(offset), tuple(map(_count, shape)), tuple(map(_count, strides)))

    def _parameter(self, view: Any, *_: Any) -> View:
        """Record a parameter as its tensor; further arguments are ignored."""
        if not isinstance(view, View):
            raise ValueError(f"found a parameter with the value {view!r}, expected a tensor")
        return view


def _unpickle(path: Path, data: bytes) -> dict[str, View]:
    """Unpickle a state dict: the name of each tensor → its view."""
    try:
        state = _StateDictUnpickler(path, data).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises many types of exceptions
        raise InputError(f"{path}: data.pkl cannot be read: {error}") from None
    if not isinstance(state, dict):
        kind = type(state).__name__
        raise InputError(f"{path}: found an object of type {kind}, expected a dict of tensors")
    for name, view in state.items():
        if not isinstance(name, str) or not isinstance(view, View):
            raise InputError(
                f"{path}: found {name!r}, which is not a tensor, expected only tensors"
            )
    return dict(state)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"found {value!r}, expected a whole number of at least 0")
    return value


def _why_not_a_zip(path: Path, error: Exception) -> str:
    """Return the error message for a file that is not a zip."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError:
        start = b""
    if start[:1] == b"\x80":
        return (
            f"{path}: found PyTorch's format from before 1.6, expected its zip format; save the "
            f"model as safetensors: {RESAVE}"
        )
    return f"{path}: cannot be read as PyTorch's zip of tensors: {error}"

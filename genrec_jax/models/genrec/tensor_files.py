"""Read the tensors of a Hugging Face folder, in any of four formats.

    model.safetensors                 one file
    model.safetensors.index.json      an index of sharded files
    pytorch_model.bin                 PyTorch's zip
    pytorch_model.bin.index.json      an index of sharded zips

The first of these that exists is read. Tensors are read one by one, so that a checkpoint is never
in memory twice.
"""

import json
import logging
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open

from genrec_jax.core.errors import InputError
from genrec_jax.models.genrec.torch_zip import TorchZip

log = logging.getLogger(__name__)

INDEX = ".index.json"
FORMS = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
# Type in safetensors → type in NumPy. Other types keep their safetensors names.
SAFETENSORS_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class SafetensorsFile:
    """One `.safetensors` file, mapped into memory."""

    def __init__(self, path: Path):
        """Open a file.

        Raises:
            InputError: the file is missing, truncated, or has another format.
        """
        try:
            self._file: Any = safe_open(path, framework="np").__enter__()
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read as safetensors: {error}") from None

    def names(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self._file.keys())

    def metadata(self) -> dict[str, str]:
        """Return the metadata in the file's header."""
        return self._file.metadata() or {}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Return the type of a tensor, such as float32."""
        code = str(self._file.get_slice(name).get_dtype())
        return SAFETENSORS_TYPES.get(code, code)

    def read(self, name: str) -> Shaped[np.ndarray, "..."]:
        """Read the values of a tensor."""
        return self._file.get_tensor(name)

    def close(self) -> None:
        """Close the file."""
        self._file.__exit__(None, None, None)


TensorFile = SafetensorsFile | TorchZip


class TensorFiles:
    """The tensors of a checkpoint by name, whatever its format; a context manager."""

    def __init__(self, folder: Path):
        """Open the files of a folder, without reading tensors.

        Raises:
            InputError: there are no weights, a file cannot be read, or an index does not match its
                shards; the message lists all mismatches.
        """
        self.path = _find(folder)
        self._open: list[TensorFile] = []
        self._file_of: dict[str, TensorFile] = {}  # name of a tensor → its file
        try:
            if self.path.name.endswith(INDEX):
                self._open_shards()
            else:
                file = self._add(self.path)
                self._file_of = dict.fromkeys(file.names(), file)
        except BaseException:
            self.close()
            raise

    def names(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._file_of[name].shape(name)

    def dtype(self, name: str) -> str:
        """Return the type of a tensor, such as float32."""
        return self._file_of[name].dtype(name)

    def read(self, name: str) -> Shaped[np.ndarray, "..."]:
        """Read the values of a tensor."""
        return self._file_of[name].read(name)

    def close(self) -> None:
        """Close all files."""
        for file in self._open:
            file.close()

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _add(self, path: Path) -> TensorFile:
        file = SafetensorsFile(path) if path.suffix == ".safetensors" else TorchZip(path)
        self._open.append(file)
        return file

    def _open_shards(self) -> None:
        """Open the shards, and check that each contains exactly the tensors in the index."""
        index = _read_index(self.path)
        faults = []
        for shard in sorted(set(index.values())):
            path = self.path.with_name(shard)
            expected = {name for name, file_name in index.items() if file_name == shard}
            if not path.is_file():
                faults.append(f"{shard} is missing, expected {len(expected)} tensors in it")
                continue
            file = self._add(path)
            found = set(file.names())
            faults += [f"{name} is missing in {shard}" for name in sorted(expected - found)]
            faults += [
                f"{name} is in {shard}, but the index does not list it there"
                for name in sorted(found - expected)
            ]
            self._file_of |= dict.fromkeys(expected, file)
        if faults:
            raise InputError(f"{self.path}: does not match its shards: {'; '.join(faults)}")


def _find(folder: Path) -> Path:
    """Return the file in the first of the FORMS that a folder has; log which others are ignored."""
    found = [folder / name for name in FORMS if (folder / name).is_file()]
    if not found:
        raise InputError(
            f"{folder}: found no weights, expected {', '.join(FORMS[:-1])} or {FORMS[-1]}; to "
            "train from scratch, set --config.model.pretrained="
        )
    if found[1:]:
        ignored = ", ".join(path.name for path in found[1:])
        log.info("%s: reading %s, ignoring %s", folder, found[0].name, ignored)
    return found[0]


def _read_index(path: Path) -> dict[str, str]:
    """Read an index: the name of each tensor → the name of its file."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not index or not all(
            isinstance(shard, str) and shard == Path(shard).name for shard in index.values()
        ):
            raise ValueError("its weight_map must name files of the folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read as an index of shards: {error!r}") from None
    return index

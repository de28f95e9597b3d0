"""The tensors of a Hugging Face folder, whichever of its four forms they are saved in.

    model.safetensors                 one file
    model.safetensors.index.json      an index, and the shards that it names
    pytorch_model.bin                 PyTorch's zip
    pytorch_model.bin.index.json      an index, and zips

The first of these that is there is read. A tensor is read when it is asked for, so that a
checkpoint is never in memory twice.
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
# What safetensors calls the types that weights come in; others keep its name and are refused.
SAFETENSORS_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class SafetensorsFile:
    """One `.safetensors` file, mapped into memory."""

    def __init__(self, path: Path):
        """Raises InputError for a file that is missing, cut short, or of another format."""
        try:
            self._file: Any = safe_open(path, framework="np").__enter__()
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read as safetensors: {error}") from None

    def names(self) -> list[str]:
        return list(self._file.keys())

    def metadata(self) -> dict[str, str]:
        """What the file's header says besides its tensors."""
        return self._file.metadata() or {}

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        found = str(self._file.get_slice(name).get_dtype())
        return SAFETENSORS_TYPES.get(found, found)

    def read(self, name: str) -> Shaped[np.ndarray, "..."]:
        return self._file.get_tensor(name)

    def close(self) -> None:
        self._file.__exit__(None, None, None)


TensorFile = SafetensorsFile | TorchZip


class TensorFiles:
    """All tensors of a checkpoint under their names in it. Use it as a context manager."""

    def __init__(self, folder: Path):
        """Open the folder's files; no numbers are read yet.

        Raises:
            InputError: no weights, a file that cannot be read, or an index that does not fit its
                shards, everything that is wrong with it together.
        """
        self.path = _find(folder)
        self._open: list[TensorFile] = []
        self._holders: dict[str, TensorFile] = {}
        try:
            if self.path.name.endswith(INDEX):
                self._open_shards()
            else:
                file = self._add(self.path)
                self._holders = dict.fromkeys(file.names(), file)
        except BaseException:
            self.close()
            raise

    def names(self) -> list[str]:
        return list(self._holders)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._holders[name].shape(name)

    def dtype(self, name: str) -> str:
        return self._holders[name].dtype(name)

    def read(self, name: str) -> Shaped[np.ndarray, "..."]:
        return self._holders[name].read(name)

    def close(self) -> None:
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
        """Each shard must hold just the tensors that the index places there."""
        index = _read_index(self.path)
        faults = []
        for shard in sorted(set(index.values())):
            path = self.path.with_name(shard)
            expected = {name for name, place in index.items() if place == shard}
            if not path.is_file():
                faults.append(f"{shard}, with {len(expected)} tensors, is missing")
                continue
            file = self._add(path)
            found = set(file.names())
            faults += [f"{name} is missing in {shard}" for name in sorted(expected - found)]
            faults += [
                f"{name} is in {shard}, but the index does not place it there"
                for name in sorted(found - expected)
            ]
            self._holders |= dict.fromkeys(expected, file)
        if faults:
            raise InputError(f"{self.path}: does not fit its shards: {'; '.join(faults)}")


def _find(folder: Path) -> Path:
    found = [folder / name for name in FORMS if (folder / name).is_file()]
    if not found:
        raise InputError(
            f"{folder}: no weights here, expected {', '.join(FORMS[:-1])} or {FORMS[-1]}; to train "
            "from scratch set --config.model.pretrained="
        )
    if found[1:]:
        others = ", ".join(path.name for path in found[1:])
        log.info("%s: reading %s, leaving %s aside", folder, found[0].name, others)
    return found[0]


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name → file name."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not index or not all(
            isinstance(shard, str) and shard == Path(shard).name for shard in index.values()
        ):
            raise ValueError("its weight_map must name files of the folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read as an index of shards: {error!r}") from None
    return index

"""Atomic file writes, and detection of disk faults whatever exception reports them.

A disk fault is a full, read-only, unwritable or failing disk. Python and pyarrow raise an OSError
with an errno. DuckDB, safetensors, tokenizers and array_record raise exceptions of their own types,
which have in common that their text contains the operating system's message, such as "No space left
on device".
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from genrec_jax.core.errors import DiskError, InputError

FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES)
LONGEST = 160  # characters kept of a library's own message
DRAFT = ".part"  # the suffix of a file that is still being written


def disk_fault(error: BaseException) -> str | None:
    """Return the operating system's message if the error reports a disk fault, else None."""
    if isinstance(error, OSError):
        return describe(error) if error.errno in FAULTS else None
    return _system_message(error)


def describe(error: Exception) -> str:
    """Return one line on why writing failed.

    This is the operating system's message, followed by the file if the error has one; without such
    a message it is the start of the error's own text.
    """
    if isinstance(error, OSError) and error.errno is not None:
        file = f" ({error.filename})" if isinstance(error.filename, str | Path) else ""
        return os.strerror(error.errno) + file
    return _system_message(error) or " ".join(str(error).split())[:LONGEST]


def _system_message(error: BaseException) -> str | None:
    text = str(error)
    return next((message for message in map(os.strerror, FAULTS) if message in text), None)


@contextlib.contextmanager
def writing(what: object, *kinds: type[Exception]) -> Iterator[None]:
    """Turn disk faults raised inside the block into a DiskError that names the target.

    Inside the block every OSError counts as a disk fault. That includes a missing parent folder and
    a file where a folder is expected.

    Args:
        what: the target of the write, as the user knows it: a path, or a flag with its path.
        kinds: exception types of libraries that count as disk faults even if their text does not
            contain the operating system's message.

    Raises:
        DiskError: "WHAT cannot be written: REASON".
    """
    try:
        yield
    except InputError:  # it already has a message for the user
        raise
    except Exception as error:
        if not isinstance(error, (OSError, *kinds)) and disk_fault(error) is None:
            raise
        raise DiskError(f"{what} cannot be written: {describe(error)}") from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file atomically: afterwards it is complete or does not exist.

    Yields:
        A draft next to `path` to write to. It replaces `path` when the block ends; if the block
        fails, it is removed.

    Raises:
        DiskError: the file cannot be written.
    """
    draft = path.with_name(path.name + DRAFT)
    with writing(path):
        try:
            yield draft
            os.replace(draft, path)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically: afterwards it is complete or does not exist.

    Raises:
        DiskError: the file cannot be written.
    """
    with atomic_file(path) as draft:
        draft.write_text(text, encoding="utf-8")

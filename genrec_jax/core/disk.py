"""Files written whole or not at all, and disk faults by whatever exception they arrive.

A disk fault is a full, read-only, unwritable or failing disk. Python and pyarrow raise an OSError
with its errno. DuckDB, safetensors, tokenizers and array_record raise exceptions of their own
types; what these have in common is the operating system's message in their text: "No space left on
device".
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from genrec_jax.core.errors import DiskError, InputError

FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES)
LONGEST = 160  # characters of a library's own message
DRAFT = ".part"  # the ending of a file that is not whole yet


def disk_fault(error: BaseException) -> str | None:
    """The operating system's message if the error is or reports a disk fault, else None."""
    if isinstance(error, OSError):
        return describe(error) if error.errno in FAULTS else None
    return _system_message(error)


def describe(error: Exception) -> str:
    """One line on why writing failed: the system's message, with the file if the error has one."""
    if isinstance(error, OSError) and error.errno is not None:
        file = f" ({error.filename})" if isinstance(error.filename, str | Path) else ""
        return os.strerror(error.errno) + file
    return _system_message(error) or " ".join(str(error).split())[:LONGEST]


def _system_message(error: BaseException) -> str | None:
    text = str(error)
    return next((message for message in map(os.strerror, FAULTS) if message in text), None)


@contextlib.contextmanager
def writing(what: object, *kinds: type[Exception]) -> Iterator[None]:
    """While something is written, turn what the disk refuses into a DiskError that names it.

    Inside, any OSError counts as the disk's: a missing parent folder or a file in its place too.

    Args:
        what: is written, as the user knows it: a path, or a flag with its path.
        kinds: exceptions of libraries that count as the disk's even without the system's message.

    Raises:
        DiskError: "WHAT cannot be written: REASON".
    """
    try:
        yield
    except InputError:  # it is in words already
        raise
    except Exception as error:
        if not isinstance(error, (OSError, *kinds)) and disk_fault(error) is None:
            raise
        raise DiskError(f"{what} cannot be written: {describe(error)}") from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file that is there whole or not at all.

    Yields:
        A draft beside `path` to write to. It becomes `path` at the end; a failure removes it.

    Raises:
        DiskError: it cannot be written.
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
    """Write a file that is there whole or not at all.

    Raises:
        DiskError: it cannot be written.
    """
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")

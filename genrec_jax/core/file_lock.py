"""One process at a time works on a folder or a file: a second one is refused, and told by whom.

The lock is `flock` on a small file: the kernel gives it up when the process ends, however it ends,
so that no stale lock is ever in the way. On NFS it holds between machines where the server keeps
locks (Linux NFS 3 and 4 do unless mounted with `nolock`); a file system that has none is said.
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from genrec_jax.core import processes
from genrec_jax.core.disk import writing
from genrec_jax.core.errors import InputError

log = logging.getLogger(__name__)

NO_LOCKS_HERE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path` and removes it afterwards; the first of several processes does.

    Args:
        path: of the lock file; its folder is made, and removed again if nothing came into it.
        what: is locked, as the flag that names it: `--workdir=runs/beauty`.

    Raises:
        InputError: another process holds it.
        DiskError: the file cannot be made.
    """
    file, is_new = processes.once(lambda: _make_and_take(path, what))
    try:
        yield
    finally:
        if processes.is_first():
            with contextlib.suppress(OSError):
                path.unlink()
                if is_new:
                    path.parent.rmdir()
            os.close(file)


def _make_and_take(path: Path, what: str) -> tuple[int, bool]:
    """The descriptor of the lock file, and whether its folder is new."""
    is_new = not path.parent.exists()
    with writing(what):
        path.parent.mkdir(parents=True, exist_ok=True)
        return _take(path, what), is_new


def _take(path: Path, what: str) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 1000).decode(errors="replace").strip() or "of unknown name"
            os.close(file)
            raise InputError(
                f"{what}: another process works on it ({holder}); wait for it or end it"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS_HERE:
                os.close(file)
                raise
            log.warning(
                "WARNING: %s: the file system has no locks (%s): see to it that no second process "
                "works on it",
                *(what, error),
            )
            return file
        if _is_still_there(path, file):
            break
        os.close(file)  # the holder before us removed it after we had opened it
    holder = f"pid {os.getpid()} on {socket.gethostname()}: {' '.join(sys.argv)}\n"
    try:
        os.truncate(file, 0)
        os.write(file, holder.encode())
    except OSError:  # the disk is full
        path.unlink()
        os.close(file)
        raise
    return file


def _is_still_there(path: Path, file: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False

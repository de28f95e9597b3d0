"""Exclusive locks on folders and files: a second process is refused, with the name of the first.

The lock is `flock` on a small file. The kernel releases it when the process ends, however it ends,
so that no stale lock remains. On NFS it also holds between machines if the server supports locks
(Linux NFS 3 and 4 do, unless mounted with `nolock`). On a file system without locks, a warning is
logged.
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

LOCKS_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` during the block and remove it afterwards.

    If a command runs in several processes, process 0 takes the lock for all of them.

    Args:
        path: the lock file. Its folder is created if it does not exist, and removed again if it
            is still empty afterwards.
        what: the locked object, as the flag that names it: `--workdir=runs/beauty`.

    Raises:
        InputError: another process holds the lock.
        DiskError: the lock file cannot be created.
    """
    file, is_new = processes.run_on_process_0(lambda: _create_and_lock(path, what))
    try:
        yield
    finally:
        if processes.is_process_0():
            with contextlib.suppress(OSError):
                path.unlink()
                if is_new:
                    path.parent.rmdir()
            os.close(file)


def _create_and_lock(path: Path, what: str) -> tuple[int, bool]:
    """Return the descriptor of the locked file, and whether its folder was created."""
    is_new = not path.parent.exists()
    with writing(what):
        path.parent.mkdir(parents=True, exist_ok=True)
        return _lock(path, what), is_new


def _lock(path: Path, what: str) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 1000).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise InputError(
                f"{what}: in use by another process ({holder}); wait until it ends, or stop it"
            ) from None
        except OSError as error:
            if error.errno not in LOCKS_UNSUPPORTED:
                os.close(file)
                raise
            log.warning(
                "WARNING: %s: the file system does not support locks (%s); make sure that no other "
                "process uses it",
                *(what, error),
            )
            return file
        if _is_same_file(path, file):
            break
        os.close(file)  # the previous holder removed the file after it was opened here
    holder = f"pid {os.getpid()} on {socket.gethostname()}: {' '.join(sys.argv)}\n"
    try:
        os.truncate(file, 0)
        os.write(file, holder.encode())
    except OSError:  # for instance a full disk
        path.unlink()
        os.close(file)
        raise
    return file


def _is_same_file(path: Path, file: int) -> bool:
    """Return whether `path` still is the file with the open descriptor `file`."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False

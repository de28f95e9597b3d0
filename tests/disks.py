"""Disks for tests that need one to be full or read-only: tmpfs, where this process may mount."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

FILLER = "filler"


def mount(folder: Path, *options: str) -> None:
    """Mount a file system on the folder, or skip the test."""
    done = subprocess.run(["mount", *options, folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this process may not mount a file system")


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """The folder as a disk of its own, of a size like 500k."""
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path, free: int) -> None:
    """Leave so many bytes free on the folder's disk, in blocks of 4096."""
    block = b"x" * 4096
    file = os.open(folder / FILLER, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(file, block)
    size = os.fstat(file).st_size
    os.ftruncate(file, size - free)
    os.close(file)


def make_read_only(folder: Path) -> None:
    mount(folder, "-o", "remount,ro")

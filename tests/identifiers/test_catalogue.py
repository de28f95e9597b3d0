"""The identifiers of a run with several processes: process 0 writes them, all read them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from genrec_jax.core import processes
from genrec_jax.identifiers.catalogue import Catalogue


class Service:
    """A stub of JAX's coordination service whose other process has finished without a failure."""

    def __init__(self) -> None:
        self.exchanges = 0

    def key_value_set(self, key: str, value: str) -> None:
        self.exchanges += 1

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        return "[null, null]"  # no failure, no result

    def key_value_delete(self, key: str) -> None:
        pass


def as_process(process: int, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Make the test run as one of two processes."""
    service = Service()
    state = SimpleNamespace(num_processes=2, process_id=process, client=service)
    monkeypatch.setattr(processes, "distributed", SimpleNamespace(global_state=state))
    return service


@pytest.mark.parametrize("process", [0, 1])
def test_only_process_0_writes_the_identifiers(
    process: int, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = as_process(process, monkeypatch)
    catalogue.save(tmp_path / "identifiers")
    assert service.exchanges == 1  # process 1 waits until they are written
    assert (tmp_path / "identifiers").exists() == (process == 0)


@pytest.mark.parametrize("process", [0, 1])
def test_looking_up_titles_does_not_communicate(
    process: int, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup that communicates would deadlock when a single process logs titles."""
    service = as_process(process, monkeypatch)
    assert catalogue.titles(np.array([3, 1])) == [None, None]
    assert service.exchanges == 0

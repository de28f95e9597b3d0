"""The identifiers of a run that is several processes: one writes them, every one reads them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from genrec_jax.core import processes
from genrec_jax.identifiers.catalogue import Catalogue


class Service:
    """JAX's coordination service, where the other process has finished without a failure."""

    def __init__(self) -> None:
        self.exchanges = 0

    def key_value_set(self, key: str, value: str) -> None:
        self.exchanges += 1

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        return "[null, null]"  # no failure, no result

    def key_value_delete(self, key: str) -> None:
        pass


def become(process: int, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Make the test one of two processes."""
    service = Service()
    state = SimpleNamespace(num_processes=2, process_id=process, client=service)
    monkeypatch.setattr(processes, "distributed", SimpleNamespace(global_state=state))
    return service


@pytest.mark.parametrize("process", [0, 1])
def test_only_process_0_writes_the_identifiers(
    process: int, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = become(process, monkeypatch)
    catalogue.save(tmp_path / "identifiers")
    assert service.exchanges == 1  # process 1 waits until they are written
    assert (tmp_path / "identifiers").exists() == (process == 0)


@pytest.mark.parametrize("process", [0, 1])
def test_titles_are_looked_up_without_the_other_process(
    process: int, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup that communicates deadlocks where a single process logs some titles."""
    service = become(process, monkeypatch)
    assert catalogue.titles(np.array([3, 1])) == [None, None]
    assert service.exchanges == 0

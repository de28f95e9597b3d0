"""Benchmarks run as commands."""

import pytest

from genrec_jax.cli.benchmark import main


@pytest.mark.slow
def test_a_part_that_logs_returns_its_measurements(capsys: pytest.CaptureFixture[str]) -> None:
    """The process of a part prints log lines and measurements on the same standard output."""
    assert main(["benchmark", "scale", "--part=step", "--users=1000", "--items=1000"]) == 0
    printed = capsys.readouterr().out
    assert "permanent bytes on a device" in printed
    assert "seconds to compile" in printed

"""Benchmarks as commands."""

import pytest

from genrec_jax.cli.benchmark import main


@pytest.mark.slow
def test_a_part_that_logs_gives_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """The process of a part logs to the standard output that its figures come on."""
    assert main(["benchmark", "scale", "--part=step", "--users=1000", "--items=1000"]) == 0
    printed = capsys.readouterr().out
    assert "bytes that stay on a device" in printed
    assert "seconds to compile" in printed

"""Train, evaluate, recommend or audit: `python -m genrec_jax.main --config=configs/NAME.py`.

The same as `python -m genrec_jax train`, `evaluate`, `recommend` and `audit`, by --mode.
"""

from collections.abc import Sequence

from genrec_jax.cli.start import start


def main(argv: Sequence[str]) -> int:
    """Run the command that --mode names in `argv`, the program first; returns its exit code."""
    from genrec_jax.cli.launch import by_mode

    return by_mode(argv)


if __name__ == "__main__":
    start("by_mode")

"""Train, evaluate, recommend or audit: `python -m genrec_jax.main --config=configs/NAME.py`.

--mode selects the command: `--mode=evaluate` is the same as `python -m genrec_jax evaluate`.
"""

from collections.abc import Sequence

from genrec_jax.cli.start import start


def main(argv: Sequence[str]) -> int:
    """Run the command selected by --mode and return its exit code.

    Args:
        argv: the command line as in `sys.argv`, with the program's name first.
    """
    from genrec_jax.cli.launch import by_mode

    return by_mode(argv)


if __name__ == "__main__":
    start("by_mode")

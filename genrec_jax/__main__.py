"""Entry point of `python -m genrec_jax COMMAND`; each command is a module in genrec_jax/cli/."""

from genrec_jax.cli.start import start

if __name__ == "__main__":
    start("by_name")

"""`python -m genrec_jax COMMAND`: one file a command, in genrec_jax/cli/."""

import importlib
import sys

COMMANDS = {
    "prepare": "turn an interaction log into a dataset that training reads",
    "sweep": "run many settings with seeds, or a search over ranges",
    "ensemble": "combine a finished run with the item-transition kNN",
    "export": "write a run as a Hugging Face folder",
    "report": "print the paper's tables with our runs",
    "to-tfds": "write a dataset for tensorflow-datasets",
}
TRAINING = "python -m genrec_jax.main"
USAGE = "\n".join(
    [
        "python -m genrec_jax COMMAND [--help]",
        "",
        *(f"  {name:<9} {about}" for name, about in COMMANDS.items()),
        "",
        f"{TRAINING} --help: train, evaluate, audit and recommend.",
    ]
)


def main(argv: list[str]) -> int:
    """Run the command that `argv[1]` names with the arguments after it; returns its exit code."""
    name = argv[1] if len(argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(USAGE)
        return 0
    if name not in COMMANDS:
        print(
            f"error: {name}: not a command, expected one of {', '.join(COMMANDS)}", file=sys.stderr
        )
        return 2
    command = importlib.import_module(f"genrec_jax.cli.{name.replace('-', '_')}")
    return command.main([f"genrec_jax {name}", *argv[2:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv))

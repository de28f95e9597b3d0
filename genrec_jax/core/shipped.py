"""Where the files that are shipped with genrec_jax are: `configs/` and `third_party/`.

In a checkout both folders are at the repository's top level, next to the package; an editable
installation and PYTHONPATH use them there. A wheel contains them inside the package, where
pyproject.toml maps them, so that site-packages gets no folder `configs` that belongs to nobody.
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrec_jax.core.errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE if (PACKAGE / "third_party").is_dir() else PACKAGE.parent
ASSETS = ROOT / "third_party" / "assets.toml"
CONFIGS, SWEEPS = Path("configs"), Path("configs", "sweeps")


def read_assets() -> dict[str, Any]:
    """Read `third_party/assets.toml`: what can be downloaded, from where, with which checksums.

    Raises:
        InputError: the file is missing, because the package was copied without it.
    """
    try:
        with ASSETS.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise InputError(
            f"{ASSETS}: found no such file, expected the one that genrec_jax is shipped with; "
            "install the package, or copy third_party/ along with genrec_jax/"
        ) from None


def find_file(path: Path, flag: str, folder: Path) -> Path:
    """Find a config or sweep file: in the working folder, or else among the shipped files.

    Args:
        path: as the user gave it. Only `configs/…` is looked up among the shipped files.
        flag: the flag that names the file, for the message.
        folder: CONFIGS or SWEEPS; the message lists its files in both places.

    Raises:
        InputError: neither place has the file.
    """
    if path.is_file():
        return path
    may_be_shipped = path.parts[:1] == CONFIGS.parts and ".." not in path.parts
    if may_be_shipped and (ROOT / path).is_file():
        return ROOT / path
    here, shipped = (
        [str(file.relative_to(root)) for file in sorted((root / folder).glob("*.py"))]
        for root in (Path(), ROOT)
    )
    places = {"in the working folder": here, "shipped with genrec_jax": shipped}
    if here == shipped:  # in a checkout they are one place
        del places["in the working folder"]
    there = [f"{place}: {', '.join(names)}" for place, names in places.items() if names]
    raise InputError("; ".join([f"{flag}: found no file {path}", *there]))


def find_config(config: str) -> str:
    """`FILE[:variant]` with the path of an existing FILE. Raises InputError if there is none."""
    file, colon, variant = config.partition(":")
    if not file:
        raise InputError(f"--config: found {config!r}, expected FILE[:variant]")
    return f"{find_file(Path(file), '--config', CONFIGS)}{colon}{variant}"


def with_config_found(argv: Sequence[str]) -> list[str]:
    """Replace the file of `--config=FILE[:variant]`, or of `--config FILE`, by where it is.

    Raises:
        InputError: there is no such file.
    """
    found: list[str] = []
    for argument in argv:
        if found and re.fullmatch("--?config", found[-1]):
            found.append(find_config(argument))
        elif match := re.fullmatch("(--?config=)(.*)", argument, re.DOTALL):
            found.append(match[1] + find_config(match[2]))
        else:
            found.append(argument)
    return found

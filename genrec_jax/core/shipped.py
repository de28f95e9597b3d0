"""Where the files that are shipped with genrec_jax are: `configs/` and `third_party/`.

In a checkout both folders are at the repository's top level, next to the package; an editable
installation and PYTHONPATH use them there. A wheel contains them inside the package, where
pyproject.toml maps them, so that site-packages gets no folder `configs` that belongs to nobody.
"""

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType
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
        [str(file.relative_to(root)) for file in sorted((root / folder).glob("[!_]*.py"))]
        for root in (Path(), ROOT)
    )
    places = {"in the working folder": here, "shipped with genrec_jax": shipped}
    if here == shipped:  # in a checkout they are one place
        del places["in the working folder"]
    there = [f"{place}: {', '.join(names)}" for place, names in places.items() if names]
    raise InputError("; ".join([f"{flag}: found no file {path}", *there]))


def load_shipped(name: str) -> ModuleType:
    """Import a Python file of the shipped `configs/`, which is no package.

    What config files share is there, so that a copy of one works in any folder.

    Args:
        name: of the file, as _common.py.
    """
    path = ROOT / CONFIGS / name
    spec = importlib.util.spec_from_file_location(f"genrec_jax_configs_{path.stem}", path)
    assert spec is not None  # a path that ends in .py always has one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_config(config: str) -> str:
    """`FILE[:variant]` with the path of an existing FILE. Raises InputError if there is none."""
    file, colon, variant = config.partition(":")
    if not file:
        raise InputError(f"--config: found {config!r}, expected FILE[:variant]")
    return f"{find_file(Path(file), '--config', CONFIGS)}{colon}{variant}"

"""Locations of the files that are shipped with genrec_jax: `configs/` and `third_party/`.

In a checkout, both folders are at the repository's top level, next to the package. An editable
installation and PYTHONPATH use them there. A wheel contains them inside the package, as mapped by
pyproject.toml, so that site-packages does not get a top-level folder named `configs`.
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
    """Read `third_party/assets.toml`: the files to download, with their URLs and checksums.

    Raises:
        InputError: the file is missing, because the package was copied without it.
    """
    try:
        with ASSETS.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise InputError(
            f"{ASSETS}: found no such file, expected the one shipped with genrec_jax; install the "
            "package, or copy third_party/ along with genrec_jax/"
        ) from None


def find_file(path: Path, flag: str, folder: Path) -> Path:
    """Find a config or sweep file in the working folder, or else among the shipped files.

    Args:
        path: the path given by the user. Only `configs/…` is looked up among the shipped files.
        flag: the flag that names the file, for the message.
        folder: CONFIGS or SWEEPS; the message lists its files in both locations.

    Raises:
        InputError: the file is in neither location.
    """
    if path.is_file():
        return path
    may_be_shipped = path.parts[:1] == CONFIGS.parts and ".." not in path.parts
    if may_be_shipped and (ROOT / path).is_file():
        return ROOT / path
    local, shipped = (
        [str(file.relative_to(root)) for file in sorted((root / folder).glob("[!_]*.py"))]
        for root in (Path(), ROOT)
    )
    locations = {"in the working folder": local, "shipped with genrec_jax": shipped}
    if local == shipped:  # in a checkout, both are the same folder
        del locations["in the working folder"]
    available = [f"{name}: {', '.join(files)}" for name, files in locations.items() if files]
    raise InputError("; ".join([f"{flag}: found no file {path}", *available]))


def load_shipped(name: str) -> ModuleType:
    """Import a Python file of the shipped `configs/`, which is not a package.

    Config files share code in such a file, so that a copy of a config works in any folder.

    Args:
        name: the file's name, such as _common.py.
    """
    path = ROOT / CONFIGS / name
    spec = importlib.util.spec_from_file_location(f"genrec_jax_configs_{path.stem}", path)
    assert spec is not None  # the path ends in .py, for which a spec always exists
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_config(config: str) -> str:
    """Return `FILE[:variant]` with FILE replaced by the path of an existing file.

    Raises:
        InputError: FILE is empty or does not exist.
    """
    file, colon, variant = config.partition(":")
    if not file:
        raise InputError(f"--config: found {config!r}, expected FILE[:variant]")
    return f"{find_file(Path(file), '--config', CONFIGS)}{colon}{variant}"

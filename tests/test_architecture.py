"""A module imports only from its own package and from packages above it in ORDER."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT

import genrec_jax
from genrec_jax.cli.benchmark import BENCHMARKS
from genrec_jax.cli.names import COMMANDS
from genrec_jax.models import FAMILIES

# As the data flow: what is above knows nothing of what is below.
ORDER = (
    *("core", "data", "identifiers", "layers", "models", "runs", "decoding", "evaluation"),
    *("training", "reporting", "serving", "sweeps", "cli", "benchmarks"),
)
ROOT_MODULES = {"__init__", "__main__", "main"}
PACKAGE = Path(genrec_jax.__file__).parent
FILES = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in PACKAGE.rglob("*.py")}
# In a wheel `configs/` is inside the package; here it is not.
MODULES = {".".join(("genrec_jax", *parts)).removesuffix(".__init__") for parts in FILES}


def imports(path: Path) -> Iterator[str]:
    """Every imported name with its module, `genrec_jax.data.batches.Batch`; lazy imports too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_go_one_way() -> None:
    wrong = []
    for parts, path in FILES.items():
        if len(parts) == 1:
            continue  # the public API, and what test_the_root_starts_commands checks
        below = ORDER[ORDER.index(parts[0]) + 1 :]
        for name in imports(path):
            package, _, rest = name.partition(".")
            if package == "genrec_jax" and rest != "__version__":
                there = rest.partition(".")[0]
                assert there in ORDER, f"{path}: imports {name}"
                wrong += [f"{'.'.join(parts)} imports {name}"] * (there in below)
    assert not wrong


def test_the_packages_are_those_of_the_order() -> None:
    assert {parts[0] for parts in FILES if len(parts) > 1} == set(ORDER)
    assert {parts[0] for parts in FILES if len(parts) == 1} == ROOT_MODULES


def test_the_architecture_page_names_every_module() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    for parts in FILES:
        if len(parts) > 1 and parts[-1] != "__init__":
            row = rows.get("/".join(parts[:-1]) + "/", "")
            assert f"`{parts[-1]}.py`" in row, f"{'/'.join(parts)} is not on the page"
    for package, row in rows.items():
        if package.split("/")[0] in ORDER:
            parts = tuple(package.rstrip("/").split("/"))
            assert {(*parts, name) for name in re.findall(r"`(\w+)\.py`", row)} <= set(FILES)
    assert {name.rstrip("/").split("/")[0] for name in rows} >= set(ORDER)


def test_every_folder_with_a_family_is_listed() -> None:
    folders = {path.parent.name for path in (ROOT / "genrec_jax" / "models").glob("*/family.py")}
    assert folders == set(FAMILIES)


def test_libraries_stay_in_their_places() -> None:
    """What only some machines have, or what one module hides from all others."""
    allowed = {
        "orbax": {("runs", "checkpoint")},
        "ml_collections": {("core", "config_flags")},
        "torch": set(),
    }
    for parts, path in FILES.items():
        for name in imports(path):
            library = name.partition(".")[0]
            if parts[0] == "benchmarks" and library == "torch":
                continue  # timed beside ours
            assert parts in allowed.get(library, {parts}), f"{path} imports {name}"


def test_no_file_is_long() -> None:
    lengths = {parts: len(path.read_text().splitlines()) for parts, path in FILES.items()}
    assert not {parts: length for parts, length in lengths.items() if length > 450}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", genrec_jax.__all__)
def test_the_public_names_are_there(name: str) -> None:
    assert getattr(genrec_jax, name).__name__ == name
    assert name in dir(genrec_jax)


def test_the_package_is_imported_without_jax() -> None:
    done = run("-c", "import genrec_jax, sys; assert 'jax' not in sys.modules; genrec_jax.nothing")
    assert "module 'genrec_jax' has no attribute 'nothing'" in done.stderr


def test_what_computes_needs_neither_ml_collections_nor_tensorflow_datasets() -> None:
    modules = ("training.train", "serving.bulk", "reporting.run_report", "evaluation.ensemble_run")
    imported = ", ".join(f"genrec_jax.{name}" for name in modules)
    done = run("-c", f"import {imported}, sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not {"ml_collections", "tensorflow_datasets"} & set(done.stdout.split())


def test_the_root_starts_commands() -> None:
    for name in ("main", "__main__"):
        ours = {one for one in imports(FILES[(name,)]) if one.startswith("genrec_jax")}
        assert ours
        assert all(one.startswith(("genrec_jax.cli.", "genrec_jax.core.")) for one in ours)


def test_data_does_not_know_how_it_was_prepared() -> None:
    for parts, path in FILES.items():
        if parts[0] == "data" and parts[1] != "prepare":
            wrong = [name for name in imports(path) if name.startswith("genrec_jax.data.prepare.")]
            assert not wrong, f"{path} imports {wrong}"


def test_every_command_and_benchmark_has_a_file() -> None:
    for name in COMMANDS:
        assert ("cli", name.replace("-", "_")) in FILES
    for name in BENCHMARKS:
        assert ("benchmarks", name.replace("-", "_")) in FILES


FAMILY_MODULES = tuple(f"genrec_jax.models.{family}" for family in FAMILIES)
BEHIND_THE_CONTRACT = (
    "runs",
    "decoding",
    "evaluation",
    "training",
    "reporting",
    "serving",
    "sweeps",
)


def is_of_family(name: str, family: str) -> bool:
    return name == family or name.startswith(f"{family}.")


def test_only_the_contract_is_known_of_a_model() -> None:
    """What trains, ranks or serves imports no family and has no family's name in its code."""
    for parts, path in FILES.items():
        if parts[0] not in BEHIND_THE_CONTRACT:
            continue
        wrong = [
            name for name in imports(path) for one in FAMILY_MODULES if is_of_family(name, one)
        ]
        tree = ast.parse(path.read_text())
        wrong += [
            repr(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in FAMILIES
        ]
        assert not wrong, f"{path}: {wrong}"


def test_families_do_not_know_each_other() -> None:
    for family in FAMILIES:
        folder = PACKAGE / "models" / family
        assert {path.name for path in folder.glob("*.py")} >= {"config.py", "family.py", "model.py"}
        others = [f"genrec_jax.models.{other}" for other in FAMILIES if other != family]
        for path in folder.rglob("*.py"):
            wrong = [name for name in imports(path) for one in others if is_of_family(name, one)]
            assert not wrong, f"{path}: {wrong}"
        for name in (*FAMILY_MODULES, "genrec_jax.runs"):
            shared = [PACKAGE / "models" / "contract.py", *(PACKAGE / "layers").rglob("*.py")]
            assert not [one for path in shared for one in imports(path) if is_of_family(one, name)]


def test_configs_are_read_without_jax() -> None:
    imported = ", ".join(f"{module}.config" for module in FAMILY_MODULES)
    done = run("-c", f"import {imported}, genrec_jax.runs.config, sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert not {"jax", "flax", "orbax"} & set(done.stdout.split())

"""A module imports only from its own folder and from folders above it, the way the data goes."""

import ast
from pathlib import Path

import genrec_jax

# Top to bottom: the way of the data, then what stands at the end and may use all.
ORDER = [
    *(
        "errors",
        "disk",
        "endings",
        "shipped",
        "jax_settings",
        "config_keys",
        "processes",
        "devices",
        "data",
        "identifiers",
        "model",
        "training",
        "decoding",
        "measures",
    ),
    *("config", "progress", "signals", "run_lock", "fingerprints", "run_folder", "recommender"),
    *("predictions", "experiment", "audit", "run_page", "evaluate", "recommend", "phase", "train"),
    *("main", "mix", "sweeps", "sweep"),
]
PACKAGE = Path(genrec_jax.__file__).parent
PLACES = {name: place for place, name in enumerate(ORDER)}
# Modules that are a command too (`python -m genrec_jax.model.convert`). Like main.py a command may
# use all, but its imports must stand inside its function main(): importing the module brings none.
COMMANDS = {
    *(PACKAGE / "data" / "prepare.py", PACKAGE / "model" / "convert.py"),
    PACKAGE / "measures" / "report.py",
}


def imports(path: Path) -> set[str]:
    found = set()
    tree = ast.parse(path.read_text())
    if path in COMMANDS:
        tree.body = [node for node in tree.body if getattr(node, "name", "") != "main"]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_imports_go_one_way() -> None:
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if here in ("__init__", "benchmarks"):
            continue
        for module in imports(path):
            if module.startswith("genrec_jax."):
                there = module.split(".")[1]
                assert PLACES[there] <= PLACES[here], f"{path.name} imports {module}"


def test_orbax_and_ml_collections_stay_in_their_places() -> None:
    allowed = {"orbax": {"checkpoint.py"}, "ml_collections": {"main.py"}, "torch": set()}
    for path in PACKAGE.rglob("*.py"):
        for module in imports(path):
            owners = allowed.get(module.split(".")[0])
            if path.parent.name == "benchmarks" and module.startswith("torch"):
                continue  # what is timed beside ours
            assert owners is None or path.name in owners, f"{path.name} imports {module}"

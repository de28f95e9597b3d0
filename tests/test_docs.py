"""What pages, configs, launchers and the code itself point to exists: files, modules, commands."""

import re
from pathlib import Path

import pytest
from repository import ROOT

from genrec_jax.cli.names import COMMANDS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [*PAGES, *sorted((ROOT / "configs").rglob("*.py")), *sorted((ROOT / "launch").iterdir())]
TEXTS += [ROOT / "pyproject.toml", *sorted((ROOT / "genrec_jax").rglob("*.py"))]
TEXTS += [ROOT / "third_party" / "assets.toml", *sorted(ROOT.glob("requirements*.txt"))]
# Kept results tell what was run then.
TEXTS = [path for path in TEXTS if "results" not in path.parts and "renamed" not in path.name]
CODE = re.compile(r"(?<![\w/.])(?:genrec_jax|tests|configs|launch|third_party)/[\w/]+\.[a-z]+\b")
# A module without its genrec_jax/, so that one of a package that is gone is found too.
MODULE = re.compile(r"(?<![\w/.])(?!(?:genrec_jax|tests|configs|launch)/)[a-z]\w*/[\w/]+\.py\b")
COMMAND = re.compile(r"-m genrec_jax(?:(?P<module>\.[\w.]+)| +(?P<command>[a-z][a-z-]*))")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (page.parent / target).exists()]


def named_files(text: str) -> list[str]:
    """The files of the repository that a text names, as paths from its root."""
    return CODE.findall(text) + [f"genrec_jax/{name}" for name in MODULE.findall(text)]


def test_modules_are_found_in_comments() -> None:
    text = "imported by runs/checkpoint.py alone (models/bart.py); /x/data/a.py, tests/core/b.py"
    modules = ["genrec_jax/runs/checkpoint.py", "genrec_jax/models/bart.py"]
    assert named_files(text) == ["tests/core/b.py", *modules]


def test_files_that_are_named_exist() -> None:
    missing = [
        f"{ids(path)}: {name}"
        for path in TEXTS
        for name in named_files(path.read_text())
        if not (ROOT / name).exists() and not re.search(r"/(books|NAME|mine)\.py$", name)
    ]
    assert not missing


def test_commands_that_are_named_exist() -> None:
    missing = []
    for path in TEXTS:
        for match in COMMAND.finditer(path.read_text()):
            module, command = match["module"], match["command"]
            if module not in (None, ".main", ".MODULE") or (command and command not in COMMANDS):
                missing.append(f"{ids(path)}: {match[0]}")
    assert not missing

"""Reads launch/Dockerfile and its list of what is left out."""

import re
from fnmatch import fnmatchcase

from repository import ROOT

FILE = ROOT / "launch" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(KEYWORD, the rest), lines that go on joined, comments left out."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined if line)]


def is_let_through(path: str) -> bool:
    """By Docker's rules: the last line that fits the path or a folder above it decides."""
    parts = path.split("/")
    above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    found = True
    for line in FILE.with_name("Dockerfile.dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        ends = [x.rsplit("/", 1)[-1] for x in above] if pattern.startswith("**/") else above
        if any(
            fnmatchcase(x, pattern.removeprefix("**/"))
            and ("*" not in pattern or x.count("/") == 0 or pattern.startswith("**/"))
            for x in ends
        ):
            found = line.startswith("!")
    return found

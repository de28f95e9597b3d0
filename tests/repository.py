"""Where the repository is. A module of its own: there is more than one conftest.py."""

from pathlib import Path

ROOT = Path(__file__).parents[1]

"""The path of the repository, which tests in folders of different depth import from here."""

from pathlib import Path

ROOT = Path(__file__).parents[1]

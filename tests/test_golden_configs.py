"""Every shipped config, with each of its variants, has the values that are stored as text.

A default that changes shows in the texts of all configs that it changes. After a change that is
meant, write them anew: `python tests/test_golden_configs.py [FILE …]`, as sasrec.py.
"""

import json
import re
import sys
from pathlib import Path

import pytest
from repository import ROOT

from genrec_jax.core.config_fields import flat
from genrec_jax.core.errors import InputError
from genrec_jax.core.shipped import load_shipped
from genrec_jax.runs.config import config_from_dict
from genrec_jax.runs.config_source import DEFAULTS

TEXTS = ROOT / "tests" / "golden" / "configs"
FILES = sorted(path.name for path in (ROOT / "configs").glob("[!_]*.py"))


def variants(file: str) -> list[str]:
    """Those of a config file, as its message on one that it does not have lists them."""
    with pytest.raises(InputError) as refusal:
        load_shipped(file).get_config("no such variant")
    listed = re.search(r"expected one of (.*)", str(refusal.value))
    return ["", *(listed[1].split(", ") if listed else [])]


def values_of(file: str, variant: str) -> dict:
    return load_shipped(file).get_config(variant).to_dict()


def text_of(file: str, variant: str) -> str:
    """One line per key, in the order of the alphabet."""
    keys = flat(values_of(file, variant))
    return "".join(f"{key} = {json.dumps(keys[key])}\n" for key in sorted(keys))


def golden(file: str, variant: str) -> Path:
    return TEXTS / ("_".join([Path(file).stem, *variant.split()]) + ".txt")


SHIPPED = [(file, variant) for file in FILES for variant in variants(file)]


@pytest.mark.parametrize(("file", "variant"), SHIPPED)
def test_a_config_is_its_stored_text(file: str, variant: str) -> None:
    assert text_of(file, variant) == golden(file, variant).read_text()


def test_every_stored_text_is_of_a_config() -> None:
    expected = {golden(file, variant) for file, variant in SHIPPED}
    assert set(TEXTS.iterdir()) == expected
    assert {"beauty_best.txt", "sasrec.txt", "yelp_leakfree.txt"} <= {one.name for one in expected}


@pytest.mark.parametrize(("file", "variant"), [one for one in SHIPPED if one[0] != "prepare.py"])
def test_a_shipped_config_is_valid_as_it_is(file: str, variant: str) -> None:
    values = values_of(file, variant)
    assert config_from_dict(values).to_dict() == values


@pytest.mark.parametrize("family", DEFAULTS)
def test_the_defaults_of_a_family_are_valid_and_its_file_is_one_of_it(family: str) -> None:
    config = DEFAULTS[family]
    assert config_from_dict(config.to_dict()) == config
    file, _, variant = config.file.partition(":")
    assert values_of(Path(file).name, variant)["model"]["family"] == family


if __name__ == "__main__":
    chosen = sys.argv[1:] or FILES
    texts = {golden(*one): text_of(*one) for one in SHIPPED if one[0] in chosen}
    TEXTS.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text)
    for old in set(TEXTS.iterdir()) - {golden(*one) for one in SHIPPED}:
        old.unlink()

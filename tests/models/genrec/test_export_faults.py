"""Exported folders with missing files or edited values are refused."""

import json
import re
import shutil
from pathlib import Path

import pytest

from genrec_jax.core.errors import InputError
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.contract import init_params
from genrec_jax.models.genrec.convert import POSITION_KEYS, read_positions
from genrec_jax.models.genrec.export import Origin, write_folder
from genrec_jax.models.genrec.family import FAMILY
from genrec_jax.models.genrec.id_tables import FILE
from genrec_jax.models.genrec.model import GenRecShape


@pytest.fixture(scope="module")
def exported(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = GenRecShape(catalogue.vocabulary.size, 8, 1, 1, 2, 2, 8, 8, 64)
    params = init_params(shape, catalogue.table.n_users, catalogue.table.n_items, seed=0)
    folder = tmp_path_factory.mktemp("exported") / "folder"
    write_folder(folder, catalogue, shape, params, Origin("test", 7, "synthetic"))
    return folder


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reversed_positions": "middle"}, "found 'middle', expected 'start' or 'end'"),
        ({"reversed_positions": None}, "genrec_count_positions_from is missing"),
        ({"longest_input": None}, "genrec_longest_trained_input is missing"),
        ({"longest_input": 10**30}, "from 0 to max_position_embeddings = 64"),
        ({"longest_input": True}, "found True, expected a whole number"),
        ({"longest_input": -1}, "found -1, expected a whole number"),
    ],
)
def test_the_positions_of_an_export_are_checked(
    changes: dict[str, object], expected: str, exported: Path, tmp_path: Path
) -> None:
    config = json.loads((exported / "config.json").read_text())
    for name, value in changes.items():
        config[POSITION_KEYS[name]] = value
        if value is None:
            del config[POSITION_KEYS[name]]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=re.escape(expected)):
        read_positions(tmp_path)


def test_an_export_without_its_id_tables_is_refused(exported: Path, tmp_path: Path) -> None:
    """Its tokenizer would be loaded as BART's, which splits identifiers into other tokens."""
    folder = Path(shutil.copytree(exported, tmp_path / "folder"))
    assert FAMILY.vocabulary(folder).size > 0
    (folder / FILE).unlink()
    with pytest.raises(InputError, match=f"found an export of genrec_jax without {FILE}"):
        FAMILY.vocabulary(folder)

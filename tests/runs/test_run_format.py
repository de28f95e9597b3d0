"""A run directory of another format, or with an edited config or model, is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from stored import change_config

from genrec_jax.cli.launch import by_name
from genrec_jax.core.config_fields import flat
from genrec_jax.core.errors import InputError
from genrec_jax.core.shipped import load_shipped
from genrec_jax.main import main
from genrec_jax.models import FAMILIES
from genrec_jax.runs.config import config_from_dict, default_config
from genrec_jax.runs.renamed_keys import RENAMED
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.runs.run_format import FORMAT
from genrec_jax.runs.stored_config import read_config
from genrec_jax.serving.recommender import Recommender

GOLDEN = ROOT / "tests" / "golden" / "runs"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "code_genrec", tmp_path / "run"))


def edit(path: Path, group: str | None, key: str, value: object) -> None:
    content = json.loads(path.read_text())
    (content if group is None else content[group])[key] = value
    path.write_text(json.dumps(content))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["main", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    ("file", "group", "key", "value"),
    [
        ("config.json", None, "indexing", "collaborative"),
        ("config.json", "model", "temperature", 0.5),
        ("config.json", "finetune", "epochs", 1),
        ("config.json", "data", "synthetic_seed", 3),
        ("model.json", None, "reversed_positions", False),
        ("model.json", None, "temperature", 0.5),
        ("model.json", None, "heads", 3),
        ("model.json", None, "dtype", "float99"),
        ("model.json", None, "longest_input", 3),
        ("model.json", None, "frequencies", 1),
        ("model.json", None, "new", 1),
    ],
)
def test_an_edited_config_or_model(
    file: str, group: str | None, key: str, value: object, run: Path, capsys
) -> None:
    edit(run / file, group, key, value)
    for mode in ("evaluate", "recommend"):
        error = refusal(capsys, f"--mode={mode}", f"--workdir={run}")
        assert f"{run / file}: was changed after the run was created" in error


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [("data", "dir", "/mnt/data"), ("evaluate", "batch_size", 8), (None, "profile", True)],
)
def test_keys_that_may_be_edited(group: str | None, key: str, value: object, run: Path) -> None:
    """The data folder, the evaluation keys, and keys that do not affect the result."""
    edit(run / "config.json", group, key, value)
    config = read_config(run).to_dict()
    assert (config if group is None else config[group])[key] == value
    assert RunFolder(run).read_shape().width == 16


def test_a_run_from_before_the_format(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both reading the run and training in its directory fail; nothing is written."""
    (run / "run.json").unlink()
    before = sorted(run.rglob("*"))
    config = f"--config={ROOT / 'configs' / 'quickstart.py'}:codes"
    for arguments in (("--mode=evaluate",), ("--mode=recommend",), (config,)):
        error = refusal(capsys, *arguments, f"--workdir={run}")
        assert "found no run.json, expected a run of genrec_jax 0.2.0 or later" in error
    assert sorted(run.rglob("*")) == before


def test_a_run_of_another_format(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run / "run.json", None, "format", FORMAT + 1)
    edit(run / "run.json", None, "genrec_jax", "9.9")
    error = refusal(capsys, "--mode=evaluate", f"--workdir={run}")
    assert (
        f"found format {FORMAT + 1}, written by genrec_jax 9.9, expected format {FORMAT}" in error
    )


def test_a_key_newer_than_the_run_has_its_default(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    del content["finetune"]["first_moment"]
    (run / "config.json").write_text(json.dumps(content))
    change_config(run)  # as if the run had been created without the key
    assert read_config(run).finetune.first_moment == "float32"


def test_a_partially_created_directory_is_usable(tmp_path: Path) -> None:
    """A killed process may leave a config.json without a run.json."""
    folder = RunFolder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "run.lock").touch()
    assert not folder.exists
    folder.check_usable(default_config())


def test_a_resumed_run_keeps_its_files_and_its_shape(run: Path) -> None:
    folder = RunFolder(run)
    before = (run / "config.json").read_bytes(), (run / "model.json").read_bytes()
    shape = folder.read_shape()
    folder.create(folder.read_config(), shape)
    assert ((run / "config.json").read_bytes(), (run / "model.json").read_bytes()) == before
    other = shape.__class__(**{**vars(shape), "dtype": "bfloat16"})
    with pytest.raises(InputError, match="dtype: found 'bfloat16', expected 'float32'"):
        folder.create(folder.read_config(), other)


@pytest.mark.parametrize("key", RENAMED)
def test_a_renamed_key_is_refused_with_its_replacement(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both as a flag and in a config file."""
    config = f"--config={ROOT / 'configs' / 'quickstart.py'}"
    assert f"{key}: {RENAMED[key]}" in refusal(capsys, config, f"--{key}=1")
    *groups, name = key.split(".")
    values = load_shipped("quickstart.py").get_config().to_dict()
    group = values
    for one in groups[1:]:
        group = group[one]
    group[name] = 1
    with pytest.raises(InputError) as error:
        config_from_dict(values)
    assert str(error.value) == f"{key}: {RENAMED[key]}"


def test_the_replacements_of_renamed_keys_exist() -> None:
    known = {key for family in FAMILIES for key in flat(default_config(family).to_dict())}
    now = [one.strip(":;") for text in RENAMED.values() for one in text.split()]
    named = {one for one in now if one.startswith("config.")}
    assert len(named) == 5
    assert named <= known


def test_a_shape_is_stored_with_the_types_of_its_fields(run: Path, tmp_path: Path) -> None:
    """A NumPy number in a field is refused before anything is written."""
    stored = RunFolder(run)
    shape = stored.read_shape()
    object.__setattr__(shape, "heads", np.int64(2))  # bypasses the type checks
    new = RunFolder(tmp_path / "new")
    with pytest.raises(TypeError, match=r"CodeGenRecShape: heads: found .*2.*, expected a value o"):
        new.create(stored.read_config(), shape)
    assert not new.path.exists()


def test_edited_identifiers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With reordered items, wrong item ids would be recommended."""
    path = run / "identifiers" / "identifiers.npz"
    with np.load(path) as arrays:
        saved = {name: arrays[name] for name in arrays.files}
    np.savez_compressed(path, **(saved | {"item_ids": saved["item_ids"][::-1]}))
    for mode in ("evaluate", "recommend"):
        error = refusal(capsys, f"--mode={mode}", f"--workdir={run}")
        assert f"{run / 'identifiers'}: its files were changed after the run was created" in error


@pytest.mark.parametrize("content", [{}, {"split": "test"}, {"counts": 3}])
def test_a_result_that_lacks_keys(
    content: dict, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "results.json").write_text(json.dumps(content))
    for command in ("report", "ensemble"):
        capsys.readouterr()
        argument = str(run) if command == "report" else f"--workdir={run}"
        assert by_name(["genrec_jax", command, argument]) == 2
        error = capsys.readouterr().err
        assert f"{run / 'results.json'}: " in error
        assert "expected the value that the run stored" in error


def test_a_small_top_k_can_be_recommended_but_not_evaluated(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    five = "--config.evaluate.top_k=5"
    assert "expected at least 10" in refusal(capsys, "--mode=evaluate", f"--workdir={run}", five)
    assert main(["main", "--mode=recommend", f"--workdir={run}", five]) == 0
    recommender = Recommender.load(run, evaluate={"top_k": 5, "beams": 5})
    assert [len(one) for one in recommender.recommend([(1, [3, 4])])] == [5]


@pytest.mark.parametrize(
    ("evaluate", "expected"),
    [
        ({"length_penalty": 1.0}, "config.evaluate.length_penalty: is not a key of code_genrec"),
        ({"beam": 3}, "config.evaluate.beam: no such key; did you mean config.evaluate.beams"),
        ({"beams": "x"}, "config.evaluate.beams: found 'x', expected a value of type int"),
    ],
)
def test_invalid_evaluate_changes_of_a_recommender(evaluate: object, expected: str) -> None:
    with pytest.raises(InputError) as error:
        Recommender.load(GOLDEN / "code_genrec", evaluate=evaluate)
    assert str(error.value).startswith(expected)


def test_an_unknown_family() -> None:
    with pytest.raises(InputError, match="found 'sasrek', expected one of genrec, code_genrec, s"):
        default_config("sasrek")

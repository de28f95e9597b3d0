"""Files of histories that cannot be recommended for, refused before a checkpoint is loaded."""

from pathlib import Path

import pytest

from genrec_jax.core.errors import InputError
from genrec_jax.runs.config import default_config
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.serving.bulk import recommend


def refusal(folder: Path, histories: Path, output: Path | None = None) -> str:
    with pytest.raises(InputError) as found:
        recommend(default_config(), RunFolder(folder), None, histories, output)
    return str(found.value)


@pytest.mark.parametrize("is_rerun", [False, True])
def test_a_missing_file_of_histories(tmp_path: Path, is_rerun: bool) -> None:
    """Whether or not an earlier command wrote recommendations."""
    if is_rerun:
        (tmp_path / "predictions").mkdir()
        (tmp_path / "predictions" / "recommendations.parquet").touch()
    line = refusal(tmp_path, tmp_path / "nope")
    assert line.startswith(f"{tmp_path / 'nope'}: cannot be read as a file of histories: ")
    assert "No such file" in line


def test_recommendations_do_not_overwrite_their_histories(tmp_path: Path) -> None:
    histories = tmp_path / "histories.jsonl"
    histories.write_text("7 1 2 3\n")
    line = refusal(tmp_path, histories, output=histories)
    assert line == f"--output={histories}: found the file of histories, expected another file"
    assert histories.read_text() == "7 1 2 3\n"

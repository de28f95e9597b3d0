"""JAX settings in the environment: they do not change a run's results, or the run is refused."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tiny_run
from repository import ROOT
from tiny_run import ARGUMENTS, check_same

from genrec_jax.cli import sweep
from genrec_jax.core import jax_settings
from genrec_jax.main import main
from genrec_jax.serving.recommender import Recommender

# One program to train and one to rank, with random masks, dropped users and dropout.
SHORT = [
    *("--config.pretrain.epochs=1", "--config.finetune.epochs=0"),
    *("--config.evaluate.search=exhaustive", "--config.model.user_dropout=0.5"),
]
HISTORIES = [(1, [3, 7, 7]), (2, [12]), (None, [30, 1, 5, 9])]

# Names that sound like arithmetic, random numbers, derivatives or compilation.
NUMERIC = re.compile(
    "x64|dtype|bits|precision|f16|f8|f32|accum|promotion|prng|threefry|random|gumbel|seed|softmax"
    "|jvp|vjp|linearize|remat|scan|fold|fast|fusion|optimi|effort|level|jit|partition|pgle|xla_"
    "|autotun|determin|reduction|embedded|constants|collectives"
)
IRRELEVANT = {
    *("jax_enable_custom_prng", "jax_legacy_prng_key"),  # of PRNGKey, which is not used here
    "jax_threefry_gpu_kernel_lowering",  # does not change results
    "jax_allow_f16_reductions",  # raises an error if it is off
    "jax2tf_associative_scan_reductions",  # nothing here is exported to TensorFlow
    # logs, caches and profiles
    *("jax_logging_level", "jax_captured_constants_report_frames"),
    *("jax_captured_constants_warn_bytes", "jax_compilation_cache_expect_pgle"),
    "jax_persistent_cache_enable_xla_caches",
    "jax_remove_custom_partitioning_ptr_from_cache_key",
    *("jax_pgle_aggregation_percentile", "jax_pgle_profiling_runs", "jax_xla_profile_version"),
    "jax_experimental_unsafe_xla_runtime_errors",
    "jax_xla_backend",  # selects a device
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def train(workdir: Path, cache: Path, **variables: str) -> tuple[int, str, str]:
    environment = {**os.environ, "GENREC_CACHE_DIR": str(cache), **variables}
    return tiny_run.run(workdir, cache, *SHORT, env=environment)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run under JAX's default settings."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    code, output, errors = train(folder, cache)
    assert code == 0, output + errors
    return folder


@pytest.fixture
def cut(plain: Path, tmp_path: Path) -> Path:
    """The run `plain`, stopped before its test."""
    folder = Path(shutil.copytree(plain, tmp_path / "cut"))
    (folder / "results.json").unlink()
    return folder


# ------------------------------------------------------------------ what is pinned


@pytest.mark.parametrize(
    "variables",
    [
        {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
        {"JAX_ENABLE_X64": "1"},
        {
            "JAX_DISABLE_JIT": "1",
            "JAX_THREEFRY_PARTITIONABLE": "0",
            "JAX_RANDOM_SEED_OFFSET": "7",
            "JAX_SOFTMAX_CUSTOM_JVP": "1",
            "JAX_NUMPY_DTYPE_PROMOTION": "strict",
            "JAX_NUMPY_RANK_PROMOTION": "raise",
            "JAX_EXPLICIT_X64_DTYPES": "allow",
        },
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_a_run_under_other_pinned_settings_is_the_same_bit_for_bit(
    variables: dict[str, str], plain: Path, cache: Path, tmp_path: Path
) -> None:
    code, output, errors = train(tmp_path / "run", cache, **variables)
    assert code == 0, output + errors
    check_same(tmp_path / "run", plain)
    for name in variables:
        assert re.search(rf"^WARNING: {name}=\S+ is ignored: genrec_jax needs ", output, re.M)


RECOMMEND = """
import json, sys
import jax
before = dict(jax.config.values)
from genrec_jax.serving.recommender import Recommender
import genrec_jax.main, genrec_jax.cli.ensemble
rankings = Recommender.load(sys.argv[1]).recommend(json.loads(sys.argv[2]))
assert dict(jax.config.values) == before, "genrec_jax changed the settings of JAX"
print(json.dumps([[(one.item, one.score) for one in ranking] for ranking in rankings]))
"""


def test_the_python_interface_leaves_jax_alone_and_ranks_the_same(plain: Path) -> None:
    settings = {
        "JAX_DISABLE_JIT": "1",
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    rankings = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", RECOMMEND, str(plain), json.dumps(HISTORIES)],
                env={**os.environ, **variables},
                cwd=ROOT,
                check=True,
                stdout=subprocess.PIPE,
            ).stdout
        )
        for variables in ({}, settings)
    ]
    assert len(rankings[0]) == 3
    assert rankings[1] == rankings[0]


# ------------------------------------------------------------------ what is recorded


def test_a_resume_under_another_precision_is_refused(cut: Path, cache: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cut.rglob("*")}
    code, output, errors = train(cut, cache, JAX_DEFAULT_MATMUL_PRECISION="highest")
    assert code == 2, output + errors
    assert errors.startswith(f"error: --workdir={cut}: ")
    assert "JAX_DEFAULT_MATMUL_PRECISION is 'highest' in this process, not set in the run" in errors
    assert errors.count("\n") == 1
    after = {path: path.stat().st_mtime_ns for path in cut.rglob("*") if path.name != "run.lock"}
    assert after == {path: time for path, time in before.items() if path in after}


def test_a_resume_under_other_flags_of_xla_is_refused(
    cut: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = json.loads((cut / "jax_settings.json").read_text())
    flags = [jax_settings.recorded()["XLA_FLAGS"], "--xla_cpu_enable_fast_math=true"]
    (cut / "jax_settings.json").write_text(json.dumps({**settings, "XLA_FLAGS": flags[0]}))
    monkeypatch.setenv("XLA_FLAGS", " ".join([*flags, "--xla_dump_to=/tmp/x"]).strip())
    capsys.readouterr()
    assert main(["main", *ARGUMENTS, *SHORT, f"--workdir={cut}"]) == 2
    error = capsys.readouterr().err
    assert "(XLA_FLAGS is '--xla_cpu_enable_fast_math=true' in this process" in error
    assert error.count("\n") == 1


def test_a_run_without_recorded_settings_resumes(plain: Path, cut: Path, cache: Path) -> None:
    (cut / "jax_settings.json").unlink()
    code, output, errors = train(cut, cache, XLA_FLAGS="--xla_force_host_platform_device_count=1")
    assert code == 0, output + errors
    check_same(cut, plain)


def test_ranking_under_another_precision_logs_a_warning(
    plain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = "JAX_DEFAULT_MATMUL_PRECISION"
    with caplog.at_level(logging.WARNING, "genrec_jax"):
        Recommender.load(plain)
        assert name not in caplog.text
        with jax.default_matmul_precision("highest"):
            Recommender.load(plain)
    assert (
        f"{plain} was trained under other JAX settings ({name} is 'highest' in this process"
        in caplog.text
    )


def test_a_sweep_does_not_compare_runs_under_different_settings(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "from genrec_jax.sweeps.spec import Ablation, Setting\n"
    text += 'def get_sweep():\n    return Ablation(seeds=(0,), settings={"as it is": Setting()})\n'
    (tmp_path / "mine.py").write_text(text)
    workdir = tmp_path / "sweep"
    shutil.copytree(plain, workdir / "runs" / "as-it-is-seed0")
    flags = [*ARGUMENTS, *SHORT, f"--sweep={tmp_path / 'mine.py'}", f"--workdir={workdir}"]
    with jax.default_matmul_precision("highest"):
        assert sweep.main(["sweep", *flags]) == 2
    error = capsys.readouterr().err
    assert "JAX_DEFAULT_MATMUL_PRECISION is 'highest' in this process, not set in the run" in error
    assert error.count("\n") == 1


# ------------------------------------------------------------------ the tables


def test_every_setting_that_sounds_numeric_is_in_one_table() -> None:
    """If this fails for a new setting of JAX, find out what it does and add it to one table."""
    tables = [set(jax_settings.PINNED), set(jax_settings.RECORDED), IRRELEVANT]
    known = set().union(*tables)
    assert sum(map(len, tables)) == len(known), "in more than one table"
    assert len(set(jax_settings.RECORDED)) == len(jax_settings.RECORDED)
    present = set(jax.config.values)
    assert known - present == set(), "the installed JAX has no such setting"
    assert {name for name in present - known if NUMERIC.search(name)} == set(), "in no table"


def test_every_recorded_setting_of_the_installed_jax_is_recorded() -> None:
    """Includes settings without an attribute of jax.config, as jax_disable_most_optimizations."""
    recorded = jax_settings.recorded()
    present = {name for name in jax_settings.RECORDED if name in jax.config.values}
    assert present <= recorded.keys()
    assert "jax_disable_most_optimizations" in present


def test_the_pinned_values_are_the_defaults_of_jax() -> None:
    """Under JAX's defaults, in a fresh process, no command logs a warning."""
    code = "from genrec_jax.core import jax_settings; jax_settings.pin()"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean,
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" --xla_b=2  --xla_a --xla_b=3", "--xla_a=true --xla_b=3"),
        ("--xla_dump_to=x --xla_force_host_platform_device_count=8", ""),
    ],
)
def test_xla_flags(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", text)
    assert jax_settings.recorded()["XLA_FLAGS"] == expected


def test_xla_flags_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flags").write_text("--xla_a=1\n--xla_dump_to=x\n")
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "flags"))
    assert jax_settings.recorded()["XLA_FLAGS"] == "--xla_a=1"

"""Command lines: command names, --help, invalid flags, and the exit code and message of each."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from genrec_jax.cli.benchmark import BENCHMARKS
from genrec_jax.cli.launch import by_mode, by_name
from genrec_jax.cli.names import COMMANDS, MODES, RENAMED
from genrec_jax.cli.renamed import module_of, refuse_module

STORED = ROOT / "tests" / "golden" / "runs" / "sasrec"
AUDITED = "--config=configs/quickstart.py --config.data.synthetic_users=80"
QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"


def command(*arguments: str) -> int:
    return by_name(["genrec_jax", *arguments])


def run(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python in a separate process."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=env
    )


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on standard error; standard output must be empty."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_the_commands_are_listed(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == 0
    printed = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in printed
    assert "Exit codes" in printed


@pytest.mark.parametrize("name", [*COMMANDS, *(f"benchmark {name}" for name in BENCHMARKS)])
def test_help_of_each_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*name.split(), "--nonsense", "--help") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"python -m genrec_jax {name} ")
    assert captured.out.count("\n") > 3
    assert captured.err == ""


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_is_the_command_of_its_name(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for arguments in ([f"--mode={mode}"], ["--mode", mode], ["--mode=train", f"-mode={mode}"]):
        assert by_mode(["main", "--help", *arguments]) == 0
        texts.append(capsys.readouterr().out)
    assert command(mode, "--help") == 0
    assert set(texts) == {capsys.readouterr().out}


def test_a_value_may_look_like_a_mode(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--mode", "recommend", "--workdir=no", "--histories", "mode=3"]
    assert by_mode(["main", *arguments]) == 2
    assert "found no run.json, expected a run's folder" in the_error(capsys)


@pytest.mark.parametrize(
    ("argv", "part"),
    [([], "--config: found none"), (["--mode=evaluate"], "expected the program's name before it")],
)
def test_calls_from_python(argv: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert by_mode(argv) == 2
    assert part in the_error(capsys)


def test_a_message_that_quotes_line_breaks_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("a\nb") == 2
    assert the_error(capsys).startswith("error: a\\nb: no such command")


def test_two_runs_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [shutil.copytree(STORED, tmp_path / name / "run") for name in ("a", "b")]
    assert command("report", str(runs[0]), str(runs[1])) == 2
    assert "found two runs named run on synthetic" in the_error(capsys)


def test_a_command_where_a_mode_is_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert by_mode(["main", "evaluate"]) == 2
    assert "expected --mode=evaluate, or python -m genrec_jax evaluate" in the_error(capsys)
    assert by_mode(["main", "export"]) == 2
    assert "expected python -m genrec_jax export" in the_error(capsys)


def test_help_without_a_mode_names_the_modes(capsys: pytest.CaptureFixture[str]) -> None:
    assert by_mode(["main", QUICKSTART, "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"--mode={mode} " in printed for mode in MODES)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("serve", "serve: no such command, expected one of train, evaluate"),
        ("trian", "trian: no such command; did you mean train?"),
        ("mix", "mix: no such command, use ensemble"),
        ("to_tfds", "to_tfds: no such command, use to-tfds"),
        ("--config=x", "--config=x: expected a command first, one of train"),
        ("benchmark decoed", "decoed: no such benchmark; did you mean decode?"),
        ("benchmark train_step", "train_step: no such benchmark; did you mean train-step?"),
        ("report", "found no run"),
        ("to-tfds", "--source: found none, expected --source=NAME|FOLDER"),
        ("export --workdir=x --output=", "--output: found an empty value"),
        ("export --workdir", "--workdir: found no value"),
        ("train --mode=evaluate", "--mode: no such flag"),
        ("evaluate", "--config: found none, expected --config=configs/NAME.py[:variant] or"),
        (f"evaluate {QUICKSTART} --split=train", "--split=train: value should be one of <test|"),
        (f"train {QUICKSTART} --split=test", "--split: no such flag; it is a flag of evaluate"),
        (f"train {QUICKSTART} --distributed=maybe", "--distributed=maybe: expected true or false"),
        (f"train {QUICKSTART} --config.modell.x=1", "config.modell.x: no such key"),
        ("train --config=configs/prepare.py", "not a config of this command: found the keys"),
        ("prepare --config=configs/beauty.py --output=x", "not a config of this command"),
        ("prepare --config=configs/prepare.py --workdir=x", "--workdir: no such flag"),
        ("prepare --workdir=x", "--workdir: no such flag"),
        ("ensemble --workdir=x --config.seed=1", "expected --config.evaluate.KEY=VALUE"),
        ("ensemble --workdir=x --config=configs/beauty.py", "expected --config.evaluate.KEY"),
        ("benchmark tfds --users=0", "--users: found 0, expected at least 1"),
        ("benchmark train-step --batch=-1", "--batch: found -1, expected at least 1"),
        (
            "benchmark scale --users=5",
            "--users: found no --part, expected --part=step|names|plan|checkpoint",
        ),
        ("to-tfds --source=beauty --output=", "--output: found an empty value"),
        ("report x --flagfile=x", "--flagfile: no such flag"),
        (f"train {QUICKSTART} --undefok=x --x", "--undefok: no such flag"),
        (f"train {QUICKSTART} --noconfig.profile=true", "--noconfig.profile=true does not take"),
        (f"train {QUICKSTART} --config.seed={2**63}", f"config.seed: found {2**63}, expected at m"),
        (f"audit {QUICKSTART} --workdir=x", "--workdir: found together with --config"),
        ("report nowhere", "error: nowhere: found no run.json"),
        (f"train {QUICKSTART} --config=x", "--config: found it 2 times, expected once"),
        ("sweep --config=x --sweep=y --config.seed", "--config.seed: found no value"),
    ],
)
def test_wrong_command_lines_end_in_one_line(
    name: str, part: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    assert command(*name.split()) == 2
    line = the_error(capsys)
    assert line.startswith("error: ")
    assert part in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *([name, "--help"] for name in COMMANDS),
        ["train", QUICKSTART, "--config.modell.x=1"],
        ["prepare", "--config=configs/prepare.py", "--config.log.fiel=1"],
        ["sweep", QUICKSTART],
        ["evaluate", f"--workdir={STORED}", "--splitt=validation"],
        ["ensemble", f"--workdir={STORED}", "--config.evaluate.beams=ten"],
    ],
    ids=" ".join,
)
def test_help_and_wrong_flags_do_not_import_jax(arguments: list[str]) -> None:
    code = (
        "import sys; from genrec_jax.cli.launch import by_name; "
        "code = by_name(sys.argv); assert 'jax' not in sys.modules; sys.exit(code)"
    )
    done = run("-c", code, *arguments)
    assert done.returncode == (0 if "--help" in arguments else 2), done.stderr


# ------------------------------------------------------------------ modules that are not commands


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        *(
            (f"genrec_jax.{name}", f"use python -m genrec_jax {new}")
            for name, new in RENAMED.items()
        ),
        ("genrec_jax.sweep", "use python -m genrec_jax sweep"),
        ("genrec_jax.cli.to_tfds", "use python -m genrec_jax to-tfds"),
        ("genrec_jax.benchmarks.train_step", "use python -m genrec_jax benchmark train-step"),
        ("genrec_jax.models.bart", "python -m genrec_jax --help lists the commands"),
    ],
)
def test_a_module_that_is_not_a_command(
    module: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        refuse_module(["python", "-m", module, "--workdir=x"])
    assert stopped.value.code == 2
    assert the_error(capsys) == f"error: python -m {module}: no such command, {hint}\n"


@pytest.mark.parametrize("module", ["genrec_jax.mix", "genrec_jax.cli.sweep", "genrec_jax.data"])
def test_python_refuses_a_module_that_is_not_a_command(module: str) -> None:
    done = run("-um", module, "--workdir=genrec_jax.main")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: python -m {module}: no such command, ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "module"),
    [
        ("-m genrec_jax.mix", "genrec_jax.mix"),
        ("-Bmgenrec_jax.mix --x", "genrec_jax.mix"),
        ("-W error -X dev -u -m genrec_jax.mix", "genrec_jax.mix"),
        ("-m mine.tool x genrec_jax.mix", "mine.tool"),
        ("-m pdb -m genrec_jax.mix", "pdb"),
        ("script.py -m genrec_jax.mix", ""),
        ("-c code -m genrec_jax.mix", ""),
        ("", ""),
    ],
)
def test_only_the_module_that_python_runs_counts(words: str, module: str) -> None:
    assert module_of(["python", *words.split()]) == module


def test_other_programs_may_name_our_modules(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import genrec_jax, sys; print(sys.argv[1:])")
    done = run("-m", "mine", "genrec_jax.sweep", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "['genrec_jax.sweep']\n"), done.stderr


# ------------------------------------------------------------------------- standard output


@pytest.mark.parametrize(
    ("pipeline", "code"),
    [
        ("{} --help | true; exit ${{PIPESTATUS[0]}}", 74),
        ("{} --help >&-", 0),
        ("{} audit " + AUDITED + " >&-", 0),
        ("{} audit " + AUDITED + " 2>&- >/dev/null", 0),
        ("PYTHONIOENCODING=ascii {} audit --help", 0),
        ("{} nonsense 2>&-", 2),
        ("{} nonsense 2>/dev/full", 2),
    ],
)
def test_streams_that_are_closed_or_narrow(pipeline: str, code: int) -> None:
    # The reader exits before the first byte, because Python takes longer than that to start.
    line = pipeline.format(f"{sys.executable} -m genrec_jax")
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == (code == 74)
    if "nonsense" in pipeline:
        assert done.stdout == ""


# ------------------------------------------------------------------------- Ctrl-C


def test_an_interrupt_during_an_import_ends_the_process(tmp_path: Path) -> None:
    """The imported module swallows exceptions, as some extension modules do."""
    (tmp_path / "slow.py").write_text(
        "import os, signal\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt: pass\n"
        "print('continued')\n"
    )
    code = (
        "import signal; from genrec_jax.core.interrupts import handle\n"
        "signal.signal(signal.SIGINT, handle)\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: print('raised', flush=True)\n"
        "import slow\n"
    )
    done = run("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "raised\n", "interrupted\n")


def test_an_interrupt_is_not_lost_where_exceptions_are_discarded() -> None:
    code = (
        "import os, signal, time; from genrec_jax.core.interrupts import handle\n"
        "signal.signal(signal.SIGINT, handle)\n"
        "class Held:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(0)\n"
        "held = Held(); del held\n"
        "print('after', flush=True)\n"
        "try: time.sleep(20)\n"
        "except KeyboardInterrupt: print('raised')\n"
    )
    done = run("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "after\nraised\n", "")


def test_an_error_caused_by_an_interrupt_ends_as_interrupted() -> None:
    code = (
        "import signal, sys; from genrec_jax.core.endings import run_command\n"
        "from genrec_jax.core.errors import InputError\n"
        "from genrec_jax.core.interrupts import handle\n"
        "signal.signal(signal.SIGINT, handle)\n"
        "def restore():\n"
        "    try: signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt: raise InputError('cannot be restored') from None\n"
        "sys.exit(run_command(restore))\n"
    )
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (130, "interrupted; nothing was written\n")


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from genrec_jax.cli.start import start\n"
        "sys.argv = ['genrec_jax', '--help']\n"
        "try: start('by_name')\n"
        "finally: assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
    )
    assert run("-c", code).returncode == 0

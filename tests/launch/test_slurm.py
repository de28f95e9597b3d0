"""launch/slurm.sbatch with a SLURM that is played: two tasks on this machine, and no queue."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from tiny_run import ARGUMENTS

SHORT = [f"--config.{phase}.epochs=1" for phase in ("pretrain", "finetune")]
FIRST_PORT, PORTS = 61440, 4096  # where JAX puts the coordinator under SLURM: by the job's number

# The options and variables that count of the real one. It leaves with the highest code of a task.
SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do
  echo "srun $1, SRUN_CPUS_PER_TASK=$SRUN_CPUS_PER_TASK" >> "$CALLS"
  shift
done
export SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_NODES=1
tasks=()
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  tasks+=($!)
done
echo "${tasks[@]}" > "$TASKS"
highest=0
for task in "${tasks[@]}"; do
  code=0
  wait "$task" || code=$?
  if [[ $code -gt $highest ]]; then highest=$code; fi
done
exit "$highest"
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >> "$CALLS"
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def free_job() -> int:
    """A job's number whose port is free."""
    for job in range(PORTS):
        with socket.socket() as probe:
            try:
                probe.bind(("localhost", FIRST_PORT + job))
            except OSError:
                continue
            return job
    raise AssertionError("no port is free")


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder to submit from, beside SLURM's programs."""
    write_program(tmp_path / "bin" / "srun", SRUN)
    write_program(tmp_path / "bin" / "scontrol", SCONTROL)
    python = f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n'
    write_program(tmp_path / "submitted" / ".venv" / "bin" / "python", python)
    return tmp_path


def start_job(cluster: Path, number: int, *arguments: str) -> Any:
    """As `sbatch launch/slurm.sbatch ARGUMENTS`: SLURM runs a copy of the file, somewhere else."""
    copy = cluster / "slurm_script"
    copy.write_bytes((ROOT / "launch" / "slurm.sbatch").read_bytes())
    environment = {
        **os.environ,
        "PATH": f"{cluster / 'bin'}:{os.environ['PATH']}",
        "GENREC_CACHE_DIR": str(cluster / "cache"),
        "CALLS": str(cluster / "calls"),
        "TASKS": str(cluster / "tasks"),
        "SLURM_JOB_ID": str(number),
        "SLURM_SUBMIT_DIR": str(cluster / "submitted"),
        "SLURM_CPUS_PER_TASK": "8",
    }
    return subprocess.Popen(
        ["bash", copy, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd="/",
    )


def calls(cluster: Path) -> list[str]:
    return (cluster / "calls").read_text().splitlines()


@pytest.mark.slow
def test_trains_and_is_queued_again_after_preemption(cluster: Path) -> None:
    """SIGTERM to the shell and both tasks, as at preemption; then the job starts once more."""
    arguments = [*ARGUMENTS, *SHORT, "--workdir=run"]
    number = free_job()
    job = start_job(cluster, number, *arguments)
    for line in job.stdout:
        if line.startswith("pretrain step"):
            break
    for process in (*map(int, (cluster / "tasks").read_text().split()), job.pid):
        os.kill(process, signal.SIGTERM)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 75, output
    assert output.count("; rerun the command to resume") == 1  # one task speaks
    assert "waiting for the run to save" in output
    assert calls(cluster) == [
        "srun --kill-on-bad-exit=0, SRUN_CPUS_PER_TASK=8",
        f"scontrol requeue {number}",
    ]

    job = start_job(cluster, number, *arguments)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output
    assert "resuming from the checkpoint of step" in output
    assert "2 x cpu in 2 processes" in output
    assert len(calls(cluster)) == 3  # it is not queued again
    results = json.loads((cluster / "submitted" / "run" / "results.json").read_text())
    assert results["counts"]["users"] == 80


@pytest.mark.parametrize(
    ("codes", "expected"), [("0 0", 0), ("75 75", 75), ("2 2", 2), ("3 0", 3), ("75 137", 137)]
)
def test_exit_code(codes: str, expected: int, cluster: Path) -> None:
    """Of tasks that only say what they were called with and leave; 75 alone is queued again."""
    leave = f'#!/usr/bin/env bash\necho "$*"\ncodes=({codes})\nexit "${{codes[$SLURM_PROCID]}}"\n'
    write_program(cluster / "submitted" / ".venv" / "bin" / "python", leave)
    job = start_job(cluster, 7, "--config=a b.py", "--workdir=$HOME")
    output, _ = job.communicate(timeout=60)
    assert job.returncode == expected, output
    command = "-m genrec_jax.main --distributed --config=a b.py --workdir=$HOME"
    assert output.splitlines() == [command] * 2
    is_queued = ["scontrol requeue 7"] if expected == 75 else []
    assert calls(cluster) == ["srun --kill-on-bad-exit=0, SRUN_CPUS_PER_TASK=8", *is_queued]


def test_is_for_sbatch_alone() -> None:
    environment = {**os.environ}
    environment.pop("SLURM_SUBMIT_DIR", None)
    done = subprocess.run(
        ["bash", ROOT / "launch" / "slurm.sbatch"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "submit this file with sbatch" in done.stderr

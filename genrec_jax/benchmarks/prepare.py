"""Measure the preparation of a log of 20 million interactions, and of its batches.

    python -m genrec_jax benchmark prepare                   1 M users, 200,000 items, csv.gz
    python -m genrec_jax benchmark prepare --users=100000    a tenth of it
    python -m genrec_jax benchmark prepare --memory-gb=1     DuckDB's memory before it spills

Prints seconds, rows per second and peak memory. The log is synthetic: item popularity is
log-normal, with a tenth of the items below the 5-core; histories have at least 5 items, 20 on
average; lines are in random order; ids are as long as Amazon's. Every part runs in a separate
process, whose peak memory is reported by the kernel.
"""

import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from genrec_jax.cli.command import Command
from genrec_jax.core.flags import Flag

ITEMS_PER_USER = 20
BLOCK = 1_000_000
FIRST_SECOND, SECONDS = 1_388_534_400, 5 * 365 * 86_400


def write_log(path: Path, users: int) -> int:
    """Write a csv.gz of about 20 lines per user; return the number of lines."""
    rng = np.random.default_rng(0)
    items = max(20, users // 5)
    lengths = 5 + rng.geometric(1 / (ITEMS_PER_USER - 4), users) - 1
    owners = rng.permutation(np.repeat(np.arange(users), lengths))
    popularity = np.cumsum(rng.lognormal(sigma=1.5, size=items))
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"user,item,rating,time\n")
        for start in range(0, len(owners), BLOCK):
            block = owners[start : start + BLOCK]
            drawn = np.searchsorted(popularity, popularity[-1] * rng.random(len(block)))
            moments = FIRST_SECOND + np.sort(rng.integers(0, 86_400, len(block)))
            moments += start * SECONDS // len(owners)
            rows = zip(block.tolist(), drawn.tolist(), moments.tolist(), strict=True)
            lines = "".join(f"A{u:013d},B{i:09d},5.0,{t}\n" for u, i, t in rows)
            file.write(lines.encode())
    return len(owners)


def prepare_log(path: Path, output: Path, memory_gb: float) -> None:
    """Prepare the log, as the command `prepare` does."""
    from genrec_jax.data.prepare.config import PrepareConfig
    from genrec_jax.data.prepare.prepare import prepare

    values = PrepareConfig().to_dict()
    values["log"]["file"], values["memory_gb"] = str(path), memory_gb
    prepare(PrepareConfig.from_dict(values), output)


def make_batches(folder: Path) -> None:
    """Do everything before the first training step, and make the batches of one epoch."""
    from genrec_jax.data.prepared import read_prepared
    from genrec_jax.data.sequences import next_item_examples
    from genrec_jax.identifiers.catalogue import Catalogue
    from genrec_jax.identifiers.indexing import make_indexing
    from genrec_jax.identifiers.input_lengths import plan_batches, token_lengths
    from genrec_jax.identifiers.tokenizer import train_tokenizer

    started = time.perf_counter()

    def report(done: str) -> None:
        print(f"  {done}: after {time.perf_counter() - started:.1f} s, {peak_gb():.2f} GB")

    sequences = read_prepared(folder)
    report("folder read")
    indexing = make_indexing("random", sequences, 0)
    identifiers = indexing.item_identifiers() + indexing.user_identifiers()
    vocabulary = train_tokenizer(identifiers, 800)
    del identifiers
    report("tokenizer trained")
    catalogue = Catalogue.build(sequences, indexing, vocabulary)
    report("token table and trie built")
    examples = next_item_examples(sequences, 2)
    plan = plan_batches(examples, token_lengths(catalogue.table, 512), 256, 8, "finetune")
    batches = plan.epoch(0, 0)
    report("epoch planned")
    rows = 0
    for bucket, members in batches:
        rows += int((plan.pad(bucket, members).users >= 0).sum())
    assert rows == sequences.n_users
    report(f"{len(batches)} batches of 256 made")


def peak_gb() -> float:
    """Return the peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def in_new_process(part: str, *arguments: str) -> tuple[float, float]:
    """Run a part of this benchmark in a new process; return its seconds and peak GB."""
    command = [
        sys.executable,
        "-m",
        "genrec_jax",
        "benchmark",
        "prepare",
        f"--part={part}",
        *arguments,
    ]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{part} failed")
    return time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9


def run(flags: SimpleNamespace) -> None:
    parts: dict[str, Callable[[], None]] = {
        "prepare": lambda: prepare_log(flags.log, flags.output, flags.memory_gb),
        "batches": lambda: make_batches(flags.output),
    }
    if flags.part:
        parts[flags.part]()
        return
    with tempfile.TemporaryDirectory(dir=flags.scratch) as scratch:
        log, output = Path(scratch) / "log.csv.gz", Path(scratch) / "prepared"
        started = time.perf_counter()
        rows = write_log(log, flags.users)
        print(
            f"log: {rows:,} lines, {log.stat().st_size / 1e6:.0f} MB compressed, "
            f"written in {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        where = (f"--log={log}", f"--output={output}", f"--memory-gb={flags.memory_gb}")
        took, peak = in_new_process("prepare", *where)
        print(f"prepare: {took:.1f} s, {rows / took:,.0f} rows/s, peak {peak:.2f} GB", flush=True)
        remaining = json.loads((output / "dataset.json").read_text())["interactions"]
        took, peak = in_new_process("batches", *where)
        print(f"batches: {took:.1f} s, {remaining / took:,.0f} interactions/s, peak {peak:.2f} GB")


main = Command(
    "benchmark prepare",
    "[--users=N] [--memory-gb=X] [--scratch=FOLDER]",
    __doc__ or "",
    run,
    (
        Flag("users", "The number of users in the log.", int, 1_000_000, least=100),
        Flag("memory-gb", "The memory that DuckDB may use.", float, 2.0),
        Flag("scratch", "The folder of the log and of DuckDB's files.", Path, expected="FOLDER"),
        # For the processes that this one starts:
        Flag("part", "", ("prepare", "batches")),
        Flag("log", "", Path),
        Flag("output", "", Path),
    ),
)

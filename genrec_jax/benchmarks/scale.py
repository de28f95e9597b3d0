"""What one more user, item, name and parameter costs, and what a run of the paper's scale takes.

    python -m genrec_jax benchmark scale            the costs of one more, some minutes
    python -m genrec_jax benchmark scale --part=step --users=100000000 --items=10000000 \\
        --devices=64 --model-parallel=64 --batch=1024

    step        the training step is compiled for virtual devices, nothing is allocated or run: the
                bytes of each device, as XLA plans them
    names       the token table and the trie of so many names
    plan        an epoch's batches of so many users, 10 interactions each
    checkpoint  a checkpoint of so many parameters

A cost is the difference between two sizes, so that what is there anyway counts for nothing; each
size is measured in a process of its own. Memory is the most that the process held at once. Names
are in BART's tokens where GENREC_BART_DIR is set, and else in those of a tokenizer that is trained
on 100,000 of them.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from genrec_jax.cli.command import Command
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import Flag

ITEMS_A_USER = 10
SIZES = {  # part: (what is counted, the smaller number of them, the larger one)
    "step": ("users", 1_000_000, 2_000_000),
    "names": ("items", 500_000, 1_000_000),
    "plan": ("users", 1_000_000, 3_000_000),
    "checkpoint": ("parameters", 10_000_000, 30_000_000),
}
Figures = dict[str, float]


def peak_memory() -> int:
    """Bytes: the kernel's figure for this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_step(flags: SimpleNamespace) -> Figures:
    """Bytes on a device; the data and the token table included, 8 tokens a name."""
    import jax
    import jax.numpy as jnp

    from genrec_jax.core.devices import Devices
    from genrec_jax.data.batches import Bucket
    from genrec_jax.models.contract import abstract_model
    from genrec_jax.models.genrec.model import GenRecShape
    from genrec_jax.models.tables import DeviceTable, Tables
    from genrec_jax.training.calls import Call
    from genrec_jax.training.optimizer import OptimizerSpec, make_optimizer
    from genrec_jax.training.resident import DeviceExamples, ResidentTrainer
    from genrec_jax.training.step import make_step, root_key, start_state

    users, items = flags.users, flags.items
    devices = Devices.all(flags.model_parallel)

    def whole(*shape: int) -> Any:  # a shape where an array would be
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=devices.whole)

    graph, like = abstract_model(GenRecShape(), users, items)
    optimizer = make_optimizer(OptimizerSpec(1000, 1e-5, 1e-5, 0.05, 5.0))
    state = jax.eval_shape(partial(start_state, optimizer=optimizer), devices.like(like))
    state = devices.like(state)._replace(step=whole())
    rows = users + items + 1
    names = DeviceTable(whole(rows, 8), whole(rows), items, 8, 0, 1, 2)
    interactions = whole(ITEMS_A_USER * users)
    examples = DeviceExamples(interactions, *(whole(users) for _ in range(4)))
    step = make_step(graph, optimizer, "next_item")
    root = devices.put_whole(root_key(0, "next_item"))
    trainer = ResidentTrainer(step, Tables(names), examples, root, devices=devices)
    call = Call(Bucket(ITEMS_A_USER, 64), np.zeros((1, flags.batch), np.int32), 0)
    started = time.perf_counter()
    memory = trainer.program(state, call).memory_analysis()
    return {
        "bytes that stay on a device": memory.argument_size_in_bytes,
        "bytes while a step runs": memory.temp_size_in_bytes,
        "seconds to compile": time.perf_counter() - started,
    }


def measure_names(flags: SimpleNamespace) -> Figures:
    from genrec_jax.identifiers.token_table import build_token_table
    from genrec_jax.identifiers.tokenizer import load_bart_tokenizer, train_tokenizer
    from genrec_jax.identifiers.trie import build_trie

    numbers = np.random.default_rng(0).permutation(flags.items) + 1
    folder = os.environ.get("GENREC_BART_DIR")
    if folder:
        vocabulary = load_bart_tokenizer(Path(folder))
    else:
        vocabulary = train_tokenizer([f"item_{n}" for n in numbers[:100_000]], 800)
    started = time.perf_counter()
    table = build_token_table(vocabulary, [f"item_{n}" for n in numbers], [])
    tokenized = time.perf_counter()
    with_names = peak_memory()
    trie = build_trie(table.item_tokens, table.item_lengths, table.eos)
    return {
        "seconds, names and tokens": tokenized - started,
        "host bytes, names and tokens": with_names,
        "token table bytes": table.tokens.nbytes + table.lengths.nbytes,
        "trie nodes": trie.n_nodes,
        "trie bytes": 24 * trie.n_nodes + 8 * flags.items,
        "seconds, trie": time.perf_counter() - tokenized,
    }


def measure_plan(flags: SimpleNamespace) -> Figures:
    from genrec_jax.data.batches import BatchPlan
    from genrec_jax.data.sequences import UserSequences, next_item_examples

    users = flags.users
    rng = np.random.default_rng(0)
    lengths = rng.integers(ITEMS_A_USER // 2, ITEMS_A_USER * 3 // 2 + 1, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, 1_000_000, offsets[-1], dtype=np.int32)
    sequences = UserSequences("scale", items, offsets, np.arange(users), np.arange(1_000_000))
    held = peak_memory()
    started = time.perf_counter()
    examples = next_item_examples(sequences, 2)
    plan = BatchPlan(examples, 5 * lengths, flags.batch, 8)
    plan.epoch(0, 0)
    return {
        "seconds to plan an epoch": time.perf_counter() - started,
        "host bytes of the sequences": held,
        "host bytes with the plan of an epoch": peak_memory(),
    }


def measure_checkpoint(flags: SimpleNamespace) -> Figures:
    """Of random numbers, which do not compress as zeros would."""
    import jax
    import jax.numpy as jnp

    from genrec_jax.core.jax_settings import random_key
    from genrec_jax.runs.checkpoint import Checkpoints
    from genrec_jax.training.optimizer import OptimizerSpec, make_optimizer
    from genrec_jax.training.step import start_state

    draw = partial(jax.random.normal, shape=(flags.parameters // 768, 768))
    optimizer = make_optimizer(OptimizerSpec(1000, 1e-5, 1e-5, 0.05, 5.0))
    state = start_state({"table": draw(random_key(0))}, optimizer)
    state = jax.tree.map(lambda x: draw(random_key(1)) if jnp.ndim(x) == 2 else x, state)
    before = peak_memory()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        with Checkpoints(Path(scratch)) as checkpoints:
            checkpoints.save(1, state, {"best_step": None})
        took = time.perf_counter() - started
        size = sum(path.stat().st_size for path in Path(scratch).rglob("*") if path.is_file())
    return {
        "bytes on the disk": size,
        "host bytes while it is written": peak_memory() - before,
        "seconds to write": took,
    }


PARTS: dict[str, Callable[[SimpleNamespace], Figures]] = {
    "step": measure_step,
    "names": measure_names,
    "plan": measure_plan,
    "checkpoint": measure_checkpoint,
}


def in_a_process_of_its_own(part: str, devices: int, *arguments: str) -> Figures:
    """The figures of a part."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", "genrec_jax", "benchmark", "scale", f"--part={part}", *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "GENREC_SCALE": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures = json.loads(done.stdout.splitlines()[-1])  # log lines come before
    return {name: float(value) for name, value in figures.items()}


def run(flags: SimpleNamespace) -> None:
    if "GENREC_SCALE" in os.environ:  # in a process of its own
        print(json.dumps(PARTS[flags.part](flags)))
        return
    sizes = [flag for flag in main.flags if flag.name != "part"]
    if flags.part:
        arguments = [f"--{one.name}={getattr(flags, one.attribute)}" for one in sizes]
        for name, value in in_a_process_of_its_own(flags.part, flags.devices, *arguments).items():
            print(f"{name:40} {value:20,.1f}")
        return
    if given := [one.name for one in sizes if getattr(flags, one.attribute) != one.default]:
        raise InputError(f"--{given[0]}: expected --part={'|'.join(PARTS)} with it")
    for part, (what, fewer, more) in SIZES.items():
        small, large = (in_a_process_of_its_own(part, 1, f"--{what}={n}") for n in (fewer, more))
        print(f"{part}: one more of the {what}, from {fewer:,} to {more:,}")
        for name, value in large.items():
            print(f"  {name:40} {(value - small[name]) / (more - fewer):14.7f}", flush=True)


main = Command(
    "benchmark scale",
    "[--part=PART --users=N …]",
    __doc__ or "",
    run,
    (
        Flag("part", "Measure one part alone, at the sizes below.", tuple(PARTS)),
        Flag("users", "Users in the data.", int, 1_000_000, least=1),
        Flag("items", "Items in the data.", int, 100_000, least=1),
        Flag("parameters", "Parameters in the checkpoint.", int, 10_000_000, least=768),
        Flag("devices", "Virtual devices.", int, 1, least=1),
        Flag("model-parallel", "Devices that share one copy of the id tables.", int, 1, least=1),
        Flag("batch", "Sequences a step.", int, 256, least=1),
    ),
)

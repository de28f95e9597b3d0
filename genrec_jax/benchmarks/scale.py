"""Measure the cost of one more user, item, identifier and parameter.

    python -m genrec_jax benchmark scale            the marginal costs, some minutes
    python -m genrec_jax benchmark scale --part=step --users=100000000 --items=10000000 \\
        --devices=64 --model-parallel=64 --batch=1024

    step        the training step, compiled for virtual devices without allocating or running it:
                the bytes of each device as planned by XLA
    names       the token table and the trie of identifiers
    plan        the batches of an epoch, with 10 interactions per user
    checkpoint  a checkpoint

A marginal cost is the difference between two sizes, each measured in a separate process. Memory is
the peak of the process. Identifiers are in BART's tokens if GENREC_BART_DIR is set, and otherwise
in those of a tokenizer trained on 100,000 of them.
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

ITEMS_PER_USER = 10
SIZES = {  # part: (the flag that varies, its smaller value, its larger value)
    "step": ("users", 1_000_000, 2_000_000),
    "names": ("items", 500_000, 1_000_000),
    "plan": ("users", 1_000_000, 3_000_000),
    "checkpoint": ("parameters", 10_000_000, 30_000_000),
}
Measurements = dict[str, float]


def peak_memory() -> int:
    """Return the peak memory of this process in bytes, as reported by the kernel."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_step(flags: SimpleNamespace) -> Measurements:
    """Measure the bytes on a device, with the data and a token table of 8 tokens per row."""
    import jax
    import jax.numpy as jnp

    from genrec_jax.core.devices import Devices
    from genrec_jax.data.batches import Bucket
    from genrec_jax.models.contract import abstract_model
    from genrec_jax.models.genrec.model import GenRecShape
    from genrec_jax.models.tables import DeviceTable, Tables
    from genrec_jax.training.dispatches import Dispatch
    from genrec_jax.training.multi_step import DeviceExamples, MultiStepTrainer
    from genrec_jax.training.optimizer import OptimizerSpec, make_optimizer
    from genrec_jax.training.step import make_step, root_key, start_state

    users, items = flags.users, flags.items
    devices = Devices.all(flags.model_parallel)

    def whole(*shape: int) -> Any:  # an abstract array
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=devices.replicated)

    graph, like = abstract_model(GenRecShape(), users, items)
    optimizer = make_optimizer(OptimizerSpec(1000, 1e-5, 1e-5, 0.05, 5.0))
    state = jax.eval_shape(partial(start_state, optimizer=optimizer), devices.like(like))
    state = devices.like(state)._replace(step=whole())
    rows = users + items + 1
    table = DeviceTable(whole(rows, 8), whole(rows), items, 8, 0, 1, 2)
    interactions = whole(ITEMS_PER_USER * users)
    examples = DeviceExamples(interactions, *(whole(users) for _ in range(4)))
    step = make_step(graph, optimizer, "next_item")
    root = devices.replicate(root_key(0, "next_item"))
    trainer = MultiStepTrainer(step, Tables(table), examples, root, devices=devices)
    dispatch = Dispatch(Bucket(ITEMS_PER_USER, 64), np.zeros((1, flags.batch), np.int32), 0)
    started = time.perf_counter()
    memory = trainer.program(state, dispatch).memory_analysis()
    return {
        "permanent bytes on a device": memory.argument_size_in_bytes,
        "temporary bytes during a step": memory.temp_size_in_bytes,
        "seconds to compile": time.perf_counter() - started,
    }


def measure_identifiers(flags: SimpleNamespace) -> Measurements:
    """Measure the time and memory of the token table and the trie."""
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
    host_bytes = peak_memory()
    trie = build_trie(table.item_tokens, table.item_lengths, table.eos)
    return {
        "seconds, identifiers and tokens": tokenized - started,
        "host bytes, identifiers and tokens": host_bytes,
        "token table bytes": table.tokens.nbytes + table.lengths.nbytes,
        "trie nodes": trie.n_nodes,
        "trie bytes": 24 * trie.n_nodes + 8 * flags.items,
        "seconds, trie": time.perf_counter() - tokenized,
    }


def measure_plan(flags: SimpleNamespace) -> Measurements:
    """Measure the time and memory of planning an epoch."""
    from genrec_jax.data.batches import BatchPlan
    from genrec_jax.data.sequences import UserSequences, next_item_examples

    users = flags.users
    rng = np.random.default_rng(0)
    lengths = rng.integers(ITEMS_PER_USER // 2, ITEMS_PER_USER * 3 // 2 + 1, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, 1_000_000, offsets[-1], dtype=np.int32)
    sequences = UserSequences("scale", items, offsets, np.arange(users), np.arange(1_000_000))
    before = peak_memory()
    started = time.perf_counter()
    examples = next_item_examples(sequences, 2)
    plan = BatchPlan(examples, 5 * lengths, flags.batch, 8)
    plan.epoch(0, 0)
    return {
        "seconds to plan an epoch": time.perf_counter() - started,
        "host bytes of the sequences": before,
        "host bytes with the plan of an epoch": peak_memory(),
    }


def measure_checkpoint(flags: SimpleNamespace) -> Measurements:
    """Measure a checkpoint of random numbers, which compress less than zeros would."""
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
        "host bytes during the save": peak_memory() - before,
        "seconds to write": took,
    }


PARTS: dict[str, Callable[[SimpleNamespace], Measurements]] = {
    "step": measure_step,
    "names": measure_identifiers,
    "plan": measure_plan,
    "checkpoint": measure_checkpoint,
}


def in_new_process(part: str, devices: int, *arguments: str) -> Measurements:
    """Run a part of this benchmark in a new process; return its measurements."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", "genrec_jax", "benchmark", "scale", f"--part={part}", *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "GENREC_SCALE": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    measurements = json.loads(done.stdout.splitlines()[-1])  # log lines come before
    return {name: float(value) for name, value in measurements.items()}


def run(flags: SimpleNamespace) -> None:
    if "GENREC_SCALE" in os.environ:  # set by in_new_process
        print(json.dumps(PARTS[flags.part](flags)))
        return
    sizes = [flag for flag in main.flags if flag.name != "part"]
    if flags.part:
        arguments = [f"--{one.name}={getattr(flags, one.attribute)}" for one in sizes]
        for name, value in in_new_process(flags.part, flags.devices, *arguments).items():
            print(f"{name:40} {value:20,.1f}")
        return
    if changed := [one.name for one in sizes if getattr(flags, one.attribute) != one.default]:
        raise InputError(f"--{changed[0]}: found no --part, expected --part={'|'.join(PARTS)}")
    for part, (what, fewer, more) in SIZES.items():
        small, large = (in_new_process(part, 1, f"--{what}={n}") for n in (fewer, more))
        print(f"{part}: marginal costs, from {fewer:,} to {more:,} {what}")
        for name, value in large.items():
            print(f"  {name:40} {(value - small[name]) / (more - fewer):14.7f}", flush=True)


main = Command(
    "benchmark scale",
    "[--part=PART --users=N …]",
    __doc__ or "",
    run,
    (
        Flag("part", "Measure one part alone, with the sizes below.", tuple(PARTS)),
        Flag("users", "The number of users in the data.", int, 1_000_000, least=1),
        Flag("items", "The number of items in the data.", int, 100_000, least=1),
        Flag("parameters", "The parameters of the checkpoint.", int, 10_000_000, least=768),
        Flag("devices", "The number of virtual devices.", int, 1, least=1),
        Flag("model-parallel", "Devices that share one copy of the id tables.", int, 1, least=1),
        Flag("batch", "The sequences of a step.", int, 256, least=1),
    ),
)

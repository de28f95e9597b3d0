"""Measure a training step of BART-base beside PyTorch (`transformers`, AdamW, clipping).

    python -m genrec_jax benchmark train-step                     batch 16, as in the paper
    python -m genrec_jax benchmark train-step --large             and batch 256
    python -m genrec_jax benchmark train-step --parts             and the parts of our step
    python -m genrec_jax benchmark train-step --large --dtype=bfloat16 --steps=8 --turns=5    a GPU

The task is finetuning on real Beauty inputs in BART's tokens, with BART-base's shape, random
weights and dropout. Every bucket of an epoch is timed in turn on both sides, with the same batches:
one of our dispatches and as many steps of PyTorch. The rate of an epoch weights the buckets by
their frequency. PyTorch's time excludes its tokens, ids and masks; it uses
`scaled_dot_product_attention` and fused AdamW (faster here than the default).

Then both sides are fed like the authors' loader: a shuffled batch, tokenized on demand and padded
to its longest sequence (ours to the next multiple of 32, so that few shapes compile). The
difference is the gain of buckets and of building batches on the device.

Compilation and warm-up are excluded. Without torch, only our side is timed. Sequences come from
GENREC_DATA_DIR (or a download), the tokenizer from GENREC_BART_DIR (or the hub).
"""

import importlib.util
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrec_jax.benchmarks.machine import DTYPES, describe_machine, seconds
from genrec_jax.benchmarks.train_step_sides import Ours, Theirs
from genrec_jax.cli.command import Command
from genrec_jax.cli.jax_setup import set_up_jax
from genrec_jax.core.flags import Flag
from genrec_jax.core.jax_settings import random_key
from genrec_jax.data.batches import BatchPlan, Bucket
from genrec_jax.data.datasets import load_named
from genrec_jax.data.sequences import next_item_examples
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.indexing import make_indexing
from genrec_jax.identifiers.input_lengths import plan_batches, token_lengths
from genrec_jax.identifiers.tokenizer import load_bart_tokenizer
from genrec_jax.models.contract import Params, abstract_model, merge
from genrec_jax.models.genrec.family import bart_flops
from genrec_jax.models.genrec.hub import BART_BASE, checkpoint_folder
from genrec_jax.runs.train_state import TrainState
from genrec_jax.training.dispatches import Dispatch, plan_dispatches
from genrec_jax.training.flops import device_peak

LOADER_BATCHES = 4  # shuffled batches, at the quantiles 1/8, 3/8, 5/8, 7/8 of their lengths

Run = Callable[[], Any]  # runs until the result is ready


# ------------------------------------------------------------------------- timing


def interleaved(sides: dict[str, Run], turns: int, warm_up: dict[str, Run]) -> dict[str, float]:
    """Time the sides in turn; return the median seconds of each."""
    for run in warm_up.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(spent)) for name, spent in times.items()}


def matrix_rate(dtype: str) -> float:
    """Measure the best rate of some of the model's products, in operations per second."""
    rates = []
    for m, k, n in ((512, 768, 3072), (2048, 768, 3072), (2048, 2048, 2048)):
        a, b = jnp.ones((m, k), dtype), jnp.ones((k, n), dtype)
        rates.append(2 * m * k * n / seconds(partial(jax.jit(jnp.matmul), a, b), 5))
    return max(rates)


def memory_rate() -> float:
    """Measure the bytes per second of reading and writing an array in place."""
    double = jax.jit(lambda x: x * 1.0001, donate_argnums=0)
    x = double(jnp.ones(50_000_000))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        x = jax.block_until_ready(double(x))
        times.append(time.perf_counter() - start)
    return 2 * x.nbytes / min(times)


def longest_dispatches(ours: Ours) -> dict[Bucket, Dispatch]:
    """Return the longest dispatch of full batches of each bucket in the first epoch."""
    longest: dict[Bucket, Dispatch] = {}
    epoch = ours.plan.steps_per_epoch
    most = ours.trainer.steps_per_dispatch
    for dispatch in plan_dispatches(ours.plan, ours.seed, 0, epoch, most, epoch):
        known = longest.get(dispatch.bucket)
        if np.all(dispatch.rows >= 0) and (known is None or len(known.rows) < len(dispatch.rows)):
            longest[dispatch.bucket] = dispatch
    return dict(sorted(longest.items(), key=lambda pair: pair[0].n_tokens))


def shuffled_batches(plan: BatchPlan, seed: int) -> list[np.ndarray]:
    """Return shuffled batches at even quantiles of the length of their longest sequence."""
    order = np.random.default_rng(seed).permutation(len(plan.examples))
    full = len(order) // plan.batch_size * plan.batch_size
    batches = order[:full].reshape(-1, plan.batch_size)
    batches = batches[np.argsort(plan.n_tokens[batches].max(axis=1), kind="stable")]
    quantiles = (np.arange(LOADER_BATCHES) + 0.5) / LOADER_BATCHES * len(batches)
    return [batches[int(quantile)] for quantile in quantiles]


def input_seconds(ours: Ours) -> float:
    """Measure the host's seconds per step to plan and send the input, a mean over an epoch."""
    epoch = ours.plan.steps_per_epoch
    most = ours.trainer.steps_per_dispatch
    start = time.perf_counter()
    for dispatch in plan_dispatches(ours.plan, ours.seed, 0, epoch, most, epoch):
        ours.trainer.put(dispatch)
    return (time.perf_counter() - start) / epoch


# ------------------------------------------------------------------------- the report


def compare(ours: Ours, theirs: Theirs | None, turns: int, rates: tuple[float, float]) -> None:
    """Print the step times of every bucket and the rates of an epoch."""
    batch, shape = ours.plan.batch_size, ours.shape
    matmul, memory = rates
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(ours.state.params))
    update_bytes = 28 * n_parameters
    print(
        f"\nbatch {batch}: AdamW moves {update_bytes / 1e9:.2f} GB per step (28 bytes for each of "
        f"{n_parameters:,} parameters), {1e3 * update_bytes / memory:.0f} ms at the memory's rate"
    )
    counts = Counter(bucket for bucket, _ in ours.plan.epoch(ours.seed, 0))
    spent: dict[str, dict[Bucket, float]] = {}
    print(
        f"{'tokens':>6s} {'batches':>8s} {'GFLOP/sequence':>17s} {'by XLA':>7s} {'bound':>9s} "
        f"{'ours':>9s} {'× bound':>8s} {'of peak':>8s} {'torch':>9s} {'torch / ours':>13s}"
    )
    for bucket, dispatch in longest_dispatches(ours).items():
        first = Dispatch(bucket, dispatch.rows[:1], dispatch.start)
        sides: dict[str, Run] = {"ours": partial(ours.step, dispatch)}
        warm_up: dict[str, Run] = {"ours": partial(ours.step, first)}
        if theirs:
            inputs = [ours.inputs(bucket, rows) for rows in dispatch.rows]
            batches = [theirs.tensors(one.encoder_input, one.targets) for one in inputs]
            sides["torch"] = partial(theirs.steps, batches)
            warm_up["torch"] = partial(theirs.steps, batches[:1])
        n = len(dispatch.rows)
        times = {name: value / n for name, value in interleaved(sides, turns, warm_up).items()}
        for name, value in times.items():
            spent.setdefault(name, {})[bucket] = value
        flops = bart_flops(shape, bucket.n_tokens, ours.n_decoder_tokens)
        bound = batch * flops / matmul + update_bytes / memory
        line = (
            f"{bucket.n_tokens:6d} {counts[bucket]:8d} {flops / 1e9:17.2f} "
            f"{ours.xla_flops(dispatch) / 1e9:7.2f} {1e3 * bound:6.0f} ms "
            f"{1e3 * times['ours']:6.0f} ms {times['ours'] / bound:8.2f} "
            f"{batch * flops / times['ours'] / matmul:8.1%}"
        )
        if theirs:
            line += f" {1e3 * times['torch']:6.0f} ms {times['torch'] / times['ours']:13.2f}"
        print(line, flush=True)
    epoch = {name: sum(counts[b] * s for b, s in times.items()) for name, times in spent.items()}
    n = len(ours.plan.examples)
    print(f"padding {ours.plan.padding_share:.1%}; an epoch of {n} sequences:")
    for name, total in epoch.items():
        print(f"  {name:8s} {total:8.0f} s  {n / total:8.2f} sequences/s")
    if theirs:
        print(f"  ours is {epoch['torch'] / epoch['ours']:.2f} times as fast on the same batches")
    wait = input_seconds(ours)
    step = epoch["ours"] / ours.plan.steps_per_epoch
    print(f"  input: {1e3 * wait:.3f} ms of host time per step, {wait / step:.4%} of the step")
    compare_loader(ours, theirs, turns, n / epoch["ours"])


def compare_loader(ours: Ours, theirs: Theirs | None, turns: int, by_buckets: float) -> None:
    """Print the rates with shuffled batches, and the ratio of ours with buckets to them."""
    spent: dict[str, float] = {}
    lengths = []
    for rows in shuffled_batches(ours.plan, ours.seed):
        lengths.append(int(ours.plan.n_tokens[rows].max()))
        sides: dict[str, Run] = {"ours": partial(ours.loader_step, rows)}
        if theirs:
            sides["torch"] = partial(theirs.loader_step, rows)
        for name, value in interleaved(sides, turns, sides).items():
            spent[name] = spent.get(name, 0.0) + value / LOADER_BATCHES
    print(
        f"with shuffled batches, like the authors' loader (longest sequences of {lengths} tokens):"
    )
    for name, value in spent.items():
        rate = ours.plan.batch_size / value
        print(
            f"  {name:8s} {rate:8.2f} sequences/s; ours with buckets is {by_buckets / rate:.2f} "
            "times as fast"
        )


def report_parts(ours: Ours) -> None:
    """Print the times of forward, backward and update, jitted separately, for one bucket."""
    counts = Counter(bucket for bucket, _ in ours.plan.epoch(ours.seed, 0))
    bucket = counts.most_common(1)[0][0]
    inputs = ours.inputs(bucket, longest_dispatches(ours)[bucket].rows[0])
    table = ours.catalogue.table
    graph, _ = abstract_model(ours.shape, table.n_users, table.n_items)

    def loss(params: Params, key: Any) -> jax.Array:
        return jnp.sum(merge(graph, params).loss(ours.trainer.tables, inputs, key, False).loss)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Any, opt_state: Any, grads: Any) -> tuple[Any, Any]:
        updates, opt_state = ours.optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    key = random_key(0)
    params = ours.state.params
    plain = seconds(partial(jax.jit(loss), params, None), 5)
    forward = seconds(partial(jax.jit(loss), params, key), 5)
    both = seconds(partial(jax.jit(jax.grad(loss)), params, key), 5)
    grads = jax.block_until_ready(jax.jit(jax.grad(loss))(params, key))
    times = []
    for _ in range(6):
        start = time.perf_counter()
        state = update(ours.state.params, ours.state.opt_state, grads)
        ours.state = TrainState(ours.state.step, *jax.block_until_ready(state))
        times.append(time.perf_counter() - start)
    print(
        f"\nparts at {bucket.n_tokens} tokens: forward {1e3 * plain:.0f} ms, dropout in it "
        f"{1e3 * (forward - plain):.0f} ms, backward {1e3 * (both - forward):.0f} ms, clipping and "
        f"AdamW {1e3 * min(times[1:]):.0f} ms"
    )


def run(args: SimpleNamespace) -> None:
    set_up_jax()
    print(describe_machine())
    sequences = load_named("beauty", "")
    tokenizer = load_bart_tokenizer(checkpoint_folder(BART_BASE))
    catalogue = Catalogue.build(
        sequences, make_indexing("published", sequences, args.seed), tokenizer
    )
    matmul, memory = matrix_rate(args.dtype), memory_rate()
    sheet = device_peak(args.dtype)
    print(
        f"beauty, finetuning, BART-base, {args.dtype}; products at {matmul / 1e12:.3f} TFLOP/s, "
        f"memory at {memory / 1e9:.1f} GB/s, measured; peak "
        + (
            "unknown: shares are of the measured"
            if sheet is None
            else f"{sheet / 1e12:.0f} TFLOP/s"
        )
    )
    has_torch = importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")
    if not has_torch:
        print("torch or transformers is missing: ours alone")
    theirs = None
    for batch in (args.batch, 256) if args.large else (args.batch,):
        examples = next_item_examples(sequences, n_excluded=2)
        plan = plan_batches(
            examples, token_lengths(catalogue.table, 512), batch, args.buckets, "train_step"
        )
        ours = Ours.build(catalogue, plan, args.dtype, args.seed, args.steps)
        if has_torch and not args.ours:
            theirs = theirs or Theirs(ours)
            theirs.ours, theirs.loaded = ours, {}
        compare(ours, theirs, args.turns, (sheet or matmul, memory))
        if args.parts:
            report_parts(ours)


main = Command(
    "benchmark train-step",
    "[--large] [--dtype=bfloat16] …",
    __doc__ or "",
    run,
    (
        Flag("batch", "The sequences of a batch.", int, 16, least=1),
        Flag("large", "Measure a batch of 256 too.", bool, False),
        Flag("buckets", "The most padded lengths.", int, 8, least=1),
        Flag("steps", "The steps of a dispatch.", int, 4, least=1),
        Flag("turns", "Timed dispatches of each shape and side.", int, 2, least=1),
        Flag("dtype", "The compute dtype.", DTYPES, "float32"),
        Flag("parts", "Time forward, backward and update separately.", bool, False),
        Flag("ours", "Skip PyTorch.", bool, False),
        Flag("seed", "The seed of the weights and of the order.", int, 0, least=0),
    ),
)

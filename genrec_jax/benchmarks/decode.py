"""Measure top-20 decoding: free, constrained and exhaustive, beside `transformers` `generate`.

    python -m genrec_jax benchmark decode                       real Beauty inputs, small model
    python -m genrec_jax benchmark decode --all                 the whole test set, ours alone
    python -m genrec_jax benchmark decode --all --bart-base --dtype=bfloat16    on a GPU

Both sides run in one process with the same weights, users, batches and beams. PyTorch's time
excludes the encoder's input embeddings. The weights are random except for some training steps,
after which the model generates identifiers of items; without them it would rank one-digit numbers
first and stop early. Users come from GENREC_DATA_DIR (or a download), the tokenizer from
GENREC_BART_DIR (or the hub). Compilation and a warm-up run are excluded. Exhaustive search decodes
every inner node of the trie, which takes seconds per user on a CPU, so it is timed on the first
EXACT_USERS users, and rankings are compared with the exact ones on these.
"""

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.benchmarks.decode_sides import (
    BEAMS,
    Setup,
    prefix_function,
    set_up,
    torch_batches,
    torch_model,
    torch_rankings,
)
from genrec_jax.benchmarks.machine import DTYPES, describe_machine, seconds
from genrec_jax.cli.command import Command
from genrec_jax.cli.jax_setup import set_up_jax
from genrec_jax.core.flags import Flag
from genrec_jax.decoding.beam_search import Decoder, beam_search
from genrec_jax.evaluation.metrics import metrics
from genrec_jax.identifiers.token_table import build_token_table
from genrec_jax.identifiers.tokenizer import Vocabulary
from genrec_jax.identifiers.trie import Trie, build_trie
from genrec_jax.models.contract import abstract_model, merge
from genrec_jax.models.device_trie import DeviceTrie, put_on_device
from genrec_jax.models.genrec.writer import child_log_probs

EXACT_USERS = 4


# ------------------------------------------------------------------------- one step


class StepTimes(NamedTuple):
    """The seconds of one search step of a batch with all its beams, by parts."""

    decoder: float  # layers and logits
    softmax: float  # the normaliser of the logits, which free search needs too
    constraint: float  # gathering and scoring children, top-k, bookkeeping

    @property
    def whole(self) -> float:
        """The seconds of the whole step."""
        return sum(self)


def step_times(setup: Setup, trie: Trie, repeats: int) -> StepTimes:
    """Time the parts of a step for the batch of the shortest histories.

    The time of the constraint is that of a search with precomputed logits, minus the normalisers,
    divided by the steps.
    """
    table = setup.catalogue.table
    graph, _ = abstract_model(setup.shape, table.n_users, table.n_items)
    bucket, rows = setup.plan.in_order()[0]
    batch = jax.tree.map(jnp.asarray, setup.plan.pad(bucket, rows))
    users = len(batch.users)
    on_device = put_on_device(trie)
    model = merge(graph, setup.params)
    inputs = model.make_inputs(setup.tables, batch, "next_item", bucket.n_tokens).read
    memory = jax.jit(lambda p: merge(graph, p).encode(setup.tables, inputs))(setup.params)
    prefix = (table.eos, *on_device.prefix)
    later = on_device.depth - len(prefix)

    def writer(params: Any) -> Any:
        return merge(graph, params).writer(setup.tables, memory)

    start = jax.jit(lambda p: writer(p).start(prefix, BEAMS, later))
    first, cache = start(setup.params)
    tokens = jnp.broadcast_to(jnp.arange(BEAMS) + 100, (users, BEAMS))
    position = jnp.array(len(prefix))
    advance = jax.jit(lambda p, c: writer(p).extend(tokens, jnp.zeros_like(tokens), position, c)[0])
    decoder = seconds(lambda: advance(setup.params, cache), repeats)

    logits = advance(setup.params, cache)
    # An unlikely `</s>` keeps the search from ending early.
    first, logits = (one.at[:, :, table.eos].set(-100.0) for one in (first, logits))
    softmax = seconds(lambda: normaliser(logits), repeats)
    carried = jnp.zeros(())  # keeps XLA from moving the normalisers out of the loop

    # `later` steps with all beams, and one with the single hypothesis of the prefix.
    def search(first: jax.Array, logits: jax.Array, trie: DeviceTrie) -> jax.Array:
        decoder = Decoder(
            lambda *_: (first, carried),
            lambda tokens, nodes, position, carried: (logits + carried, carried * 0.5),
            lambda carried, parents: carried,
            child_log_probs,
        )
        return beam_search(decoder, trie, setup.spec()).items

    choose = jax.jit(search)
    searched = seconds(lambda: choose(first, logits, on_device), repeats)
    return StepTimes(decoder, softmax, max(searched / later - softmax, 0.0))


@jax.jit
def normaliser(logits: jax.Array) -> jax.Array:
    """Compute the log-sum-exp of the logits."""
    return jax.nn.logsumexp(logits, axis=2)


def numbered_trie(vocabulary: Vocabulary, n_items: int) -> tuple[Trie, int]:
    """Return the trie of item_1 … item_N in BART's tokens, and its bytes per node."""
    identifiers = [f"item_{i}" for i in range(1, n_items + 1)]
    table = build_token_table(vocabulary, identifiers, ["user_1"])
    trie = build_trie(table.item_tokens, table.item_lengths, table.eos)
    arrays = [value for value in vars(trie).values() if isinstance(value, np.ndarray)]
    return trie, sum(array.nbytes for array in arrays) // trie.n_nodes


# ------------------------------------------------------------------------- the report


def report_rankings(setup: Setup, name: str, rankings: np.ndarray, exact: np.ndarray) -> str:
    """Return a line with HR@20, and the share of the exact rankings that was found."""
    first = rankings[: len(exact)]
    found = np.mean((exact[:, :, None] == first[:, None, :]).any(axis=2))
    same = np.mean(first == exact)
    targets = setup.plan.examples.targets[: len(rankings)]
    hits = metrics(rankings.astype(np.int32), targets)["HR@20"]
    return (
        f"{name:34s} HR@20 {hits:.5f}   {np.mean(rankings >= 0):7.2%} are items, "
        f"{found:7.2%} of the exact top 20 found, {same:7.2%} at the exact rank"
    )


def bytes_of_user(setup: Setup) -> Iterator[str]:
    """Yield a line with the memory that a user takes."""
    shape, table = setup.shape, setup.catalogue.table
    size = jnp.dtype(shape.dtype).itemsize
    tokens = max(bucket.n_tokens for bucket in setup.plan.buckets)
    n_before = 1 + len(setup.trie.prefix)
    cached = n_before + (setup.trie.depth - n_before) * BEAMS
    unit = 2 * shape.decoder_layers * shape.d_model * size
    yield (
        f"bytes per user: cross-attention {tokens * unit:,} at {tokens} tokens (per beam it would "
        f"be {BEAMS * tokens * unit:,}), decoder cache {cached * unit:,}, logits of a step "
        f"{BEAMS * shape.vocab_size * 4:,}; trie of {table.n_items:,} items "
        f"{sum(a.nbytes for a in vars(setup.catalogue.trie).values() if hasattr(a, 'nbytes')):,}"
    )


def compare(setup: Setup, repeats: int) -> None:
    """Print the users per second of each search, and compare the rankings."""
    rankings: dict[str, np.ndarray] = {}
    rates: dict[str, float] = {}

    def measure(name: str, run: Callable[[], np.ndarray], repeats: int) -> None:
        rankings[name] = run()  # compiles
        rates[name] = rate = len(rankings[name]) / seconds(run, repeats, warm_up=False)
        print(f"{name:34s} {rate:9.1f} {1000 / rate:9.2f}", flush=True)

    print(f"\n{'':34s} {'users/s':>9s} {'ms/user':>9s}")
    for search in ("constrained", "free"):
        measure(f"ours, {search}", partial(setup.rank, setup.ranker(search)), repeats)
    model, batches = torch_model(setup), torch_batches(setup)
    for name, allowed in (("free", None), ("prefix function", prefix_function(setup))):
        measure(f"generate, {name}", partial(torch_rankings, setup, model, batches, allowed), 1)
    few = setup.head(EXACT_USERS)
    measure("ours, exhaustive", partial(few.rank, few.ranker("exhaustive")), 1)
    exact = rankings["ours, exhaustive"]

    ours = rates["ours, constrained"]
    print()
    for name, rate in rates.items():
        print(f"ours, constrained: {ours / rate:6.2f} times the users/s of {name}")
    print()
    for name, found in rankings.items():
        print(report_rankings(setup, name, found, exact))
    for name in ("free", "constrained"):
        theirs = rankings["generate, " + {"free": "free", "constrained": "prefix function"}[name]]
        same = np.mean(rankings[f"ours, {name}"] == theirs)
        print(f"ours, {name}, and generate: {same:.2%} of the ranks have the same item")


def steps_by_catalogue(setup: Setup, repeats: int) -> None:
    """Print the time of a search step for catalogues of several sizes."""
    head = f"{'nodes':>9s} {'bytes/node':>13s} {'ms/step':>10s} {'constraint':>11s}"
    print(f"\n{'items':>9s} {head}   widths of the levels")
    for n_items in (10_000, 100_000, 1_000_000):
        trie, size = numbered_trie(setup.catalogue.vocabulary, n_items)
        times = step_times(setup, trie, repeats)
        share = times.constraint / times.whole
        print(
            f"{n_items:9,d} {trie.n_nodes:9,d} {size:13d} {1000 * times.whole:10.2f} "
            f"{share:11.1%}   {', '.join(map(str, trie.widths))}"
        )


def run(args: SimpleNamespace) -> None:
    set_up_jax()
    print(describe_machine())
    setup = set_up(args, 0 if args.all else args.users)
    shape, examples = setup.shape, setup.plan.examples
    print(
        f"beauty, {len(examples)} test users, batches of {args.batch}, at most "
        f"{args.buckets} lengths: {', '.join(str(b.n_tokens) for b in setup.plan.buckets)}; "
        f"{shape.encoder_layers}+{shape.decoder_layers} layers, d {shape.d_model}, "
        f"V {shape.vocab_size}, {shape.dtype}, {BEAMS} beams, identifiers of up to "
        f"{setup.trie.depth} tokens of which {len(setup.trie.prefix)} are common to all"
    )
    for line in bytes_of_user(setup):
        print(line)
    if args.all:
        ranker = setup.ranker("constrained")
        spent = seconds(partial(setup.rank, ranker), 1)
        rankings = setup.rank(ranker)
        complete = all(len(set(row)) == BEAMS and min(row) >= 0 for row in rankings.tolist())
        n = len(rankings)
        print(f"constrained, all {n} users: {spent:.1f} s, {n / spent:.0f} users/s")
        print(f"every ranking has {BEAMS} different items: {complete}")
        return
    compare(setup, args.repeats)
    steps_by_catalogue(setup, args.repeats)


main = Command(
    "benchmark decode",
    "[--all] [--bart-base] [--dtype=bfloat16] …",
    __doc__ or "",
    run,
    (
        Flag("users", "The number of test users, of all history lengths.", int, 64, least=1),
        Flag("all", "Rank all test users, without PyTorch.", bool, False),
        Flag("batch", "The users of a batch.", int, 16, least=1),
        Flag("buckets", "The most padded lengths.", int, 4, least=1),
        Flag("bart-base", "Use 6+6 layers of 768 instead of 3+3 of 256.", bool, False),
        Flag("train-steps", "Training steps before the measurement.", int, 100, least=0),
        Flag("dtype", "The compute dtype.", DTYPES, "float32"),
        Flag("repeats", "Timed runs, of which the fastest counts.", int, 3, least=1),
        Flag("seed", "The seed of the weights and of the order.", int, 0, least=0),
    ),
)

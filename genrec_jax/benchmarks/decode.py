"""Top-20 decoding: ours free, constrained and exhaustive beside `transformers` `generate`.

    python -m genrec_jax benchmark decode                       real Beauty inputs, small model
    python -m genrec_jax benchmark decode --all                 the whole test set, ours alone
    python -m genrec_jax benchmark decode --all --bart-base --dtype=bfloat16    for a GPU

One run, the same weights, the same users in the same batches, the same beams; PyTorch is given the
encoder's input embeddings for nothing. The weights are random but for some steps of training, after
which the model writes names of items, if not yet the right ones; without them it would rank
one-digit numbers first, and stop there. Users come from GENREC_DATA_DIR (or the download),
the tokenizer from GENREC_BART_DIR (or the hub). Compilation and one warm-up run are left out.
Exhaustive ranking decodes every inner node of the trie, some seconds a user on a CPU, so it is
timed on the first EXACT_USERS of them, and lists are compared with the exact ones on those.
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
    torch_lists,
    torch_model,
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
    """Seconds of one step of a batch with all its beams."""

    decoder: float  # layers and logits
    softmax: float  # the normaliser of the logits, which free search needs too
    constraint: float  # children, their scores, the best of them, bookkeeping

    @property
    def whole(self) -> float:
        return sum(self)


def step_times(setup: Setup, trie: Trie, repeats: int) -> StepTimes:
    """The parts of a step for the batch of the shortest histories.

    The constraint is timed as a whole search over a decoder that costs nothing, its logits being
    there already, less the normalisers, by steps.
    """
    table = setup.catalogue.table
    graph, _ = abstract_model(setup.shape, table.n_users, table.n_items)
    bucket, rows = setup.plan.in_order()[0]
    batch = jax.tree.map(jnp.asarray, setup.plan.pad(bucket, rows))
    users = len(batch.users)
    on_device = put_on_device(trie)
    model = merge(graph, setup.params)
    sentence = model.make_inputs(setup.tables, batch, "next_item", bucket.n_tokens).read
    memory = jax.jit(lambda p: merge(graph, p).encode(setup.tables, sentence))(setup.params)
    beginning = (table.eos, *on_device.prefix)
    later = on_device.depth - len(beginning)

    def writer(params: Any) -> Any:
        return merge(graph, params).writer(setup.tables, memory)

    start = jax.jit(lambda p: writer(p).start(beginning, BEAMS, later))
    first, cache = start(setup.params)
    tokens = jnp.broadcast_to(jnp.arange(BEAMS) + 100, (users, BEAMS))
    position = jnp.array(len(beginning))
    advance = jax.jit(lambda p, c: writer(p).extend(tokens, jnp.zeros_like(tokens), position, c)[0])
    decoder = seconds(lambda: advance(setup.params, cache), repeats)

    logits = advance(setup.params, cache)
    # With `</s>` this unlikely no search is over before its last step.
    first, logits = (one.at[:, :, table.eos].set(-100.0) for one in (first, logits))
    softmax = seconds(lambda: normaliser(logits), repeats)
    nothing = jnp.zeros(())  # carried, so that the normalisers are not taken out of the loop

    # `later` steps with all beams and one with the one hypothesis that has written the beginning.
    def search(first: jax.Array, logits: jax.Array, trie: DeviceTrie) -> jax.Array:
        ready = Decoder(
            lambda *_: (first, nothing),
            lambda tokens, nodes, position, nothing: (logits + nothing, nothing * 0.5),
            lambda nothing, parents: nothing,
            child_log_probs,
        )
        return beam_search(ready, trie, setup.spec()).items

    choose = jax.jit(search)
    searched = seconds(lambda: choose(first, logits, on_device), repeats)
    return StepTimes(decoder, softmax, max(searched / later - softmax, 0.0))


@jax.jit
def normaliser(logits: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(logits, axis=2)


def numbered_trie(vocabulary: Vocabulary, n_items: int) -> tuple[Trie, int]:
    """The trie of item_1 … item_N in BART's tokens, and its bytes a node."""
    names = [f"item_{i}" for i in range(1, n_items + 1)]
    table = build_token_table(vocabulary, names, ["user_1"])
    trie = build_trie(table.item_tokens, table.item_lengths, table.eos)
    arrays = [value for value in vars(trie).values() if isinstance(value, np.ndarray)]
    return trie, sum(array.nbytes for array in arrays) // trie.n_nodes


# ------------------------------------------------------------------------- the report


def report_lists(setup: Setup, name: str, lists: np.ndarray, exact: np.ndarray) -> str:
    """HR@20, and how much of the exact lists of the first users is found, also place by place."""
    some = lists[: len(exact)]
    found = np.mean((exact[:, :, None] == some[:, None, :]).any(axis=2))
    same = np.mean(some == exact)
    targets = setup.plan.examples.targets[: len(lists)]
    hits = metrics(lists.astype(np.int32), targets)["HR@20"]
    return (
        f"{name:34s} HR@20 {hits:.5f}   {np.mean(lists >= 0):7.2%} name an item, "
        f"{found:7.2%} of the exact list, {same:7.2%} in its place"
    )


def bytes_of_user(setup: Setup) -> Iterator[str]:
    shape, table = setup.shape, setup.catalogue.table
    size = jnp.dtype(shape.dtype).itemsize
    tokens = max(bucket.n_tokens for bucket in setup.plan.buckets)
    n_before = 1 + len(setup.trie.prefix)
    slots = n_before + (setup.trie.depth - n_before) * BEAMS
    unit = 2 * shape.decoder_layers * shape.d_model * size
    yield (
        f"bytes a user: cross-attention {tokens * unit:,} at {tokens} tokens (a beam each would be "
        f"{BEAMS * tokens * unit:,}), own tokens {slots * unit:,}, logits of a step "
        f"{BEAMS * shape.vocab_size * 4:,}; trie of {table.n_items:,} items "
        f"{sum(a.nbytes for a in vars(setup.catalogue.trie).values() if hasattr(a, 'nbytes')):,}"
    )


def compare(setup: Setup, repeats: int) -> None:
    lists: dict[str, np.ndarray] = {}
    rates: dict[str, float] = {}

    def measure(name: str, run: Callable[[], np.ndarray], repeats: int) -> None:
        lists[name] = run()  # compiles
        rates[name] = rate = len(lists[name]) / seconds(run, repeats, warm_up=False)
        print(f"{name:34s} {rate:9.1f} {1000 / rate:9.2f}", flush=True)

    print(f"\n{'':34s} {'users/s':>9s} {'ms/user':>9s}")
    for search in ("constrained", "free"):
        measure(f"ours, {search}", partial(setup.rank, setup.ranker(search)), repeats)
    model, batches = torch_model(setup), torch_batches(setup)
    for name, allowed in (("free", None), ("prefix function", prefix_function(setup))):
        measure(f"generate, {name}", partial(torch_lists, setup, model, batches, allowed), 1)
    few = setup.head(EXACT_USERS)
    measure("ours, exhaustive", partial(few.rank, few.ranker("exhaustive")), 1)
    exact = lists["ours, exhaustive"]

    ours = rates["ours, constrained"]
    print()
    for name, rate in rates.items():
        print(f"ours, constrained: {ours / rate:6.2f} times the users/s of {name}")
    print()
    for name, found in lists.items():
        print(report_lists(setup, name, found, exact))
    for name in ("free", "constrained"):
        theirs = lists["generate, " + {"free": "free", "constrained": "prefix function"}[name]]
        same = np.mean(lists[f"ours, {name}"] == theirs)
        print(f"ours, {name}, and generate's: {same:.2%} of the places name the same")


def steps_by_catalogue(setup: Setup, repeats: int) -> None:
    head = f"{'nodes':>9s} {'bytes a node':>13s} {'ms a step':>10s} {'constraint':>11s}"
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
        f"V {shape.vocab_size}, {shape.dtype}, {BEAMS} beams, names of up to {setup.trie.depth} "
        f"tokens of which {len(setup.trie.prefix)} are shared"
    )
    for line in bytes_of_user(setup):
        print(line)
    if args.all:
        ranker = setup.ranker("constrained")
        spent = seconds(partial(setup.rank, ranker), 1)
        lists = setup.rank(ranker)
        whole = all(len(set(row)) == BEAMS and min(row) >= 0 for row in lists.tolist())
        print(
            f"constrained, all {len(lists)} users: {spent:.1f} s, {len(lists) / spent:.0f} users/s"
        )
        print(f"every list holds {BEAMS} different items: {whole}")
        return
    compare(setup, args.repeats)
    steps_by_catalogue(setup, args.repeats)


main = Command(
    "benchmark decode",
    "[--all] [--bart-base] [--dtype=bfloat16] …",
    __doc__ or "",
    run,
    (
        Flag("users", "Test users, spread over lengths.", int, 64, least=1),
        Flag("all", "Rank all test users, without PyTorch.", bool, False),
        Flag("batch", "Users a batch.", int, 16, least=1),
        Flag("buckets", "The most padded lengths.", int, 4, least=1),
        Flag("bart-base", "6+6 layers of 768 instead of 3+3 of 256.", bool, False),
        Flag("train-steps", "Steps of training before anything is timed.", int, 100, least=0),
        Flag("dtype", "The dtype of the computation.", DTYPES, "float32"),
        Flag("repeats", "Timed runs, of which the fastest counts.", int, 3, least=1),
        Flag("seed", "The seed of weights and order.", int, 0, least=0),
    ),
)

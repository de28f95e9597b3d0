"""The two sides of the decoding benchmark: our rankers, and PyTorch with the same weights."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from genrec_jax.data.batches import Batch, BatchPlan
from genrec_jax.data.datasets import load_named
from genrec_jax.data.sequences import (
    UserSequences,
    next_item_examples,
    pretraining_examples,
)
from genrec_jax.decoding.beam_search import SearchSpec
from genrec_jax.decoding.exhaustive import make_blocks
from genrec_jax.decoding.ranker import without_progress
from genrec_jax.decoding.ranking import (
    Rank,
    find_by_beams,
    find_exhaustively,
    join,
    make_ranker,
    rank_chunks,
    split_into_chunks,
)
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.indexing import make_indexing
from genrec_jax.identifiers.input_lengths import plan_batches, token_lengths
from genrec_jax.identifiers.tokenizer import load_bart_tokenizer
from genrec_jax.models.contract import Params, abstract_model, init_params, merge
from genrec_jax.models.device_trie import DeviceTrie, put_on_device
from genrec_jax.models.genrec.family import FAMILY
from genrec_jax.models.genrec.hub import BART_BASE, checkpoint_folder
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.models.precision import cast_params
from genrec_jax.models.tables import Tables
from genrec_jax.models.tables import put_on_device as put_table_on_device
from genrec_jax.training.optimizer import OptimizerSpec, make_optimizer
from genrec_jax.training.step import make_train_step, start_state

BEAMS = 20


@dataclass(frozen=True)
class Setup:
    """The common setup of both sides."""

    catalogue: Catalogue
    shape: GenRecShape
    params: Params
    tables: Tables
    trie: DeviceTrie
    plan: BatchPlan

    def spec(self, search: Any = "constrained") -> SearchSpec:
        return SearchSpec(BEAMS, self.catalogue.table.eos, self.catalogue.table.pad, search)

    @cached_property
    def graph(self) -> Any:
        table = self.catalogue.table
        return abstract_model(self.shape, table.n_users, table.n_items)[0]

    @cached_property
    def cast(self) -> Params:
        """The parameters in the compute dtype, for a ranker."""
        return cast_params(self.graph, self.params)

    def ranker(self, search: str) -> Rank:
        if search == "exhaustive":
            size = FAMILY.block_nodes(self.shape, self.plan.batch_size)
            blocks = make_blocks(self.catalogue.trie, self.catalogue.table.eos, size)
            find = find_exhaustively(self.spec(), BEAMS)
            return make_ranker(self.graph, self.tables, find, blocks, "next_item")
        find = find_by_beams(self.spec(search), BEAMS)
        return make_ranker(self.graph, self.tables, find, self.trie, "next_item")

    def head(self, users: int) -> "Setup":
        """Return the setup for the first `users` users, in one batch."""
        rows = np.arange(min(users, len(self.plan.examples)))
        plan = plan_batches(
            self.plan.examples.take(rows),
            token_lengths(self.catalogue.table, 512),
            len(rows),
            1,
            "exact",
        )
        return replace(self, plan=plan)

    def rank(self, ranker: Rank) -> np.ndarray:
        """Rank all examples; return item rows [users, BEAMS]."""
        chunks = split_into_chunks(len(self.plan.examples))
        ranked = rank_chunks(ranker, self.cast, self.plan, chunks, False, without_progress, "")
        return join(ranked).items


def set_up(args: SimpleNamespace, users: int) -> Setup:
    """Load Beauty and the tokenizer, and train the model briefly; 0 users: all."""
    sequences = load_named("beauty", "")
    folder = checkpoint_folder(BART_BASE)
    indexing = make_indexing("random", sequences, args.seed)
    catalogue = Catalogue.build(sequences, indexing, load_bart_tokenizer(folder))
    shape = GenRecShape(vocab_size=catalogue.vocabulary.size, dtype=args.dtype, user_dropout=0.5)
    if not args.bart_base:
        small = {"d_model": 256, "encoder_layers": 3, "decoder_layers": 3}
        small |= {"encoder_heads": 4, "decoder_heads": 4}
        small |= {"encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024}
        shape = GenRecShape(**{**vars(shape), **small, "init_std": 0.05})
    params = init_params(shape, sequences.n_users, sequences.n_items, args.seed)
    params = train_briefly(params, shape, catalogue, sequences, args)
    examples = next_item_examples(sequences, n_excluded=0)
    by_length = np.argsort(examples.stops - examples.starts, kind="stable")
    rows = by_length[np.linspace(0, len(examples) - 1, users).astype(int)] if users else by_length
    plan = plan_batches(
        examples.take(np.sort(rows)),
        token_lengths(catalogue.table, 512),
        args.batch,
        args.buckets,
        "decode",
    )
    return Setup(
        catalogue,
        shape,
        params,
        Tables(put_table_on_device(catalogue.table)),
        put_on_device(catalogue.trie),
        plan,
    )


def train_briefly(
    params: Params,
    shape: GenRecShape,
    catalogue: Catalogue,
    sequences: UserSequences,
    args: SimpleNamespace,
) -> Params:
    """Train some steps of pretraining on short histories."""
    steps = args.train_steps
    if steps == 0:
        return params
    spec = OptimizerSpec(steps, 1e-3, weight_decay=0.01, warmup=0.1, clip_norm=1.0)
    optimizer = make_optimizer(spec)
    graph, _ = abstract_model(shape, sequences.n_users, sequences.n_items)
    tables = Tables(put_table_on_device(catalogue.table))
    step = make_train_step(graph, tables, optimizer, "random_item", args.seed)
    lengths = token_lengths(catalogue.table, 64)
    plan = plan_batches(pretraining_examples(sequences), lengths, 64, 1, "training")
    state, loss = start_state(params, optimizer), 0.0
    for bucket, batch in plan.training_batches(args.seed, 0, steps):
        state, sums = step(state, batch, bucket.n_tokens)
        loss = sums.loss_sum / sums.tokens
    print(f"{steps} steps of training: loss {float(loss):.3f}")
    return state.params


# ------------------------------------------------------------------------- PyTorch


def torch_model(setup: Setup) -> Any:
    """Make `transformers`' BART with our weights and dtype, on a GPU if torch has one."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    from genrec_jax.models.genrec.tensor_names import name_table

    shape = setup.shape
    config = BartConfig(
        vocab_size=shape.vocab_size,
        d_model=shape.d_model,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        encoder_attention_heads=shape.encoder_heads,
        decoder_attention_heads=shape.decoder_heads,
        encoder_ffn_dim=shape.encoder_ffn_dim,
        decoder_ffn_dim=shape.decoder_ffn_dim,
        max_position_embeddings=shape.max_positions,
    )
    model: Any = BartForConditionalGeneration(config).eval()
    state = {}
    for entry in name_table(shape):
        leaf: Any = setup.params
        for name in entry.path:
            leaf = leaf[name]
        value = np.asarray(leaf).T if entry.transpose else np.asarray(leaf)
        if entry.torch_name == "final_logits_bias":
            state[entry.torch_name] = torch.tensor(value)[None]
        else:
            state[f"model.{entry.torch_name}"] = torch.tensor(value)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all("embed_tokens" in name or "lm_head" in name for name in missing), missing
    dtype = torch.bfloat16 if shape.dtype == "bfloat16" else torch.float32
    return model.to(torch_device(), dtype)


def torch_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_batches(setup: Setup) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Return (rows, inputs of `generate`) of every batch, embedded in advance on torch's device."""
    import torch

    device = torch_device()
    dtype = torch.bfloat16 if setup.shape.dtype == "bfloat16" else torch.float32

    graph, _ = abstract_model(
        setup.shape, setup.catalogue.table.n_users, setup.catalogue.table.n_items
    )

    @partial(jax.jit, static_argnums=2)
    def embed(params: Params, batch: Batch, n_tokens: int) -> tuple[jax.Array, jax.Array]:
        model = merge(graph, params)
        inputs = model.make_inputs(setup.tables, batch, "next_item", n_tokens).read
        return model.embed(inputs.tokens) + model.id_vectors(inputs), inputs.mask

    batches = []
    for bucket, rows in setup.plan.in_order():
        x, mask = embed(setup.params, setup.plan.pad(bucket, rows), bucket.n_tokens)
        arguments = {
            "inputs_embeds": torch.tensor(np.asarray(x, np.float32)[: len(rows)]).to(device, dtype),
            "attention_mask": torch.tensor(np.asarray(mask)[: len(rows)]).to(device),
        }
        batches.append((rows, arguments))
    return batches


def torch_rankings(
    setup: Setup, model: Any, batches: list[tuple[np.ndarray, dict[str, Any]]], allowed: Any
) -> np.ndarray:
    """Rank with `generate`; return item rows [users, BEAMS], -1 for texts that are not items.

    `allowed` is the prefix function of constrained search, or None.
    """
    import torch

    width = setup.trie.depth
    tokens = np.full((len(setup.plan.examples), BEAMS, width), setup.catalogue.table.pad)
    for rows, inputs in batches:
        with torch.no_grad():
            texts = model.generate(
                **inputs,
                num_beams=BEAMS,
                num_return_sequences=BEAMS,
                max_length=width + 1,
                length_penalty=0.0,
                forced_eos_token_id=None,
                prefix_allowed_tokens_fn=allowed,
            )
            texts = texts.cpu().numpy()[:, 1:]
        tokens[rows, :, : texts.shape[1]] = texts.reshape(len(rows), BEAMS, -1)
    item_of = {}
    for item, (path, n) in enumerate(
        zip(setup.catalogue.table.item_tokens, setup.catalogue.table.item_lengths, strict=True)
    ):
        item_of[(*path[:n].tolist(), setup.catalogue.table.eos)] = item
    rankings = np.full(tokens.shape[:2], -1)
    for index in np.ndindex(rankings.shape):
        text = tuple(t for t in tokens[index].tolist() if t != setup.catalogue.table.pad)
        rankings[index] = item_of.get(text, -1)
    return rankings


def prefix_function(setup: Setup) -> Callable[[int, Any], list[int]]:
    """Return a prefix function: a dict look-up per beam and step, as fast as Python allows."""
    table = setup.catalogue.table
    allowed: dict[tuple[int, ...], set[int]] = {}
    for tokens, length in zip(table.item_tokens.tolist(), table.item_lengths.tolist(), strict=True):
        path = (*tokens[:length], table.eos)
        for n, token in enumerate(path):
            allowed.setdefault(path[:n], set()).add(token)
    following = {prefix: sorted(tokens) for prefix, tokens in allowed.items()}
    return lambda _, generated: following.get(tuple(generated[1:].tolist()), [table.pad])

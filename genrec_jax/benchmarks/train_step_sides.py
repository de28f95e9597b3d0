"""The two sides of the training benchmark: our step, and PyTorch's on the same batches."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Int

from genrec_jax.data.batches import Batch, BatchPlan, Bucket
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.contract import Inputs, abstract_model, init_params, merge
from genrec_jax.models.genrec.inputs import DecoderInput, EncoderInput
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.models.tables import Tables, put_on_device
from genrec_jax.runs.train_state import TrainState
from genrec_jax.training.dispatches import Dispatch
from genrec_jax.training.multi_step import MultiStepTrainer, put_examples
from genrec_jax.training.optimizer import OptimizerSpec, make_optimizer
from genrec_jax.training.step import make_step, root_key, start_state

SPEC = OptimizerSpec(10_000, learning_rate=1e-5, weight_decay=1e-5, warmup=0.05, clip_norm=5.0)
LOADER_MULTIPLE = 32  # our side pads shuffled batches to a multiple of this


@dataclass
class Ours:
    """Our training step on real data; keeps the state, which every step donates."""

    catalogue: Catalogue
    shape: GenRecShape
    plan: BatchPlan
    trainer: MultiStepTrainer
    optimizer: optax.GradientTransformation
    state: TrainState
    seed: int

    @classmethod
    def build(
        cls, catalogue: Catalogue, plan: BatchPlan, dtype: str, seed: int, steps_per_dispatch: int
    ) -> "Ours":
        shape = GenRecShape(vocab_size=catalogue.vocabulary.size, dtype=dtype)
        users, items = catalogue.table.n_users, catalogue.table.n_items
        graph, _ = abstract_model(shape, users, items)
        optimizer = make_optimizer(SPEC)
        step = make_step(graph, optimizer, "next_item")
        tables = Tables(put_on_device(catalogue.table))
        root = root_key(seed, "next_item")
        examples = put_examples(plan.examples)
        trainer = MultiStepTrainer(step, tables, examples, root, steps_per_dispatch)
        state = start_state(jax.device_put(init_params(shape, users, items, seed)), optimizer)
        return cls(catalogue, shape, plan, trainer, optimizer, state, seed)

    @property
    def n_decoder_tokens(self) -> int:
        return int(self.catalogue.table.item_lengths.max()) + 1

    def step(self, dispatch: Dispatch) -> None:
        """Run a dispatch, and wait for the result."""
        self.state, metrics = self.trainer.run(self.state, dispatch, self.trainer.put(dispatch))
        jax.block_until_ready((self.state, metrics))

    def loader_step(self, rows: np.ndarray) -> None:
        """Run a step on a shuffled batch, and tokenize it although only its integers are needed."""
        tokenize(self.catalogue, self.plan, rows)
        longest = int(self.plan.n_tokens[rows].max())
        width = min(512, -(-longest // LOADER_MULTIPLE) * LOADER_MULTIPLE)
        # The most items that fit into this width, so that the shape depends on the width alone.
        fitting = self.plan.n_tokens <= width
        n_items = int((self.plan.examples.stops - self.plan.examples.starts)[fitting].max())
        self.step(Dispatch(Bucket(n_items, width), rows[None].astype(np.int32), 0))

    def inputs(self, bucket: Bucket, rows: Int[np.ndarray, " B"]) -> Inputs:
        """Return the inputs and labels of a batch, for both sides."""
        batch = Batch(*map(jnp.asarray, self.plan.pad(bucket, rows)))
        graph, _ = abstract_model(self.shape, self.catalogue.n_users, self.catalogue.n_items)
        model = merge(graph, self.state.params)
        return model.make_inputs(self.trainer.tables, batch, "next_item", bucket.n_tokens)

    def xla_flops(self, dispatch: Dispatch) -> float:
        """Return XLA's count of the operations per sequence."""
        cost: Any = self.trainer.program(self.state, dispatch).cost_analysis()
        return cost["flops"] / dispatch.rows.shape[1]  # XLA counts the body of the loop once


def tokenize(catalogue: Catalogue, plan: BatchPlan, rows: np.ndarray) -> list[list[int]]:
    """Tokenize the input sequences of some examples as text."""
    users, items = catalogue.indexing.user_numbers, catalogue.indexing.item_numbers
    texts = []
    for row in rows:
        identifiers = [f" user_{users[plan.examples.users[row]]}"]
        identifiers += [f" item_{items[item]}" for item in plan.examples.history(row)]
        texts.append("".join(identifiers) + "<mask>")
    return [encoding.ids for encoding in catalogue.vocabulary.tokenizer.encode_batch(texts)]


# ------------------------------------------------------------------------- PyTorch


class Theirs:
    """`transformers`' BART with the two id tables added to its input embeddings."""

    def __init__(self, ours: Ours):
        import torch
        from transformers import BartConfig, BartForConditionalGeneration

        # BartConfig's defaults are 12 + 12 layers of 1024.
        sizes: dict[str, Any] = {"encoder_layers": 6, "decoder_layers": 6, "d_model": 768}
        sizes |= {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
        sizes |= {"encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}
        rates: dict[str, Any] = {"attention_dropout": 0.1, "activation_dropout": 0.1}
        config = BartConfig(vocab_size=ours.shape.vocab_size, dropout=0.1, **sizes, **rates)
        self.torch = torch
        self.ours = ours
        self.loaded: dict[int, list[Any]] = {}
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        bart: Any = BartForConditionalGeneration(config)
        self.bart = bart.to(self.device).train()
        table = ours.catalogue.table
        # Row 0, for tokens without an id, has no gradient.
        self.users = torch.nn.Embedding(table.n_users + 1, 768, padding_idx=0).to(self.device)
        self.items = torch.nn.Embedding(table.n_items + 1, 768, padding_idx=0).to(self.device)
        self.parameters = [
            *(self.bart.parameters()),
            *(self.users.parameters()),
            *(self.items.parameters()),
        ]
        self.adamw = torch.optim.AdamW(self.parameters, lr=1e-5, weight_decay=1e-5, fused=True)

    def tensors(self, inputs: EncoderInput, decoder: DecoderInput) -> list[Any]:
        """Return tokens, user and item of each token, mask, decoder tokens and labels."""
        segments = np.asarray(inputs.segments)
        by_segment = np.concatenate(
            [np.zeros((len(segments), 1), int), np.asarray(inputs.items) + 1], axis=1
        )
        by_segment = np.pad(by_segment, ((0, 0), (0, 1)))
        items = np.take_along_axis(by_segment, segments, axis=1)
        users = np.where(segments == 0, np.asarray(inputs.users)[:, None] + 1, 0)
        labels = np.where(np.asarray(decoder.weights), np.asarray(decoder.labels), -100)
        arrays = (inputs.tokens, users, items, inputs.mask, decoder.tokens, labels)
        as_torch = (self.torch.tensor(np.asarray(array)) for array in arrays)
        return [t.long() if t.dtype == self.torch.int32 else t for t in as_torch]

    def step(self, tensors: list[Any]) -> None:
        """Run a training step."""
        tokens, users, items, mask, decoder_tokens, labels = (t.to(self.device) for t in tensors)
        cast = self.ours.shape.dtype == "bfloat16"
        self.adamw.zero_grad(set_to_none=True)
        with self.torch.autocast(self.device, self.torch.bfloat16, enabled=cast):
            x = self.bart.model.shared(tokens) + self.users(users) + self.items(items)
            loss = self.bart(
                inputs_embeds=x,
                attention_mask=mask,
                decoder_input_ids=decoder_tokens,
                labels=labels,
                use_cache=False,
            ).loss
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.parameters, SPEC.clip_norm)
        self.adamw.step()
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def loader_step(self, rows: np.ndarray) -> None:
        """Run a step on a shuffled batch, tokenized on demand, padded to its longest input."""
        plan = self.ours.plan
        tokenize(self.ours.catalogue, plan, rows)
        longest = int(plan.n_tokens[rows].max())
        if longest not in self.loaded:  # PyTorch's time excludes making the tensors
            n_items = int((plan.examples.stops - plan.examples.starts)[rows].max())
            inputs = self.ours.inputs(Bucket(n_items, longest), rows)
            self.loaded[longest] = self.tensors(inputs.encoder_input, inputs.targets)
        self.step(self.loaded[longest])

    def steps(self, batches: list[list[Any]]) -> None:
        """Run a training step for each batch."""
        for tensors in batches:
            self.step(tensors)

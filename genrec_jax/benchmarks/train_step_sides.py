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
from genrec_jax.training.calls import Call
from genrec_jax.training.optimizer import OptimizerSpec, make_optimizer
from genrec_jax.training.resident import ResidentTrainer, put_examples
from genrec_jax.training.step import make_step, root_key, start_state

SPEC = OptimizerSpec(10_000, learning_rate=1e-5, weight_decay=1e-5, warmup=0.05, clip_norm=5.0)
LOADER_MULTIPLE = 32  # what our side pads a shuffled batch's longest sentence to


@dataclass
class Ours:
    """Our step on the real data; the state lives here, since every step donates it."""

    catalogue: Catalogue
    shape: GenRecShape
    plan: BatchPlan
    trainer: ResidentTrainer
    optimizer: optax.GradientTransformation
    state: TrainState
    seed: int

    @classmethod
    def build(
        cls, catalogue: Catalogue, plan: BatchPlan, dtype: str, seed: int, steps_per_call: int
    ) -> "Ours":
        shape = GenRecShape(vocab_size=catalogue.vocabulary.size, dtype=dtype)
        users, items = catalogue.table.n_users, catalogue.table.n_items
        graph, _ = abstract_model(shape, users, items)
        optimizer = make_optimizer(SPEC)
        step = make_step(graph, optimizer, "next_item")
        tables = Tables(put_on_device(catalogue.table))
        root = root_key(seed, "next_item")
        examples = put_examples(plan.examples)
        trainer = ResidentTrainer(step, tables, examples, root, steps_per_call)
        state = start_state(jax.device_put(init_params(shape, users, items, seed)), optimizer)
        return cls(catalogue, shape, plan, trainer, optimizer, state, seed)

    @property
    def n_decoder_tokens(self) -> int:
        return int(self.catalogue.table.item_lengths.max()) + 1

    def step(self, call: Call) -> None:
        self.state, metrics = self.trainer.run(self.state, call, self.trainer.put(call))
        jax.block_until_ready((self.state, metrics))

    def loader_step(self, rows: np.ndarray) -> None:
        """Tokenized anew, as the authors' loader does, though our step needs only the integers."""
        tokenize(self.catalogue, self.plan, rows)
        longest = int(self.plan.n_tokens[rows].max())
        width = min(512, -(-longest // LOADER_MULTIPLE) * LOADER_MULTIPLE)
        # As many items as a sentence of this width can hold, so that the width alone is the shape.
        fitting = self.plan.n_tokens <= width
        n_items = int((self.plan.examples.stops - self.plan.examples.starts)[fitting].max())
        self.step(Call(Bucket(n_items, width), rows[None].astype(np.int32), 0))

    def inputs(self, bucket: Bucket, rows: Int[np.ndarray, " B"]) -> Inputs:
        """What both sides read of a batch, and what they should predict."""
        batch = Batch(*map(jnp.asarray, self.plan.pad(bucket, rows)))
        graph, _ = abstract_model(self.shape, self.catalogue.n_users, self.catalogue.n_items)
        model = merge(graph, self.state.params)
        return model.make_inputs(self.trainer.tables, batch, "next_item", bucket.n_tokens)

    def xla_flops(self, call: Call) -> float:
        cost: Any = self.trainer.program(self.state, call).cost_analysis()
        return cost["flops"] / call.rows.shape[1]  # XLA counts the body of the loop once


def tokenize(catalogue: Catalogue, plan: BatchPlan, rows: np.ndarray) -> list[list[int]]:
    """The sentences of some examples, written out and given to the tokenizer."""
    users, items = catalogue.indexing.user_numbers, catalogue.indexing.item_numbers
    texts = []
    for row in rows:
        names = [f" user_{users[plan.examples.users[row]]}"]
        names += [f" item_{items[item]}" for item in plan.examples.history(row)]
        texts.append("".join(names) + "<mask>")
    return [encoding.ids for encoding in catalogue.vocabulary.tokenizer.encode_batch(texts)]


# ------------------------------------------------------------------------- PyTorch


class Theirs:
    """`transformers`' BART with the two id tables added to its input embeddings."""

    def __init__(self, ours: Ours):
        import torch
        from transformers import BartConfig, BartForConditionalGeneration

        # BART-base is BartConfig's 12 + 12 layers of 1024, changed.
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
        # Row 0 is for tokens without an id, and has no gradient.
        self.users = torch.nn.Embedding(table.n_users + 1, 768, padding_idx=0).to(self.device)
        self.items = torch.nn.Embedding(table.n_items + 1, 768, padding_idx=0).to(self.device)
        self.parameters = [
            *(self.bart.parameters()),
            *(self.users.parameters()),
            *(self.items.parameters()),
        ]
        self.adamw = torch.optim.AdamW(self.parameters, lr=1e-5, weight_decay=1e-5, fused=True)

    def tensors(self, sentence: EncoderInput, answer: DecoderInput) -> list[Any]:
        """Tokens, user and item of each token, mask, decoder tokens and labels."""
        slots = np.asarray(sentence.slots)
        by_slot = np.concatenate(
            [np.zeros((len(slots), 1), int), np.asarray(sentence.items) + 1], axis=1
        )
        by_slot = np.pad(by_slot, ((0, 0), (0, 1)))
        items = np.take_along_axis(by_slot, slots, axis=1)
        users = np.where(slots == 0, np.asarray(sentence.users)[:, None] + 1, 0)
        labels = np.where(np.asarray(answer.weights), np.asarray(answer.labels), -100)
        arrays = (sentence.tokens, users, items, sentence.mask, answer.tokens, labels)
        as_torch = (self.torch.tensor(np.asarray(array)) for array in arrays)
        return [t.long() if t.dtype == self.torch.int32 else t for t in as_torch]

    def step(self, tensors: list[Any]) -> None:
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
        """Tokenized anew, and padded to the longest."""
        plan = self.ours.plan
        tokenize(self.ours.catalogue, plan, rows)
        longest = int(plan.n_tokens[rows].max())
        if longest not in self.loaded:  # putting the tokens into tensors is not charged to PyTorch
            n_items = int((plan.examples.stops - plan.examples.starts)[rows].max())
            inputs = self.ours.inputs(Bucket(n_items, longest), rows)
            self.loaded[longest] = self.tensors(inputs.read, inputs.answer)
        self.step(self.loaded[longest])

    def steps(self, batches: list[list[Any]]) -> None:
        for tensors in batches:
            self.step(tensors)

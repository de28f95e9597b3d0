"""All that training, decoding, evaluation and serving know of a model.

A model family is a folder of `models/` with three parts: the dataclass of its `config.model`
(`config.py`, which imports neither JAX nor Flax), the module (a `SequenceModel`, or a
`GenerativeModel` if it writes identifiers), and a `Family`, the host-side record that says how it
is built, what it reads and how it can be searched. `models/__init__.py` lists the families. No
other package imports one or compares a family's name.

Axes: B users, H items of history, G targets of a user, A predictions of a target (tokens of an
identifier, steps of a path, or 1), N items, K beams, P tokens of a prefix, W children of a trie
node, n nodes of a block, E edges.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.core.errors import InputError
from genrec_jax.data.batches import Batch
from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.sentences import InputLengths
from genrec_jax.identifiers.tokenizer import Vocabulary
from genrec_jax.identifiers.trie import Trie
from genrec_jax.layers.dropout import Key
from genrec_jax.models.device_trie import Children
from genrec_jax.models.tables import Tables

Params = dict[str, Any]  # the nested dict of arrays that is trained and saved

# What a batch asks a model to predict.
#   random_item      one random item of the history, at a mask in its place
#   next_item        the item after the history, at a mask
#   following_item   the item after the history, from the last position, without a mask
#   every_item       at every position of the history, the item that follows it
Objective = Literal["random_item", "next_item", "following_item", "every_item"]

# How a model that was trained with an objective is asked for the item after a history.
RANKED_AS: dict[Objective, Objective] = {
    "random_item": "next_item",
    "next_item": "next_item",
    "following_item": "following_item",
    "every_item": "following_item",
}


class InputKeys(NamedTuple):
    """Randomness of `make_inputs`."""

    mask: jax.Array  # which item is masked
    users: jax.Array  # which users are left out


class Inputs(NamedTuple):
    """What a model reads of a batch and what it should predict, integers throughout."""

    read: Any  # a pytree whose arrays have the axis B first
    answer: Any  # the same, as the family's loss takes it
    weights: Bool[Array, "B G A"]  # which predictions count


class LossTerms(NamedTuple):
    """The objective of each prediction; 0 and True where `Inputs.weights` is False."""

    loss: Float[Array, "B G A"]  # nats for cross-entropy
    correct: Bool[Array, "B G A"]  # the target had the highest score

    def check(self, inputs: Inputs) -> None:
        """Raise TypeError, while a step is traced, for shapes that sums would broadcast."""
        shapes = {"loss": self.loss, "correct": self.correct, "weights": inputs.weights}
        found = {name: array.shape for name, array in shapes.items()}
        if len(set(found.values())) > 1 or self.loss.ndim != 3:
            raise TypeError(f"the model's loss: found shapes {found}, expected [B, G, A] of all")


class SequenceModel(nnx.Module):
    """A model that scores the items of a catalogue after a history.

    It holds exactly the parameters that it uses.
    """

    shape: Any  # the ModelShape of the family

    @abstractmethod
    def make_inputs(
        self,
        tables: Tables,
        batch: Batch,
        objective: Objective,
        length: int,
        keys: InputKeys | None = None,
    ) -> Inputs:
        """Turn a batch into what the model reads and should predict, when training and ranking.

        Args:
            tables: as `Family.tables` made them.
            batch: users [B], histories [B, H] and targets [B], -1 for none (when ranking).
            objective: what is asked for.
            length: padded positions of the encoder, compiled in.
            keys: None when ranking: nothing is left out at random.
        """

    @abstractmethod
    def loss(self, tables: Tables, inputs: Inputs, key: Key, rematerialise: bool) -> LossTerms:
        """Compare predictions with the answers; dropout is on if a key is given.

        With `rematerialise` the backward pass keeps only what goes into each layer and computes the
        rest again: less memory, a third more arithmetic.
        """

    @abstractmethod
    def encode(self, tables: Tables, read: Any) -> Any:
        """Read histories once.

        Args:
            tables: as `Family.tables` made them.
            read: `Inputs.read` of a batch.

        Returns:
            A pytree whose arrays have the axis B first, so that devices can rank their own users.
        """

    @abstractmethod
    def item_scores(self, tables: Tables, memory: Any) -> Float[Array, "B N"]:
        """Score every item: log-probabilities where the model defines a distribution.

        Searches call this for families without a `Family.search_trie`; others are scored by their
        `writer`. `memory` is what `encode` returned.
        """

    @abstractmethod
    def cast_names(self) -> tuple[str, ...]:
        """The model's own parameters that every use casts to the compute dtype."""


class Writer(ABC):
    """A generative model that has read the histories of a batch and writes identifiers.

    A state is what the model knows after a token; only the writer itself looks into it.
    """

    @abstractmethod
    def start(
        self, beginning: tuple[int, ...], beams: int, later: int
    ) -> tuple[Float[Array, "B P _"], Any]:
        """Read the tokens that all identifiers begin with.

        Args:
            beginning: the P tokens, the decoder's start token first. The trie's nodes on the way
                have the numbers 0 … P - 1.
            beams: K.
            later: tokens that may follow, for which the cache needs room.

        Returns:
            The states after each of them, and the cache.
        """

    @abstractmethod
    def extend(
        self,
        tokens: Int[Array, "B K"],
        nodes: Int[Array, "B K"],
        position: Int[Array, ""],
        cache: Any,
    ) -> tuple[Float[Array, "B K _"], Any]:
        """Read one more token a beam, which leads to a trie node; returns states and cache."""

    @abstractmethod
    def reorder(self, cache: Any, parents: Int[Array, "B K"]) -> Any:
        """The cache in which beam k continues the old beam parents[:, k]."""

    @abstractmethod
    def child_log_probs(
        self, states: Float[Array, "B K _"], nodes: Int[Array, "B K"], found: Children
    ) -> Float[Array, "B K W"]:
        """Log-probabilities of the nodes' children; anything where there is no child."""

    @abstractmethod
    def block_states(
        self,
        tokens: Int[Array, " n"],
        nodes: Int[Array, " n"],
        levels: Int[Array, " n"],
        visible: Bool[Array, "n n"],
    ) -> Float[Array, "B n _"]:
        """The states after some nodes of the trie, the same for every user.

        Args:
            tokens: that lead to the nodes.
            nodes: of the trie.
            levels: how many tokens come before each.
            visible: for each node itself and its ancestors.
        """

    @abstractmethod
    def edge_log_probs(
        self,
        states: Float[Array, "B n _"],
        nodes: Int[Array, " n"],
        slots: Int[Array, " E"],
        ends: Int[Array, " E"],
        tokens: Int[Array, " E"],
    ) -> Float[Array, "B E"]:
        """Log-probabilities of the edges from nodes[slots[e]] by tokens[e] to the node ends[e]."""


class GenerativeModel(SequenceModel):
    """A model that also writes identifiers along the trie, token by token."""

    @abstractmethod
    def writer(self, tables: Tables, memory: Any) -> Writer:
        """Start writing for the histories that `encode` has read."""

    def item_scores(self, tables: Tables, memory: Any) -> Float[Array, "B N"]:
        raise NotImplementedError("the items of a generative model are scored by its writer")


@dataclass(frozen=True, kw_only=True)
class ModelShape(ABC):
    """Sizes and switches that a module is built from, stored as model.json."""

    init_std: float = 0.02
    dtype: str = "float32"  # of the arithmetic; parameters are float32
    # Positions of the longest input that training read, and so of the longest that ranking may
    # read: positions beyond were never trained. 0: all are.
    longest_input: int = 0

    @property
    @abstractmethod
    def width(self) -> int:
        """D, the width of the id tables."""

    @abstractmethod
    def module(self, n_users: int, n_items: int, rngs: nnx.Rngs) -> SequenceModel:
        """Build the module."""


# (columns, window, seed) → vectors [N, d] with at most so many columns, as of
# `identifiers.item_vectors.collaborative_vectors`; rows of zeros where nothing is known of an item.
ItemVectors = Callable[[int, int, int], Float[np.ndarray, "N d"]]


class StoredRun(NamedTuple):
    """A checkpoint of a run, as it is exported."""

    name: str
    step: int
    dataset: str
    catalogue: Catalogue
    shape: Any
    params: Params


class Family(ABC):
    """The host-side record of a family; `config` is always that of a run, its own `Config`."""

    name: ClassVar[str]  # the key in `models.FAMILIES`
    title: ClassVar[str]  # for tables and reports
    shape: ClassVar[type[ModelShape]]

    def pretrained(self, config: Any) -> Path | None:
        """The folder that weights and tokenizer come from; None for a model from scratch."""
        return None

    def tokenizer_at_hand(self, config: Any) -> tuple[Path | None, str]:
        """The folder of the run's tokenizer, and which one that is; nothing is downloaded for it.

        None for one that is trained on the names.
        """
        return None, "trained on the names"

    def vocabulary(self, pretrained: Path) -> Vocabulary:
        """The tokenizer of a pretrained model's folder."""
        raise NotImplementedError(f"{self.name}: overrides `pretrained`, but not `vocabulary`")

    def check_data(self, config: Any, sequences: UserSequences) -> None:
        """Check that the model can learn from a dataset.

        Args:
            config: of the run.
            sequences: the dataset.

        Raises:
            InputError: the dataset has something that the model cannot predict.
        """
        return

    @abstractmethod
    def objective(self, config: Any) -> Objective:
        """The objective of finetuning."""

    def knows_strangers(self, config: Any) -> bool:
        """Whether training prepares the model for histories of users that it does not know."""
        return True

    @abstractmethod
    def input_lengths(self, config: Any, catalogue: Catalogue) -> InputLengths:
        """How many encoder positions a history takes, by which batches are padded."""

    @abstractmethod
    def make_shape(
        self, config: Any, catalogue: Catalogue, pretrained: Path | None, longest: int
    ) -> ModelShape:
        """The shape of a run's model.

        Args:
            config: of the run.
            catalogue: of the run.
            pretrained: the folder of the weights; None: from scratch.
            longest: see `ModelShape.longest_input`.

        Raises:
            InputError: the pretrained weights are of another shape.
        """

    def start_params(
        self,
        config: Any,
        shape: Any,
        catalogue: Catalogue,
        pretrained: Path | None,
        item_vectors: ItemVectors,
    ) -> Params:
        """The parameters that training starts from; random ones if not overridden.

        Args:
            config: of the run.
            shape: as `make_shape` made it.
            catalogue: of the run.
            pretrained: the folder of the weights; None: from scratch.
            item_vectors: makes vectors in which items that users have together are close.
        """
        return init_params(shape, catalogue.n_users, catalogue.n_items, config.seed)

    def tables(self, catalogue: Catalogue, trie: Any) -> Tables:
        """What the model reads on the device; `trie` is that of `search_trie`, there already."""
        return Tables()

    def search_trie(self, catalogue: Catalogue) -> Trie | None:
        """The trie that beams and exhaustive search walk; None for a model that writes nothing."""
        return None

    def block_nodes(self, shape: Any, users: int) -> int:
        """Trie nodes that exhaustive search scores at once for so many users."""
        raise NotImplementedError(f"{self.name}: overrides `search_trie`, but not `block_nodes`")

    def export(self, run: "StoredRun", output: Path) -> None:
        """Write a run as a folder that other libraries load.

        Raises:
            InputError: other libraries have no such model; `output` holds something.
            DiskError: `output` cannot be written.
        """
        raise InputError(
            f"{run.name}: its model is of the family {self.name}, which other libraries have no "
            "class for, expected a run of the family genrec"
        )

    @abstractmethod
    def sequence_flops(
        self, shape: Any, catalogue: Catalogue, length: int, objective: Objective
    ) -> float:
        """Operations of one training sequence of `length` positions, forward and backward."""


def abstract_model(shape: ModelShape, n_users: int, n_items: int) -> tuple[Any, Params]:
    """The graph definition and the shapes of the parameters; nothing is allocated.

    Raises:
        TypeError: the module holds other state than parameters, which a run could not restore.
    """
    model = nnx.eval_shape(lambda: shape.module(n_users, n_items, nnx.Rngs(0)))
    graph, state, others = nnx.split(model, nnx.Param, ...)
    if names := [".".join(map(str, path)) for path, _ in nnx.to_flat_state(others)]:
        raise TypeError(
            f"{type(shape).__name__}: found state that is no parameter: {', '.join(names)}, "
            "expected parameters alone; dropout gets its keys from layers/dropout.py"
        )
    return graph, with_string_keys(nnx.to_pure_dict(state))


def init_params(shape: ModelShape, n_users: int, n_items: int, seed: int) -> Params:
    """Random parameters: matrices and tables normal with `shape.init_std`, norms 1, biases 0.

    Drawn on the host, so that they are the same on every device and nothing is compiled.
    """
    _, like = abstract_model(shape, n_users, n_items)
    rng = np.random.default_rng([seed, 0x171])

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.ndim > 1:
            return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * shape.init_std)
        return jnp.full(leaf.shape, path[-1].key == "scale", jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, like)


def merge(graph: Any, params: Params) -> Any:
    """The module with these parameters; cheap, and meant to be called inside jit."""
    return nnx.merge(graph, _with_int_keys(params))


def with_string_keys(tree: Any) -> Any:
    """Name the layers of a list, which NNX numbers with ints, as checkpoints expect."""
    if not isinstance(tree, dict):
        return tree
    return {str(key): with_string_keys(value) for key, value in tree.items()}


def _with_int_keys(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: _with_int_keys(value) for k, value in tree.items()}

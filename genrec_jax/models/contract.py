"""The interface between model families and the other packages.

A model family is a subpackage of `models/` with three modules:

    config.py   the dataclasses of its config; imports neither JAX nor Flax
    model.py    a `ModelShape`, and the module: a `SequenceModel`, or a `GenerativeModel` if it
                generates item identifiers token by token
    family.py   a `Family`: the host-side record of how the model is built, padded and searched

`models/__init__.py` lists the families. Other packages use a model only through this interface, and
neither import a family nor compare its name. docs/model-families.md explains how to add one.

Axes: B users, H items of history, G targets of a user, A predictions of a target (tokens of an
identifier, steps of a trie path, or 1), N items, K beams, P tokens of a prefix, W children of a
trie node, n nodes of a block, E edges of a block.
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
from genrec_jax.identifiers.input_lengths import InputLengths
from genrec_jax.identifiers.tokenizer import Vocabulary
from genrec_jax.identifiers.trie import Trie
from genrec_jax.layers.dropout import Key
from genrec_jax.models.device_trie import Children
from genrec_jax.models.tables import Tables

Params = dict[str, Any]  # nested dict of the arrays that are trained and saved

# The prediction task of a batch.
#   random_item      predict one random item of the history, at a mask in its place
#   next_item        predict the item after the history, at a mask appended to it
#   following_item   predict the item after the history, from the last position, without a mask
#   every_item       predict the next item at every position of the history
Objective = Literal["random_item", "next_item", "following_item", "every_item"]

# The objective of training → the objective that ranks items after a history.
RANKING_OBJECTIVE: dict[Objective, Objective] = {
    "random_item": "next_item",
    "next_item": "next_item",
    "following_item": "following_item",
    "every_item": "following_item",
}


class InputKeys(NamedTuple):
    """The random keys of `make_inputs`."""

    mask: jax.Array  # selects the item to mask
    users: jax.Array  # selects the users to drop


class Inputs(NamedTuple):
    """The inputs and labels of a batch; all arrays are of integers or booleans."""

    encoder_input: Any  # the encoder's input: a pytree of arrays whose first axis is B
    targets: Any  # the labels for the family's loss: a pytree of arrays whose first axis is B
    weights: Bool[Array, "B G A"]  # True where a prediction counts, False at padding


class LossTerms(NamedTuple):
    """The loss of each prediction of a batch."""

    loss: Float[Array, "B G A"]  # in nats for cross-entropy; 0 where the weight is False
    correct: Bool[Array, "B G A"]  # the target scored highest; True where the weight is False

    def check(self, inputs: Inputs) -> None:
        """Raise TypeError, while a step is traced, if the shapes would broadcast in sums."""
        shapes = {"loss": self.loss, "correct": self.correct, "weights": inputs.weights}
        found = {name: array.shape for name, array in shapes.items()}
        if len(set(found.values())) > 1 or self.loss.ndim != 3:
            raise TypeError(f"the model's loss: found shapes {found}, expected [B, G, A] for each")


class SequenceModel(nnx.Module):
    """A model that scores the items of a catalogue after a user's history.

    It has only parameters that it uses. Its methods are traced by `jax.jit`.
    """

    shape: Any  # the family's ModelShape that the module was built from

    @abstractmethod
    def make_inputs(
        self,
        tables: Tables,
        batch: Batch,
        objective: Objective,
        length: int,
        keys: InputKeys | None = None,
    ) -> Inputs:
        """Make the model's inputs and labels from a batch, for training and for ranking.

        Args:
            tables: the tables from `Family.tables`.
            batch: user rows [B], histories [B, H] and targets [B]; -1 for padding, for unknown
                users, and for the targets when ranking.
            objective: the prediction task.
            length: the number of encoder positions to pad to, a static integer.
            keys: random keys for masking and user dropout; None when ranking.
        """

    @abstractmethod
    def loss(self, tables: Tables, inputs: Inputs, key: Key, rematerialise: bool) -> LossTerms:
        """Return the loss of each prediction.

        Args:
            tables: the tables from `Family.tables`.
            inputs: the inputs and labels from `make_inputs`.
            key: the dropout key; None turns dropout off.
            rematerialise: whether the backward pass keeps only the input of each layer and
                recomputes its activations, which takes less memory and a third more operations.
        """

    @abstractmethod
    def encode(self, tables: Tables, encoder_input: Any) -> Any:
        """Encode the histories of a batch, given as `Inputs.encoder_input`.

        Returns:
            The memory for `item_scores` or `GenerativeModel.writer`: a pytree of arrays whose first
            axis is B, so that each device can rank its own users.
        """

    @abstractmethod
    def item_scores(self, tables: Tables, memory: Any) -> Float[Array, "B N"]:
        """Score every item from the result of `encode`, with log-probabilities where they exist.

        Searches use it for families without a `Family.search_trie`; in others the `Writer` scores.
        """

    @abstractmethod
    def cast_names(self) -> tuple[str, ...]:
        """Return the names of the model's own parameters that every use casts to the compute dtype.

        Ranking casts them only once (models/precision.py), like those of the modules in `layers/`.
        """


class Writer(ABC):
    """The decoder of a generative model, for one encoded batch of histories.

    It generates item identifiers token by token, along the paths of a trie. A state is the writer's
    own representation of a prefix, which searches only pass on.
    """

    @abstractmethod
    def start(
        self, prefix: tuple[int, ...], beams: int, later: int
    ) -> tuple[Float[Array, "B P _"], Any]:
        """Decode the prefix that all identifiers share.

        Args:
            prefix: the P tokens, the first of which is the decoder's start token. They lead to the
                trie nodes 0 … P - 1.
            beams: K, the number of beams.
            later: the most tokens that can follow the prefix; the cache has room for them.

        Returns:
            The states after each token of the prefix, and the cache.
        """

    @abstractmethod
    def extend(
        self,
        tokens: Int[Array, "B K"],
        nodes: Int[Array, "B K"],
        position: Int[Array, ""],
        cache: Any,
    ) -> tuple[Float[Array, "B K _"], Any]:
        """Decode the next token of each beam.

        Args:
            tokens: the token of each beam.
            nodes: the trie node that the token leads to.
            position: the position of the tokens in their identifiers, from P on.
            cache: the cache from `start`, `extend` or `reorder`.

        Returns:
            The states after the tokens, and the updated cache.
        """

    @abstractmethod
    def reorder(self, cache: Any, parents: Int[Array, "B K"]) -> Any:
        """Return the cache in which beam k continues the previous beam parents[:, k]."""

    @abstractmethod
    def child_log_probs(
        self, states: Float[Array, "B K _"], nodes: Int[Array, "B K"], found: Children
    ) -> Float[Array, "B K W"]:
        """Return the log-probabilities of the children of trie nodes.

        Args:
            states: the states at the nodes, one per beam.
            nodes: the trie nodes.
            found: their children; the result is arbitrary where `found.exist` is False.
        """

    @abstractmethod
    def block_states(
        self,
        tokens: Int[Array, " n"],
        nodes: Int[Array, " n"],
        levels: Int[Array, " n"],
        attention_mask: Bool[Array, "n n"],
    ) -> Float[Array, "B n _"]:
        """Return the states at a block of trie nodes, which is the same for all users.

        Args:
            tokens: the token that leads to each node.
            nodes: the trie nodes, each together with its ancestors.
            levels: the number of tokens before the token of each node.
            attention_mask: True for each node at itself and at its ancestors.
        """

    @abstractmethod
    def edge_log_probs(
        self,
        states: Float[Array, "B n _"],
        nodes: Int[Array, " n"],
        starts: Int[Array, " E"],
        ends: Int[Array, " E"],
        tokens: Int[Array, " E"],
    ) -> Float[Array, "B E"]:
        """Return the log-probabilities of the trie's edges from the nodes of a block.

        Args:
            states: the states at the nodes, from `block_states`.
            nodes: the trie nodes of the block.
            starts: for each edge, the index in `nodes` of the node that it leaves.
            ends: for each edge, the trie node that it leads to.
            tokens: for each edge, its token.
        """


class GenerativeModel(SequenceModel):
    """A sequence model that generates item identifiers token by token."""

    @abstractmethod
    def writer(self, tables: Tables, memory: Any) -> Writer:
        """Return the decoder for the histories of a batch, from the result of `encode`."""

    def item_scores(self, tables: Tables, memory: Any) -> Float[Array, "B N"]:
        raise NotImplementedError("a generative model scores items with its writer")


@dataclass(frozen=True, kw_only=True)
class ModelShape(ABC):
    """The sizes and switches that a module is built from (int, float, bool, str), in model.json."""

    init_std: float = 0.02  # standard deviation of the initial matrices and tables
    dtype: str = "float32"  # compute dtype; parameters are float32
    # Encoder positions of the longest training input. Ranking truncates histories to it, since
    # later positions are not trained. 0: no limit.
    longest_input: int = 0

    @property
    @abstractmethod
    def width(self) -> int:
        """D, the width of the embedding tables."""

    @abstractmethod
    def module(self, n_users: int, n_items: int, rngs: nnx.Rngs) -> SequenceModel:
        """Build the module with newly initialised parameters."""


# (columns, window, seed) → item vectors [N, d] with d ≤ columns, as from
# `identifiers.item_vectors.collaborative_vectors`; zeros for items without training interactions.
ItemVectors = Callable[[int, int, int], Float[np.ndarray, "N d"]]


class StoredRun(NamedTuple):
    """A checkpoint of a run, for `Family.export`."""

    name: str  # the run's name
    step: int  # the checkpoint's step
    dataset: str  # the dataset's name
    catalogue: Catalogue
    shape: Any  # the family's ModelShape
    params: Params


class Family(ABC):
    """The host-side record of a family; `config` is always a run's config, its `Config`."""

    name: ClassVar[str]  # the name in `models.FAMILIES` and in `config.model.family`
    title: ClassVar[str]  # the name in tables and reports
    shape: ClassVar[type[ModelShape]]

    def pretrained(self, config: Any) -> Path | None:
        """Return the folder of the pretrained weights and tokenizer; None to train from scratch."""
        return None

    def local_tokenizer(self, config: Any) -> tuple[Path | None, str]:
        """Return the local folder of a pretrained tokenizer, if any, and a description of it."""
        return None, "trained on the identifiers"

    def vocabulary(self, pretrained: Path) -> Vocabulary:
        """Load the tokenizer of a pretrained model from its folder."""
        raise NotImplementedError(f"{self.name}: overrides `pretrained`, but not `vocabulary`")

    def check_data(self, config: Any, sequences: UserSequences) -> None:
        """Raise InputError if the dataset has targets that the model cannot predict."""
        return

    @abstractmethod
    def objective(self, config: Any) -> Objective:
        """Return the objective of finetuning."""

    def supports_unknown_users(self, config: Any) -> bool:
        """Return whether training prepares the model for users that are not in the dataset."""
        return True

    @abstractmethod
    def input_lengths(self, config: Any, catalogue: Catalogue) -> InputLengths:
        """Return the encoder positions that users and items take, by which batches are padded."""

    @abstractmethod
    def make_shape(
        self, config: Any, catalogue: Catalogue, pretrained: Path | None, longest: int
    ) -> ModelShape:
        """Return the shape of a run's model.

        Args:
            config: the run's config.
            catalogue: the users and items of the run, and their identifiers.
            pretrained: the folder of the pretrained weights; None to train from scratch.
            longest: the encoder positions of the longest training input, for
                `ModelShape.longest_input`.

        Raises:
            InputError: the pretrained weights have another shape.
        """

    def start_params(
        self,
        config: Any,
        shape: Any,
        catalogue: Catalogue,
        pretrained: Path | None,
        item_vectors: ItemVectors,
    ) -> Params:
        """Return the initial parameters of training; random ones unless overridden.

        Args:
            config: the run's config.
            shape: the model's shape, from `make_shape`.
            catalogue: the users and items of the run, and their identifiers.
            pretrained: the folder of the pretrained weights; None to train from scratch.
            item_vectors: computes item vectors in which items with common users are close.
        """
        return init_params(shape, catalogue.n_users, catalogue.n_items, config.seed)

    def tables(self, catalogue: Catalogue, trie: Any) -> Tables:
        """Return the model's tables; `trie` is that of `search_trie`, already on the device."""
        return Tables()

    def search_trie(self, catalogue: Catalogue) -> Trie | None:
        """Return the trie for beam search and exhaustive search; None if not generative."""
        return None

    def block_nodes(self, shape: Any, users: int) -> int:
        """Return the size of exhaustive search's blocks of trie nodes for batches of `users`."""
        raise NotImplementedError(f"{self.name}: overrides `search_trie`, but not `block_nodes`")

    def export(self, run: "StoredRun", output: Path) -> None:
        """Export a checkpoint to a folder that other libraries can load.

        Args:
            run: the checkpoint to export.
            output: the folder to write.

        Raises:
            InputError: other libraries have no class for the model, or `output` is not empty.
            DiskError: `output` cannot be written.
        """
        raise InputError(
            f"{run.name}: found a model of the family {self.name}, which has no class in other "
            "libraries, expected a run of the family genrec"
        )

    @abstractmethod
    def sequence_flops(
        self, shape: Any, catalogue: Catalogue, length: int, objective: Objective
    ) -> float:
        """Return the forward and backward operations of a sequence of `length` padded positions."""


def abstract_model(shape: ModelShape, n_users: int, n_items: int) -> tuple[Any, Params]:
    """Return a model's graph definition and parameter shapes, without allocating parameters.

    Raises:
        TypeError: the module has state other than parameters, which checkpoints do not store.
    """
    model = nnx.eval_shape(lambda: shape.module(n_users, n_items, nnx.Rngs(0)))
    graph, state, others = nnx.split(model, nnx.Param, ...)
    if names := [".".join(map(str, path)) for path, _ in nnx.to_flat_state(others)]:
        raise TypeError(
            f"{type(shape).__name__}: found state other than nnx.Param: {', '.join(names)}, "
            "expected parameters only; for dropout use layers/dropout.py"
        )
    return graph, with_string_keys(nnx.to_pure_dict(state))


def init_params(shape: ModelShape, n_users: int, n_items: int, seed: int) -> Params:
    """Draw initial parameters: matrices and tables normal with `shape.init_std`, norms 1, biases 0.

    They are drawn on the host, so that they are the same on every device and nothing is compiled.
    """
    _, like = abstract_model(shape, n_users, n_items)
    rng = np.random.default_rng([seed, 0x171])

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.ndim > 1:
            return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * shape.init_std)
        return jnp.full(leaf.shape, path[-1].key == "scale", jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, like)


def merge(graph: Any, params: Params) -> Any:
    """Return the module with the given parameters; cheap, and meant to be called inside jit."""
    return nnx.merge(graph, _with_int_keys(params))


def with_string_keys(tree: Any) -> Any:
    """Convert the integer keys of lists of layers to strings, which checkpoints require."""
    if not isinstance(tree, dict):
        return tree
    return {str(key): with_string_keys(value) for key, value in tree.items()}


def _with_int_keys(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: _with_int_keys(value) for k, value in tree.items()}

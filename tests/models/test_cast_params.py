"""Parameters are cast once and not per batch, and only those that the model casts anyway."""

import dataclasses
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.data.sequences import UserSequences, next_item_examples
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.trie import decided
from genrec_jax.models.code_genrec import family as code_genrec
from genrec_jax.models.contract import Params, init_params
from genrec_jax.models.genrec import family as genrec
from genrec_jax.models.run_config import BeamConfig, EvaluateConfig
from genrec_jax.models.sasrec import family as sasrec
from genrec_jax.runs.config import default_config
from genrec_jax.runs.model import ModelSetup

# Odd sizes, so that no activation has the shape of a parameter.
COMMON = {"d_model": 26, "init_std": 0.5, "dtype": "bfloat16"}
STACKS = {"encoder_layers": 1, "decoder_layers": 1, "max_positions": 83}
GENREC = {"encoder_heads": 2, "decoder_heads": 2, "encoder_ffn_dim": 38, "decoder_ffn_dim": 42}
CODES = {**COMMON, **STACKS, "heads": 2, "ffn_dim": 38, "reversed_positions": True}
SASREC = {**COMMON, "layers": 1, "heads": 2, "ffn_dim": 38, "max_items": 83}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "paper": (genrec.FAMILY, {**COMMON, **STACKS, **GENREC}),
    "sasrec": (sasrec.FAMILY, SASREC),
    "none": (code_genrec.FAMILY, {**CODES, "encoder_prior": "none"}),
    "state": (code_genrec.FAMILY, {**CODES, "encoder_prior": "state"}),
    "new_items": (
        code_genrec.FAMILY,
        {**CODES, "encoder_prior": "new_items", "temperature": 0.1, "low_pass": 0.5},
    ),
    "copying": (code_genrec.FAMILY, {**CODES, "encoder_prior": "copying"}),
}
# Tables that the model sums or normalises in float32.
TABLES = {"token_embedding", "user_embedding", "item_embedding", "node_embedding"}
FLOAT32 = {
    "paper": {"final_logits_bias"},
    "sasrec": set(),
    "none": TABLES,
    "state": TABLES,
    "new_items": {*TABLES, "fast"},
    "copying": {*TABLES, "pointer_recency"},
}


def drawn(like: Params) -> Params:
    """Return parameters that are not exact in bfloat16, norms and biases included."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.1 * rng.standard_normal(leaf.shape), jnp.float32), like
    )


def rounded(params: Params, name: str) -> Params:
    """Return float32 parameters, of which those of one name are rounded to bfloat16."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            leaf.astype(jnp.bfloat16).astype(jnp.float32) if path[-1].key == name else leaf
        ),
        params,
    )


class Case:
    """A bfloat16 model and one batch of synthetic users."""

    def __init__(self, name: str, sequences: UserSequences, catalogue: Catalogue):
        self.float32 = FLOAT32[name]
        family, changes = MODELS[name]
        trie = decided(catalogue.trie)
        if family is code_genrec.FAMILY:
            changes = changes | {"inner_nodes": int((trie.items < 0).sum())}
            changes["path_length"] = trie.depth
        if family is not sasrec.FAMILY:
            changes = changes | {"vocab_size": catalogue.vocabulary.size + 7}
        shape = family.shape(**changes)
        most = {"max_items": 80} if family is sasrec.FAMILY else {"max_tokens": 80}
        config = default_config(family.name)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **most))
        setup = ModelSetup(family, config, shape, catalogue)
        self.graph, _ = setup.graph_and_like
        self.params = drawn(init_params(shape, catalogue.n_users, catalogue.n_items, seed=0))
        kind = EvaluateConfig if family is sasrec.FAMILY else BeamConfig
        evaluate = kind(users=0, batch_size=16, exclude_history=True)
        is_papers = family is genrec.FAMILY
        self.ranker = Ranker(setup, evaluate, 1, "next_item" if is_papers else "following_item")
        self.rank_batch = self.ranker._ranker(evaluate.search_settings().search)
        examples = next_item_examples(sequences, n_excluded=0).take(np.arange(16))
        self.plan = self.ranker.plan(examples, "test")
        bucket, rows = self.plan.in_order()[0]
        self.batch, self.n_tokens = self.plan.pad(bucket, rows), bucket.n_tokens
        self.seen = self.plan.whole_histories(bucket, rows)

    def rank(self, params: Params) -> tuple[jax.Array, jax.Array]:
        """Return the rankings and scores of the batch with the given parameters."""
        return self.rank_batch(params, self.batch, self.seen, self.n_tokens)


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest, sequences: UserSequences, catalogue: Catalogue) -> Case:
    return Case(request.param, sequences, catalogue)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Return the equations of a program, those of its inner programs included."""
    for eqn in jaxpr.eqns:
        yield eqn
        inner = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda one: hasattr(one, "eqns"))
        for one in inner:
            if hasattr(one, "eqns"):
                yield from equations(getattr(one, "jaxpr", one))


@pytest.fixture(autouse=True)
def _without_a_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set no mesh, which JAX does not allow while it traces; one device needs none."""
    monkeypatch.setattr(jax, "set_mesh", lambda mesh: nullcontext())


def test_a_batch_casts_no_parameter(case: Case) -> None:
    case.ranker.params = case.params
    leaves = jax.tree_util.tree_leaves_with_path(case.ranker.params)
    assert {path[-1].key for path, leaf in leaves if leaf.dtype == jnp.float32} == case.float32
    cast = {leaf.shape for path, leaf in leaves if path[-1].key not in case.float32}

    def converted(params: Params) -> list[Any]:
        jaxpr = jax.make_jaxpr(case.rank)(params).jaxpr
        converts = [eqn for eqn in equations(jaxpr) if eqn.primitive.name == "convert_element_type"]
        found = [eqn.invars[0].aval for eqn in converts]
        return [one for one in found if one.dtype == jnp.float32 and one.shape in cast]

    assert converted(case.params)
    assert not converted(case.ranker.params)


def test_rankings_and_scores_are_those_of_the_float32_parameters(case: Case) -> None:
    """The results are equal if XLA may not leave out roundings, as it may by default."""
    options = {"xla_allow_excess_precision": False, "xla_backend_optimization_level": 0}
    rank = jax.jit(case.rank, compiler_options=options)
    items, scores = rank(case.params)
    case.ranker.params = case.params
    cast_items, cast_scores = rank(case.ranker.params)
    np.testing.assert_array_equal(cast_items, items)
    np.testing.assert_array_equal(cast_scores, scores)
    assert np.isfinite(scores).all()
    for name in case.float32:  # rounding any of the others changes the scores
        _, rounded_scores = rank(rounded(case.params, name))
        assert not np.array_equal(rounded_scores, scores), name

"""Our BART against PyTorch's, part by part and then whole; weights and padding at random.

Every test runs at a small shape with unequal depths, heads and widths, and at BART-base's. Dropout
is off. Both sides start from users, histories and targets as integers: ours through
`encoder_input` and `decoder_input`, PyTorch's through tests/paper_reading.py. One row of each batch
only fills it up.

float32 rounds to 6e-8 of a value; what that leaves of a sum depends on what cancels. So gradients
are also held to PyTorch's in float64, which says how far off PyTorch's own float32 is.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracle import (
    Case,
    base_case,
    leaves,
    relative_distances,
    save,
    small_case,
    zero_by_mathematics,
)
from transformers.modeling_outputs import Seq2SeqLMOutput

from genrec_jax.models.contract import Params, init_params
from genrec_jax.models.genrec.convert import load_params, read_shape


class Computed(NamedTuple):
    """What each side makes of a case."""

    logits: np.ndarray  # [B, S, V]
    loss: float
    gradients: Params
    theirs: Seq2SeqLMOutput
    their_gradients: Params
    gradients64: Params  # PyTorch's in float64


@pytest.fixture(scope="module", params=["small", pytest.param("bart-base", marks=pytest.mark.slow)])
def case(request: pytest.FixtureRequest) -> Case:
    return small_case() if request.param == "small" else base_case()


@pytest.fixture(scope="module")
def computed(case: Case) -> Computed:
    @jax.jit
    def ours(params: Params) -> Any:
        def loss_of(params: Params) -> Any:
            logits, loss = case.logits_and_loss(params)
            return loss, logits

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    (loss, logits), gradients = ours(case.params)
    with torch.no_grad():
        theirs = case.theirs(case.fed)
    their_gradients = case.theirs.gradients(case.fed)
    gradients64 = case.theirs.in_float64().gradients(case.fed)
    return Computed(
        np.asarray(logits), float(loss), gradients, theirs, their_gradients, gradients64
    )


# ------------------------------------------------------------------ part by part


def test_embedding_sum(case: Case, computed: Computed) -> None:
    """Token, position and id, normalised: what the first layers see. The decoder has no ids."""
    model = case.model(case.params)
    x = model.embed(case.sentence.tokens) + model.id_vectors(case.sentence)
    found = model.encoder.embedding(x, jnp.arange(x.shape[1]))
    assert_close(found, computed.theirs.encoder_hidden_states[0], atol=3e-6)

    x = model.embed(case.answer.tokens)
    found = model.decoder.embedding(x, jnp.arange(x.shape[1]))
    real = case.real_rows
    assert_close(found[real], computed.theirs.decoder_hidden_states[0][real], atol=3e-6)


def test_each_encoder_layer(case: Case, computed: Computed) -> None:
    """Each is given what PyTorch's layer was given, so that none hides another's fault."""
    layers = case.model(case.params).encoder.layers
    states = computed.theirs.encoder_hidden_states
    assert len(states) == len(layers) + 1
    for layer, before, after in zip(layers, states, states[1:], strict=False):
        assert_close(layer(as_jax(before), where_to_look(case), None), after, atol=1e-5)


def test_each_decoder_layer(case: Case, computed: Computed) -> None:
    """Each is given what PyTorch's layer was given, and PyTorch's encoder."""
    layers = case.model(case.params).decoder.layers
    states = computed.theirs.decoder_hidden_states
    encoded = as_jax(computed.theirs.encoder_last_hidden_state)
    assert len(states) == len(layers) + 1
    for layer, before, after in zip(layers, states, states[1:], strict=False):
        x = as_jax(before)
        own = layer.self_attention.key_value(x)
        memory = layer.cross_attention.key_value(encoded)
        found = layer(x, own, causal(x.shape[1]), memory, where_to_look(case), None)
        assert_close(found, after, atol=1e-5)


def test_each_attention_on_its_own(case: Case, computed: Computed) -> None:
    """The encoder's, the decoder's and that of the decoder to the encoder, before any norm."""
    model, bart = case.model(case.params), case.theirs.bart.model
    padding = case.fed.mask[:, None, None, :]

    states = computed.theirs.encoder_hidden_states
    for ours, theirs, x in zip(model.encoder.layers, bart.encoder.layers, states, strict=False):
        look = where_to_look(case)
        compare_attention(ours.attention, theirs.self_attn, x, None, look, padding)

    encoded = computed.theirs.encoder_last_hidden_state
    states = computed.theirs.decoder_hidden_states
    order = causal(states[0].shape[1])
    lower = torch.tensor(np.asarray(order))[:, None]
    for ours, theirs, x in zip(model.decoder.layers, bart.decoder.layers, states, strict=False):
        compare_attention(ours.self_attention, theirs.self_attn, x, None, order, lower)
        look = where_to_look(case)
        compare_attention(ours.cross_attention, theirs.encoder_attn, x, encoded, look, padding)


def compare_attention(
    ours: Any,
    theirs: torch.nn.Module,
    x: torch.Tensor,
    memory: torch.Tensor | None,
    look: jax.Array,
    their_look: torch.Tensor,
) -> None:
    """PyTorch adds its mask to the scores; `memory` None is self-attention."""
    size = (x.shape[0], 1, x.shape[1], (x if memory is None else memory).shape[1])
    bias = torch.where(their_look, 0.0, torch.finfo(torch.float32).min).expand(size)
    with torch.no_grad():
        expected, _ = theirs(x, key_value_states=memory, attention_mask=bias)
    key_value = ours.key_value(as_jax(x if memory is None else memory))
    assert_close(ours(as_jax(x), key_value, look), expected, atol=1e-5)


# ------------------------------------------------------------------ whole


def test_logits(case: Case, computed: Computed) -> None:
    """Of all rows but the one that only fills the batch."""
    expected = computed.theirs.logits.numpy()[case.real_rows]
    assert np.abs(expected).max() > 5  # the scale of the weights is not trivial
    np.testing.assert_allclose(computed.logits[case.real_rows], expected, rtol=0, atol=2e-5)


def test_loss(computed: Computed) -> None:
    """The mean over the tokens with a weight, which PyTorch has labels other than -100 for."""
    np.testing.assert_allclose(computed.loss, computed.theirs.loss.item(), rtol=1e-6)


def test_gradients_of_every_parameter(case: Case, computed: Computed) -> None:
    """Of the tied embedding, both id tables and every tensor of BART: 1e-4, relative in norm.

    Measured: 2.7e-6 at the small shape, 2.7e-5 at BART-base's (the queries of the last decoder
    layer, whose positions are nearly alike), where PyTorch's own float32 is 2.1e-5 from its float64
    and ours 1.4e-5.

    The bound cannot hold for the biases of the keys: a constant added to every key moves all scores
    of a query alike, which the softmax takes out again, so that their gradient is zero by
    mathematics and what float32 finds is noise; see the next test. The output bias is a constant
    of the checkpoint: zero for both, exactly.
    """
    distances = relative_distances(computed.gradients, computed.their_gradients)
    far = {path: gap for path, gap in distances.items() if gap > 1e-4}
    assert set(far) == zero_by_mathematics(computed.gradients), far
    distances = relative_distances(computed.gradients, computed.gradients64)
    assert {path for path, gap in distances.items() if gap > 1e-4} == set(far)
    still = {path for path, leaf in leaves(computed.gradients) if not np.any(leaf)}
    assert still == {"final_logits_bias"}


def test_gradients_that_are_zero_by_mathematics(computed: Computed) -> None:
    """The keys' biases: float64 finds at most 4e-17, of a whole gradient with a norm of 5 or 30.

    In float32 ours are smaller than one rounding of the whole gradient (measured: 0.03 of that),
    and of the size of PyTorch's (0.2 to 2.2 times).
    """
    ours, theirs, exact = (
        {path: np.linalg.norm(np.asarray(leaf)) for path, leaf in leaves(gradients)}
        for gradients in (computed.gradients, computed.their_gradients, computed.gradients64)
    )
    whole = np.linalg.norm(list(exact.values()))
    for path in zero_by_mathematics(computed.gradients):
        assert exact[path] < 1e-15 * whole
        assert ours[path] < np.finfo(np.float32).eps * whole
        assert ours[path] < 4 * theirs[path]


def test_pytorchs_padding_row_does_not_matter() -> None:
    """PyTorch's embedding withholds the gradient of row 1, `<pad>`, where it looks tokens up.

    We do not; but nothing looks at padding, so there is none to withhold: PyTorch's gradients are
    the same to the last bit without that rule, and what reaches row 1 comes from the tied output.
    """
    case = small_case()
    assert (case.fed.tokens == 1).any()
    assert (case.fed.decoder_tokens == 1).any()
    expected = case.theirs.gradients(case.fed)
    bart = case.theirs.bart.model
    for table in (bart.shared, bart.encoder.embed_tokens, bart.decoder.embed_tokens):
        assert table.padding_idx == 1
        table.padding_idx = None
    jax.tree.map(np.testing.assert_array_equal, case.theirs.gradients(case.fed), expected)
    assert np.any(expected["token_embedding"][1])


def test_a_checkpoint_is_read_into_these_places(tmp_path: Path) -> None:
    """The oracle's table of names is not that of models/genrec/names.py: two must agree."""
    case = small_case()
    folder = save(case.theirs.bart, tmp_path)
    shape = read_shape(folder)
    users, items = (len(case.params[table]) for table in ("user_embedding", "item_embedding"))
    start = init_params(shape, users, items, seed=0)
    found = load_params(folder, shape, start)
    for (path, ours), (_, expected) in zip(leaves(found), leaves(case.params), strict=True):
        if path not in ("user_embedding", "item_embedding"):  # they are in no checkpoint
            np.testing.assert_array_equal(ours, expected, err_msg=path)


# ------------------------------------------------------------------ bfloat16


def test_bfloat16_stays_near_float32(case: Case, computed: Computed) -> None:
    """Logits within 0.08 and 0.018 on average (root mean square), the loss within 0.015 nats.

    bfloat16 keeps 8 bits, and rounds to 0.4 % of a value. Measured at the small shape and at
    BART-base's: logits of a spread of 1.7 and 1.3 move by at most 0.033 and 0.043, by 0.009 and
    0.009 on average, and the loss by 0.006 and 0.001. PyTorch's BART in bfloat16 moves by 0.010
    and 0.010; ours may move half as far again.
    """
    logits, loss = jax.jit(lambda params: case.logits_and_loss(params, "bfloat16"))(case.params)
    assert logits.dtype == loss.dtype == jnp.float32
    gap = (np.asarray(logits) - computed.logits)[case.real_rows]
    assert np.abs(gap).max() < 0.08
    assert root_mean_square(gap) < 0.018
    assert abs(float(loss) - computed.loss) < 0.015
    with torch.no_grad():
        rounded = copy.deepcopy(case.theirs).bfloat16()(case.fed).logits.float()
    their_gap = (rounded - computed.theirs.logits).numpy()[case.real_rows]
    assert root_mean_square(gap) < 1.5 * root_mean_square(their_gap)


# ------------------------------------------------------------------ in few words


def as_jax(x: torch.Tensor) -> jax.Array:
    return jnp.asarray(x.numpy())


def assert_close(found: jax.Array, expected: torch.Tensor, atol: float) -> None:
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=atol)


def where_to_look(case: Case) -> jax.Array:
    """[B, 1, T] False at padding."""
    return case.sentence.mask[:, None, :]


def causal(length: int) -> jax.Array:
    """[1, S, S] each token sees itself and those before it."""
    return jnp.asarray(np.tri(length, dtype=bool)[None])


def root_mean_square(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))

"""Our BART compared with PyTorch's, by part and as a whole, with random weights and padding.

Every test runs at a small shape with unequal depths, heads and widths, and at BART-base's shape.
Dropout is off. Both sides start from users, histories and targets as integers: ours through
`encoder_input` and `decoder_input`, PyTorch's through tests/paper_reading.py. The last row of each
batch is padding.

float32 rounds to 6e-8 of a value, and the relative error of a sum grows with cancellation.
Gradients are therefore also compared with PyTorch's in float64, which shows the error of PyTorch's
float32.
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
    """The outputs of both sides for a case."""

    logits: np.ndarray  # [B, S, V]
    loss: float
    gradients: Params
    theirs: Seq2SeqLMOutput
    their_gradients: Params
    gradients64: Params  # PyTorch's gradients in float64


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
    """The input of the first layers is the same: token, position and id embeddings, normalised."""
    model = case.model(case.params)
    x = model.embed(case.sentence.tokens) + model.id_vectors(case.sentence)
    found = model.encoder.embedding(x, jnp.arange(x.shape[1]))
    assert_close(found, computed.theirs.encoder_hidden_states[0], atol=3e-6)

    x = model.embed(case.answer.tokens)
    found = model.decoder.embedding(x, jnp.arange(x.shape[1]))
    real = case.real_rows
    assert_close(found[real], computed.theirs.decoder_hidden_states[0][real], atol=3e-6)


def test_each_encoder_layer(case: Case, computed: Computed) -> None:
    """Each layer gets the input of PyTorch's layer, so that errors do not accumulate."""
    layers = case.model(case.params).encoder.layers
    states = computed.theirs.encoder_hidden_states
    assert len(states) == len(layers) + 1
    for layer, before, after in zip(layers, states, states[1:], strict=False):
        assert_close(layer(as_jax(before), padding_mask(case), None), after, atol=1e-5)


def test_each_decoder_layer(case: Case, computed: Computed) -> None:
    """Each layer gets the input of PyTorch's layer, and the output of PyTorch's encoder."""
    layers = case.model(case.params).decoder.layers
    states = computed.theirs.decoder_hidden_states
    encoded = as_jax(computed.theirs.encoder_last_hidden_state)
    assert len(states) == len(layers) + 1
    for layer, before, after in zip(layers, states, states[1:], strict=False):
        x = as_jax(before)
        key_value = layer.self_attention.key_value(x)
        memory = layer.cross_attention.key_value(encoded)
        found = layer(x, key_value, causal(x.shape[1]), memory, padding_mask(case), None)
        assert_close(found, after, atol=1e-5)


def test_each_attention(case: Case, computed: Computed) -> None:
    """Self-attention of encoder and decoder, and cross-attention, before the norms."""
    model, bart = case.model(case.params), case.theirs.bart.model
    padding = case.fed.mask[:, None, None, :]

    states = computed.theirs.encoder_hidden_states
    for ours, theirs, x in zip(model.encoder.layers, bart.encoder.layers, states, strict=False):
        attention_mask = padding_mask(case)
        compare_attention(ours.attention, theirs.self_attn, x, None, attention_mask, padding)

    encoded = computed.theirs.encoder_last_hidden_state
    states = computed.theirs.decoder_hidden_states
    our_causal = causal(states[0].shape[1])
    their_causal = torch.tensor(np.asarray(our_causal))[:, None]
    for ours, theirs, x in zip(model.decoder.layers, bart.decoder.layers, states, strict=False):
        compare_attention(ours.self_attention, theirs.self_attn, x, None, our_causal, their_causal)
        attention_mask = padding_mask(case)
        compare_attention(
            ours.cross_attention, theirs.encoder_attn, x, encoded, attention_mask, padding
        )


def compare_attention(
    ours: Any,
    theirs: torch.nn.Module,
    x: torch.Tensor,
    memory: torch.Tensor | None,
    attention_mask: jax.Array,
    their_mask: torch.Tensor,
) -> None:
    """Compare one attention; PyTorch adds its mask to the scores.

    Args:
        ours: our attention.
        theirs: PyTorch's attention.
        x: the input.
        memory: the encoder's output for cross-attention; None for self-attention.
        attention_mask: the mask of our attention.
        their_mask: the mask of PyTorch's attention, True where tokens are attended to.
    """
    size = (x.shape[0], 1, x.shape[1], (x if memory is None else memory).shape[1])
    bias = torch.where(their_mask, 0.0, torch.finfo(torch.float32).min).expand(size)
    with torch.no_grad():
        expected, _ = theirs(x, key_value_states=memory, attention_mask=bias)
    key_value = ours.key_value(as_jax(x if memory is None else memory))
    assert_close(ours(as_jax(x), key_value, attention_mask), expected, atol=1e-5)


# ------------------------------------------------------------------ the whole model


def test_logits(case: Case, computed: Computed) -> None:
    """The logits of all rows but the padding row are the same."""
    expected = computed.theirs.logits.numpy()[case.real_rows]
    assert np.abs(expected).max() > 5  # the scale of the weights is not trivial
    np.testing.assert_allclose(computed.logits[case.real_rows], expected, rtol=0, atol=2e-5)


def test_loss(computed: Computed) -> None:
    """Both are means over the target tokens, which are those with labels in PyTorch."""
    np.testing.assert_allclose(computed.loss, computed.theirs.loss.item(), rtol=1e-6)


def test_gradients_of_every_parameter(case: Case, computed: Computed) -> None:
    """The relative error in norm is at most 1e-4 for the embeddings and every tensor of BART.

    Measured: 2.7e-6 at the small shape and 2.7e-5 at BART-base's (the queries of the last decoder
    layer, whose positions are nearly alike). There, PyTorch's float32 differs from its float64 by
    2.1e-5, and ours by 1.4e-5.

    The bound does not apply to the biases of the keys. A constant that is added to every key adds
    the same to all scores of a query and does not change the softmax. Their exact gradient is
    therefore zero, and the float32 gradient is noise (see the next test). The output bias is not
    trained, so that its gradient is exactly zero on both sides.
    """
    distances = relative_distances(computed.gradients, computed.their_gradients)
    far = {path: gap for path, gap in distances.items() if gap > 1e-4}
    assert set(far) == zero_by_mathematics(computed.gradients), far
    distances = relative_distances(computed.gradients, computed.gradients64)
    assert {path for path, gap in distances.items() if gap > 1e-4} == set(far)
    zero = {path for path, leaf in leaves(computed.gradients) if not np.any(leaf)}
    assert zero == {"final_logits_bias"}


def test_gradients_that_are_zero_by_mathematics(computed: Computed) -> None:
    """The gradients of the keys' biases are rounding errors, and ours are not larger.

    In float64 they are at most 4e-17, where the whole gradient has a norm of 5 or 30. In float32
    ours are below one rounding error of the whole gradient (measured: 0.03 of it), and similar to
    PyTorch's (0.2 to 2.2 times).
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
    """PyTorch's embedding has no gradient for looking up row 1, `<pad>`, and ours has.

    No token attends to padding, so that this gradient is zero. Without `padding_idx`, PyTorch's
    gradients are the same to the last bit. The gradient of row 1 comes from the tied output.
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


def test_the_oracle_has_the_same_name_table(tmp_path: Path) -> None:
    """The oracle has its own mapping of tensor names, which agrees with tensor_names.py."""
    case = small_case()
    folder = save(case.theirs.bart, tmp_path)
    shape = read_shape(folder)
    users, items = (len(case.params[table]) for table in ("user_embedding", "item_embedding"))
    start = init_params(shape, users, items, seed=0)
    found = load_params(folder, shape, start)
    for (path, ours), (_, expected) in zip(leaves(found), leaves(case.params), strict=True):
        if path not in ("user_embedding", "item_embedding"):  # not in BART checkpoints
            np.testing.assert_array_equal(ours, expected, err_msg=path)


# ------------------------------------------------------------------ bfloat16


def test_bfloat16_stays_near_float32(case: Case, computed: Computed) -> None:
    """Logits differ by at most 0.08 and 0.018 in root mean square, and the loss by 0.015 nats.

    bfloat16 has 8 bits of precision and rounds to 0.4 % of a value. Measured at the small shape and
    at BART-base's: logits, whose standard deviation is 1.7 and 1.3, change by at most 0.033 and
    0.043, and by 0.009 and 0.009 in root mean square. The loss changes by 0.006 and 0.001. The
    logits of PyTorch's BART in bfloat16 change by 0.010 and 0.010 in root mean square, and ours may
    change by 1.5 times as much.
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


# ------------------------------------------------------------------ helpers


def as_jax(x: torch.Tensor) -> jax.Array:
    return jnp.asarray(x.numpy())


def assert_close(found: jax.Array, expected: torch.Tensor, atol: float) -> None:
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=atol)


def padding_mask(case: Case) -> jax.Array:
    """Return the encoder's attention mask [B, 1, T], which is False at padding."""
    return case.sentence.mask[:, None, :]


def causal(length: int) -> jax.Array:
    """Return the causal mask [1, S, S]."""
    return jnp.asarray(np.tri(length, dtype=bool)[None])


def root_mean_square(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))

"""Our BART against PyTorch's, float32, random weights, random padding, dropout off."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracle import save, small_bart

from genrec_jax.errors import InputError
from genrec_jax.model.convert import load_params, name_table, read_shape
from genrec_jax.model.genrec import GenRec, Params, abstract_model, init_params, merge
from genrec_jax.model.inputs import EncoderInput

USERS, ITEMS, B, H, T, S = 5, 7, 4, 3, 12, 5


@pytest.fixture(scope="module")
def bart():
    return small_bart()


@pytest.fixture(scope="module")
def ours(bart, tmp_path_factory) -> tuple[object, Params]:
    folder = save(bart, tmp_path_factory.mktemp("bart"))
    shape = read_shape(folder)
    graph, _ = abstract_model(shape, USERS, ITEMS)
    return graph, load_params(folder, shape, init_params(shape, USERS, ITEMS, seed=3))


@pytest.fixture(scope="module")
def sentence() -> EncoderInput:
    """Names of random lengths; slot H + 1 carries no id."""
    rng = np.random.default_rng(0)
    lengths = np.array([12, 9, 5, 2])
    slots = np.sort(rng.integers(0, H + 1, (B, T)), axis=1)
    slots[:, 0] = H + 1
    return EncoderInput(
        tokens=jnp.asarray(rng.integers(3, 60, (B, T))),
        slots=jnp.asarray(slots),
        users=jnp.array([0, 4, 2, -1]),
        items=jnp.array([[0, 6, 3], [1, 1, -1], [5, -1, -1], [-1, -1, -1]]),
        mask=jnp.asarray(np.arange(T) < lengths[:, None]),
    )


@pytest.fixture(scope="module")
def decoder_tokens() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).integers(3, 60, (B, S)))


def torch_logits(bart, params: Params, sentence: EncoderInput, decoder_tokens) -> np.ndarray:
    """The id vectors are added to torch's input embeddings by plain loops over equation 2."""
    embedded = bart.model.shared(torch.tensor(np.asarray(sentence.tokens))).detach().numpy().copy()
    for b in range(B):
        for t in range(T):
            slot = int(sentence.slots[b, t])
            user = int(sentence.users[b])
            item = int(sentence.items[b, slot - 1]) if 0 < slot <= H else -1
            if slot == 0 and user >= 0:
                embedded[b, t] += params["user_embedding"][user]
            if item >= 0:
                embedded[b, t] += params["item_embedding"][item]
    with torch.no_grad():
        return bart(
            inputs_embeds=torch.tensor(embedded),
            attention_mask=torch.tensor(np.asarray(sentence.mask)),
            decoder_input_ids=torch.tensor(np.asarray(decoder_tokens)),
        ).logits.numpy()


def test_logits(bart, ours, sentence, decoder_tokens) -> None:
    graph, params = ours
    found = jax.jit(lambda p: merge(graph, p)(sentence, decoder_tokens))(params)
    expected = torch_logits(bart, params, sentence, decoder_tokens)
    assert np.abs(expected).max() > 5  # the scale of the weights is not trivial
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_decoding_step_by_step_gives_the_same_logits(ours, sentence, decoder_tokens) -> None:
    graph, params = ours
    model: GenRec = merge(graph, params)
    whole = model(sentence, decoder_tokens)
    beams = 3
    cache = model.start_decoding(sentence, beams, S)
    for position in range(S):
        tokens = jnp.repeat(decoder_tokens[:, position : position + 1], beams, axis=1)
        logits, cache = model.decode_step(tokens, jnp.asarray(position), cache)
        for beam in range(beams):
            np.testing.assert_allclose(logits[:, beam], whole[:, position], atol=1e-5)


def test_gradients_flow_to_every_parameter_but_the_constant_bias(
    ours, sentence, decoder_tokens
) -> None:
    graph, params = ours
    grads = jax.grad(lambda p: jnp.sum(merge(graph, p)(sentence, decoder_tokens) ** 2))(params)
    norms = {
        jax.tree_util.keystr(path): float(jnp.linalg.norm(leaf))
        for path, leaf in jax.tree_util.tree_flatten_with_path(grads)[0]
    }
    still = {name for name, norm in norms.items() if norm == 0.0}
    assert still == {"['final_logits_bias']"}


def test_bare_bart_model_has_no_output_bias(bart, sentence, decoder_tokens, tmp_path: Path) -> None:
    """facebook/bart-base is saved so: names without `model.`, no final_logits_bias."""
    folder = save(bart.model, tmp_path)
    shape = read_shape(folder)
    params = load_params(folder, shape, init_params(shape, USERS, ITEMS, seed=3))
    assert not params["final_logits_bias"].any()
    np.testing.assert_array_equal(params["token_embedding"], bart.model.shared.weight.detach())


def test_faults_of_a_checkpoint_are_told_together(bart, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = save(bart, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.encoder.layers.0.fc1.bias"]
    tensors["model.surprise"] = np.zeros(3, np.float32)
    tensors["model.decoder.layers.2.fc2.weight"] = np.zeros((2, 2), np.float32)
    save_file(tensors, folder / "model.safetensors")
    shape = read_shape(folder)
    with pytest.raises(InputError) as error:
        load_params(folder, shape, init_params(shape, USERS, ITEMS, seed=0))
    for part in (
        "3 tensors do not fit",
        "encoder.layers.0.fc1.bias is missing",
        "decoder.layers.2.fc2.weight has shape (2, 2), expected (40, 32)",
        "surprise is unknown",
    ):
        assert part in str(error.value)


def test_the_name_table_covers_bart_base(bart_dir: Path) -> None:
    shape = read_shape(bart_dir)
    assert len(name_table(shape)) == 260  # tensors of a tied bart-base
    _, like = abstract_model(shape, n_users=22_363, n_items=12_101)
    sizes = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in like.items()}
    bart = sum(sizes.values()) - sizes["user_embedding"] - sizes["item_embedding"]
    assert bart == 139_420_416 + shape.vocab_size  # and the constant output bias

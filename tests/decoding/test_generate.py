"""Decoding of GenRec compared with PyTorch: cached logits, `generate`, and exact scores."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracle import save, small_bart

from genrec_jax.decoding.beam_search import Decoder, SearchSpec, beam_search
from genrec_jax.decoding.exhaustive import Blocks, best_items, make_blocks, score_items
from genrec_jax.identifiers.trie import Trie, build_trie
from genrec_jax.models.contract import abstract_model, init_params, merge
from genrec_jax.models.device_trie import put_on_device
from genrec_jax.models.genrec.convert import load_params, read_shape
from genrec_jax.models.genrec.inputs import EncoderInput
from genrec_jax.models.genrec.model import GenRec
from genrec_jax.models.tables import Tables

USERS, ITEMS, B, H, T = 5, 7, 4, 3, 12
PAD, EOS, V = 1, 2, 60
compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
N_IDENTIFIERS = 30


@pytest.fixture(scope="module")
def bart():
    """A BART that ends some of its texts early, some late and some never."""
    bart = small_bart(V)
    bart.final_logits_bias[0, EOS] += 1.0
    return bart


@pytest.fixture(scope="module")
def model(bart, tmp_path_factory) -> GenRec:
    folder = save(bart, tmp_path_factory.mktemp("bart"))
    shape = read_shape(folder)
    params = load_params(folder, shape, init_params(shape, USERS, ITEMS, seed=3))
    graph, _ = abstract_model(shape, USERS, ITEMS)
    return merge(graph, params)


@pytest.fixture(scope="module")
def encoder_input() -> EncoderInput:
    """Input sequences of random lengths and ids; segment H + 1 has no id."""
    rng = np.random.default_rng(0)
    segments = np.sort(rng.integers(0, H + 2, (B, T)), axis=1)
    return EncoderInput(
        tokens=jnp.asarray(rng.integers(3, V, (B, T))),
        segments=jnp.asarray(segments),
        users=jnp.array([0, 4, 2, -1]),
        items=jnp.array([[0, 6, 3], [1, 1, -1], [5, -1, -1], [-1, -1, -1]]),
        mask=jnp.asarray(np.arange(T) < np.array([[12], [9], [5], [2]])),
    )


@pytest.fixture(scope="module")
def torch_inputs(bart, model, encoder_input) -> dict[str, torch.Tensor]:
    """The inputs as embeddings: torch's token embeddings plus our id vectors."""
    tokens = bart.model.shared(torch.tensor(np.asarray(encoder_input.tokens))).detach()
    ids = torch.tensor(np.asarray(model.id_vectors(encoder_input)))
    return {
        "inputs_embeds": tokens + ids,
        "attention_mask": torch.tensor(np.asarray(encoder_input.mask)),
    }


@pytest.fixture(scope="module")
def identifiers() -> list[tuple[int, ...]]:
    """Identifiers with the prefix 7, 9, like `Ġitem`, `_` in BART; one is a prefix of another."""
    rng = np.random.default_rng(4)
    drawn = {(7, 9, *rng.integers(10, 14, rng.integers(1, 5)).tolist()) for _ in range(200)}
    return sorted(drawn)[:N_IDENTIFIERS]


@pytest.fixture(scope="module")
def trie(identifiers) -> Trie:
    lengths = np.array([len(identifier) for identifier in identifiers], np.int32)
    tokens = np.full((len(identifiers), lengths.max()), PAD, np.int32)
    for row, identifier in enumerate(identifiers):
        tokens[row, : len(identifier)] = identifier
    return build_trie(tokens, lengths, EOS)


def torch_log_probs(bart, torch_inputs, identifiers: list[tuple[int, ...]]) -> np.ndarray:
    """Return the log-probability of each identifier with `</s>`, by one decoder pass for each."""
    scores = np.zeros((B, len(identifiers)))
    for column, identifier in enumerate(identifiers):
        decoder_tokens = torch.tensor([[EOS, *identifier]] * B)
        with torch.no_grad():
            logits = bart(**torch_inputs, decoder_input_ids=decoder_tokens).logits
        log_probs = torch.log_softmax(logits.double(), dim=-1)
        labels = torch.tensor([[*identifier, EOS]] * B)
        scores[:, column] = log_probs.gather(2, labels[..., None]).sum((1, 2))
    return scores


def decoder_of(model: GenRec, encoder_input: EncoderInput) -> Decoder:
    writer = model.writer(Tables(), model.encode(Tables(), encoder_input))
    return Decoder(writer.start, writer.extend, writer.reorder, writer.child_log_probs)


def test_cached_decoding_gives_the_logits_of_the_whole_decoder(model, encoder_input) -> None:
    """Hypotheses are reordered at random; each must attend to its own tokens only."""
    rng = np.random.default_rng(1)
    beams, n_more = 3, 4
    prefix = (EOS, 7, 9)
    decoder = decoder_of(model, encoder_input)
    logits, cache = decoder.start(prefix, beams, n_more)
    advance = compiled(decoder.advance)
    generated = np.tile(prefix, (B, beams, 1))
    whole_decoder = compiled(lambda tokens: model(encoder_input, tokens))
    whole = whole_decoder(jnp.asarray(generated[:, 0]))
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    for step in range(n_more):
        parents = rng.integers(0, beams, (B, beams))
        tokens = rng.integers(3, V, (B, beams))
        cache = decoder.reorder(cache, jnp.asarray(parents))
        position = jnp.asarray(len(prefix) + step)
        nodes = jnp.zeros_like(tokens)  # not used by this head
        logits, cache = advance(jnp.asarray(tokens), nodes, position, cache)
        generated = np.take_along_axis(generated, parents[..., None], axis=1)
        generated = np.concatenate([generated, tokens[..., None]], axis=2)
        for beam in range(beams):
            whole = whole_decoder(jnp.asarray(generated[:, beam]))
            np.testing.assert_allclose(logits[:, beam], whole[:, -1], atol=1e-5)


@pytest.mark.parametrize("beams", [1, 4, 20])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_free_search_equals_generate(
    bart, model, encoder_input, torch_inputs, trie, beams: int, penalty: float
) -> None:
    """Tokens and scores agree, for texts that end with `</s>` or at the maximum length."""
    spec = SearchSpec(beams, EOS, PAD, search="free", length_penalty=penalty)
    run = compiled(lambda s: beam_search(decoder_of(model, s), put_on_device(trie), spec))
    found = run(encoder_input)
    with torch.no_grad():
        expected = bart.generate(
            **torch_inputs,
            num_beams=beams,
            num_return_sequences=beams,
            length_penalty=penalty,
            max_length=trie.depth + 1,
            forced_eos_token_id=None,
            return_dict_in_generate=True,
            output_scores=True,
        )
    theirs = expected.sequences.numpy()[:, 1:].reshape(B, beams, -1)
    theirs = np.pad(theirs, ((0, 0), (0, 0), (0, trie.depth - theirs.shape[2])), constant_values=1)
    ended = np.any(theirs == EOS, axis=2)
    if beams == 20:
        assert ended.any()
        assert not ended.all()
    # Free search moves items to the front; no text is an item here.
    assert np.all(np.asarray(found.items) == -1)
    np.testing.assert_array_equal(found.tokens, theirs)
    if beams > 1:  # greedy search in torch has no scores of sequences
        scores = expected.sequences_scores.numpy().reshape(B, beams)
        np.testing.assert_allclose(found.scores, scores, atol=2e-5)


def test_exhaustive_search_equals_one_pass_of_torch_per_identifier(
    bart, model, encoder_input, torch_inputs, identifiers, trie
) -> None:
    expected = torch_log_probs(bart, torch_inputs, identifiers)

    @compiled
    def score(encoder_input: EncoderInput, blocks: Blocks) -> jax.Array:
        writer = model.writer(Tables(), model.encode(Tables(), encoder_input))
        return score_items(writer.block_states, writer.edge_log_probs, blocks)

    for size in (5, 1000):
        blocks = make_blocks(trie, EOS, size)
        scores = score(encoder_input, blocks)
        np.testing.assert_allclose(scores, expected, atol=5e-5)
    items, best = best_items(scores, 20)
    order = np.argsort(-expected, axis=1)[:, :20]
    np.testing.assert_array_equal(items, order)
    np.testing.assert_allclose(best, np.take_along_axis(expected, order, axis=1), atol=5e-5)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_constrained_search_equals_generate_with_a_prefix_function(
    bart, model, encoder_input, torch_inputs, identifiers, trie, penalty: float
) -> None:
    """With as many beams as items. `generate` masks after its softmax, so scores agree too."""
    allowed: dict[tuple[int, ...], list[int]] = {}
    for identifier in identifiers:
        for n, token in enumerate((*identifier, EOS)):
            allowed.setdefault((*identifier, EOS)[:n], []).append(token)

    def continuations(_: int, tokens: torch.Tensor) -> list[int]:
        return sorted(set(allowed.get(tuple(tokens[1:].tolist()), [PAD])))

    spec = SearchSpec(N_IDENTIFIERS, EOS, PAD, length_penalty=penalty)
    run = compiled(lambda s: beam_search(decoder_of(model, s), put_on_device(trie), spec))
    found = run(encoder_input)
    exact = torch_log_probs(bart, torch_inputs, identifiers)
    exact /= np.array([len(identifier) + 1 for identifier in identifiers]) ** penalty
    order = np.argsort(-exact, axis=1)
    np.testing.assert_array_equal(found.items, order)
    np.testing.assert_allclose(found.scores, np.take_along_axis(exact, order, axis=1), atol=5e-5)
    with torch.no_grad():
        theirs = bart.generate(
            **torch_inputs,
            num_beams=N_IDENTIFIERS,
            num_return_sequences=N_IDENTIFIERS,
            length_penalty=penalty,
            early_stopping="never",
            max_length=trie.depth + 1,
            forced_eos_token_id=None,
            prefix_allowed_tokens_fn=continuations,
        )
    rows = theirs.numpy().reshape(B, N_IDENTIFIERS, -1)[:, :, 1:]
    texts = [[tuple(t for t in row.tolist() if t > EOS) for row in user] for user in rows]
    # `generate` may repeat an identifier that has no continuation; its best ten are valid.
    for user in range(B):
        ours = [identifiers[item] for item in np.asarray(found.items[user, :10])]
        assert texts[user][:10] == ours

"""The docstring of genrec/inputs.py, held to BART's own tokenizer, for all three stages.

What it states is read out of it and compared with what is written out here.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.data.batches import Batch
from genrec_jax.data.sequences import from_lists
from genrec_jax.decoding.beam_search import SearchSpec
from genrec_jax.decoding.ranking import find_by_beams, make_ranker
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.indexing import make_indexing
from genrec_jax.identifiers.tokenizer import load_bart_tokenizer
from genrec_jax.models.contract import Objective, abstract_model, init_params, merge
from genrec_jax.models.device_trie import put_on_device as put_trie_on_device
from genrec_jax.models.genrec import inputs
from genrec_jax.models.genrec.inputs import DecoderInput, EncoderInput, decoder_input, encoder_input
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.models.masking import mask_items
from genrec_jax.models.tables import DeviceTable, Tables, put_on_device

ITEM_12, ITEM_56, ITEM_87, ITEM_1234 = range(4)  # rows of the catalogue
WIDTH = 14  # one more than the sentences below take

# What every stage but pretraining shows the encoder, and what training shows the decoder.
NEXT_ITEM = [
    *("<s>", "Ġuser", "_", "22", "Ġitem", "_", "12", "34", "Ġitem", "_", "87"),
    *("<mask>", "</s>", "<pad>"),
]
DECODER = ["</s>", "Ġitem", "_", "56", "<pad>"]
LABELS = ["Ġitem", "_", "56", "</s>", "<pad>"]


@pytest.fixture(scope="module")
def catalogue(bart_dir: Path) -> Catalogue:
    """User 22; the items 12, 56, 87 and 1234, of three and four tokens."""
    sequences = from_lists("spelled out", [22], [[1234, 56, 87, 12]])
    indexing = make_indexing("published", sequences, seed=0)
    return Catalogue.build(sequences, indexing, load_bart_tokenizer(bart_dir))


@pytest.fixture(scope="module")
def table(catalogue: Catalogue) -> DeviceTable:
    return put_on_device(catalogue.table)


def stated(label: str) -> list[str]:
    """The tokens that the docstring gives after a label."""
    lines = [
        line.split(label, 1)[1] for line in (inputs.__doc__ or "").splitlines() if label in line
    ]
    assert len(lines) == 1
    return lines[0].split()


def words(catalogue: Catalogue, tokens: Sequence[int] | jax.Array) -> list[str]:
    ids = np.asarray(tokens).tolist()
    return [catalogue.vocabulary.tokenizer.id_to_token(token) for token in ids]


def training_input(
    table: DeviceTable, objective: Objective, history: list[int], target: int, seed: int = 0
) -> tuple[EncoderInput, DecoderInput]:
    """As inside the training step, for one user."""
    items, targets = mask_items(
        objective,
        jax.random.key(seed),
        jnp.array([history]),
        jnp.array([target]),
        table.mask_row,
    )
    sentence = encoder_input(table, jnp.array([0]), items, WIDTH)
    return sentence, decoder_input(table, targets)


def check_decoder(catalogue: Catalogue, answer: DecoderInput) -> None:
    assert words(catalogue, answer.tokens[0]) == DECODER == stated("decoder, training")
    assert words(catalogue, answer.labels[0]) == LABELS == stated("labels, training")
    assert answer.weights[0].tolist() == [True, True, True, True, False]


def test_pretraining(catalogue: Catalogue, table: DeviceTable) -> None:
    """One of three items is masked: here, by a seed that picks it, the one in the middle."""
    history = [ITEM_1234, ITEM_56, ITEM_87]
    inputs_by_seed = (training_input(table, "random_item", history, -1, seed) for seed in range(99))
    middle = words(catalogue, catalogue.table.tokens[ITEM_56, :3])
    sentence, answer = next(
        pair for pair in inputs_by_seed if words(catalogue, pair[1].labels[0, :3]) == middle
    )
    expected = [
        *("<s>", "Ġuser", "_", "22", "Ġitem", "_", "12", "34", "<mask>", "Ġitem", "_", "87"),
        *("</s>", "<pad>"),
    ]
    assert words(catalogue, sentence.tokens[0]) == expected == stated("encoder, pretraining")
    assert sentence.mask[0].tolist() == [True] * 13 + [False]
    check_decoder(catalogue, answer)


def test_finetuning(catalogue: Catalogue, table: DeviceTable) -> None:
    history = [ITEM_1234, ITEM_87, -1]
    sentence, answer = training_input(table, "next_item", history, ITEM_56)
    assert words(catalogue, sentence.tokens[0]) == NEXT_ITEM == stated("encoder, finetuning")
    assert sentence.mask[0].tolist() == [True] * 13 + [False]
    check_decoder(catalogue, answer)


def test_a_user_left_out_leaves_no_token(catalogue: Catalogue, table: DeviceTable) -> None:
    items = jnp.array([[ITEM_87, table.mask_row]])
    sentence = encoder_input(table, jnp.array([-1]), items, 8)
    expected = ["<s>", "Ġitem", "_", "87", "<mask>", "</s>", "<pad>", "<pad>"]
    assert words(catalogue, sentence.tokens[0]) == expected


def test_decoding(catalogue: Catalogue, table: DeviceTable) -> None:
    """The score of each item that the search finds is that of these tokens, read after those."""
    assert stated("encoder, decoding") == NEXT_ITEM
    seen = ["</s>", "Ġitem", "_", "56"]
    written = ["Ġitem", "_", "56", "</s>"]
    assert stated("decoder, decoding") == seen
    assert stated("written, decoding") == written
    long_seen = ["</s>", "Ġitem", "_", "12", "34"]
    long_written = ["Ġitem", "_", "12", "34", "</s>"]

    shape = GenRecShape(
        vocab_size=50265,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_heads=2,
        decoder_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_positions=32,
        init_std=0.5,
    )
    graph, _ = abstract_model(shape, n_users=1, n_items=4)
    params = init_params(shape, n_users=1, n_items=4, seed=0)
    eos, pad = catalogue.table.eos, catalogue.table.pad
    find = find_by_beams(SearchSpec(beams=4, eos=eos, pad=pad), top_k=4)
    rank = make_ranker(graph, Tables(table), find, put_trie_on_device(catalogue.trie), "next_item")
    batch = Batch(jnp.array([0]), jnp.array([[ITEM_1234, ITEM_87]]), jnp.array([-1]))
    items, scores = rank(params, batch, None, WIDTH)
    found = dict(zip(items[0].tolist(), scores[0].tolist(), strict=True))

    ids = catalogue.vocabulary.tokenizer.token_to_id
    model = merge(graph, params)
    no_name = 3  # slots: 0 the user, 1 and 2 the items, 3 what carries no id
    sentence = EncoderInput(
        tokens=jnp.array([[ids(word) for word in NEXT_ITEM]]),
        slots=jnp.array([[no_name, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, *[no_name] * 3]]),
        users=jnp.array([0]),
        items=jnp.array([[ITEM_1234, ITEM_87]]),
        mask=jnp.array([[True] * 13 + [False]]),
    )
    logits_of = jax.jit(model)
    for item, before, after in (
        (ITEM_56, seen, written),
        (ITEM_1234, long_seen, long_written),
    ):
        padded = before + ["<pad>"] * (len(long_seen) - len(before))  # so that one shape serves
        logits = logits_of(sentence, jnp.array([[ids(word) for word in padded]]))[0]
        chosen = jnp.array([ids(word) for word in after])
        log_probabilities = jax.nn.log_softmax(logits)[jnp.arange(len(after)), chosen]
        np.testing.assert_allclose(found[item], log_probabilities.sum(), rtol=1e-5)

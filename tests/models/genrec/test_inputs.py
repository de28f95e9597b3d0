"""The table in the docstring of genrec/inputs.py, checked with BART's tokenizer for all stages.

The table is parsed and compared with the token sequences in this file and with those of the code.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.data.batches import Batch
from genrec_jax.data.sequences import from_sequences
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
WIDTH = 14  # T, one more than the input sequences below have

# The encoder's input in all stages but pretraining, and the decoder's input in training.
NEXT_ITEM = [
    *("<s>", "Ġuser", "_", "22", "Ġitem", "_", "12", "34", "Ġitem", "_", "87"),
    *("<mask>", "</s>", "<pad>"),
]
DECODER = ["</s>", "Ġitem", "_", "56", "<pad>"]
LABELS = ["Ġitem", "_", "56", "</s>", "<pad>"]


@pytest.fixture(scope="module")
def catalogue(bart_dir: Path) -> Catalogue:
    """User 22 and the items 12, 56, 87 and 1234, which have three or four tokens."""
    sequences = from_sequences("spelled out", [22], [[1234, 56, 87, 12]])
    indexing = make_indexing("published", sequences, seed=0)
    return Catalogue.build(sequences, indexing, load_bart_tokenizer(bart_dir))


@pytest.fixture(scope="module")
def table(catalogue: Catalogue) -> DeviceTable:
    return put_on_device(catalogue.table)


def documented(label: str) -> list[str]:
    """Return the tokens in the docstring's row with a label."""
    lines = [
        line.split(label, 1)[1] for line in (inputs.__doc__ or "").splitlines() if label in line
    ]
    assert len(lines) == 1
    return lines[0].split()


def token_texts(catalogue: Catalogue, tokens: Sequence[int] | jax.Array) -> list[str]:
    ids = np.asarray(tokens).tolist()
    return [catalogue.vocabulary.tokenizer.id_to_token(token) for token in ids]


def training_input(
    table: DeviceTable, objective: Objective, history: list[int], target: int, seed: int = 0
) -> tuple[EncoderInput, DecoderInput]:
    """Build the inputs of one user as the training step does."""
    items, targets = mask_items(
        objective,
        jax.random.key(seed),
        jnp.array([history]),
        jnp.array([target]),
        table.mask_row,
    )
    return encoder_input(table, jnp.array([0]), items, WIDTH), decoder_input(table, targets)


def check_decoder(catalogue: Catalogue, answer: DecoderInput) -> None:
    assert token_texts(catalogue, answer.tokens[0]) == DECODER == documented("decoder, training")
    assert token_texts(catalogue, answer.labels[0]) == LABELS == documented("labels, training")
    assert answer.weights[0].tolist() == [True, True, True, True, False]


def test_pretraining(catalogue: Catalogue, table: DeviceTable) -> None:
    """One of three items is masked. The test searches for a seed that masks the middle one."""
    history = [ITEM_1234, ITEM_56, ITEM_87]
    by_seed = (training_input(table, "random_item", history, -1, seed) for seed in range(99))
    middle = token_texts(catalogue, catalogue.table.tokens[ITEM_56, :3])
    sequence, answer = next(
        pair for pair in by_seed if token_texts(catalogue, pair[1].labels[0, :3]) == middle
    )
    expected = [
        *("<s>", "Ġuser", "_", "22", "Ġitem", "_", "12", "34", "<mask>", "Ġitem", "_", "87"),
        *("</s>", "<pad>"),
    ]
    tokens = token_texts(catalogue, sequence.tokens[0])
    assert tokens == expected == documented("encoder, pretraining")
    assert sequence.mask[0].tolist() == [True] * 13 + [False]
    check_decoder(catalogue, answer)


def test_finetuning(catalogue: Catalogue, table: DeviceTable) -> None:
    history = [ITEM_1234, ITEM_87, -1]
    sequence, answer = training_input(table, "next_item", history, ITEM_56)
    tokens = token_texts(catalogue, sequence.tokens[0])
    assert tokens == NEXT_ITEM == documented("encoder, finetuning")
    assert sequence.mask[0].tolist() == [True] * 13 + [False]
    check_decoder(catalogue, answer)


def test_a_dropped_user_has_no_tokens(catalogue: Catalogue, table: DeviceTable) -> None:
    items = jnp.array([[ITEM_87, table.mask_row]])
    sequence = encoder_input(table, jnp.array([-1]), items, 8)
    expected = ["<s>", "Ġitem", "_", "87", "<mask>", "</s>", "<pad>", "<pad>"]
    assert token_texts(catalogue, sequence.tokens[0]) == expected


def test_decoding(catalogue: Catalogue, table: DeviceTable) -> None:
    """The score of each found item is the sum of the documented tokens' log-probabilities."""
    assert documented("encoder, decoding") == NEXT_ITEM
    read = ["</s>", "Ġitem", "_", "56"]
    generated = ["Ġitem", "_", "56", "</s>"]
    assert documented("decoder, decoding") == read
    assert documented("generated, decoding") == generated
    long_read = ["</s>", "Ġitem", "_", "12", "34"]
    long_generated = ["Ġitem", "_", "12", "34", "</s>"]

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

    token_id = catalogue.vocabulary.tokenizer.token_to_id
    model = merge(graph, params)
    no_id = 3  # segments: 0 for the user, 1 and 2 for the items, 3 for tokens without an id
    sequence = EncoderInput(
        tokens=jnp.array([[token_id(token) for token in NEXT_ITEM]]),
        segments=jnp.array([[no_id, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, *[no_id] * 3]]),
        users=jnp.array([0]),
        items=jnp.array([[ITEM_1234, ITEM_87]]),
        mask=jnp.array([[True] * 13 + [False]]),
    )
    logits_of = jax.jit(model)
    for item, inputs_read, labels in (
        (ITEM_56, read, generated),
        (ITEM_1234, long_read, long_generated),
    ):
        # Padded, so that only one shape is compiled.
        padded = inputs_read + ["<pad>"] * (len(long_read) - len(inputs_read))
        logits = logits_of(sequence, jnp.array([[token_id(token) for token in padded]]))[0]
        chosen = jnp.array([token_id(token) for token in labels])
        log_probabilities = jax.nn.log_softmax(logits)[jnp.arange(len(labels)), chosen]
        np.testing.assert_allclose(found[item], log_probabilities.sum(), rtol=1e-5)

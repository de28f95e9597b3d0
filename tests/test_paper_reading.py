"""The data, the sentences and the measures, held to an independent reading of the paper."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import paper_reading as paper
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genrec_jax.core.errors import InputError
from genrec_jax.data.batches import BatchPlan, choose_widths, cut_histories
from genrec_jax.data.sequences import (
    Examples,
    from_sequences,
    next_item_examples,
    prefix_examples,
    pretraining_examples,
    read_sequence_file,
    whole_histories,
)
from genrec_jax.evaluation.metrics import HIT_CUTOFFS, NDCG_CUTOFFS, metrics
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.indexing import make_indexing
from genrec_jax.identifiers.input_lengths import plan_batches, token_lengths
from genrec_jax.identifiers.tokenizer import train_tokenizer
from genrec_jax.identifiers.trie import build_trie
from genrec_jax.models.genrec.inputs import decoder_input, encoder_input
from genrec_jax.models.heuristics.baselines import popularity_rankings
from genrec_jax.models.masking import append_mask, mask_items, mask_random_item
from genrec_jax.models.tables import put_on_device

relaxed = settings(max_examples=50, deadline=None)

# One shape for everything that is compiled: hypothesis fills it as it likes.
B, H, T = 6, 8, 80
LONGEST = 24  # items of a history before it is cut

# Published ids with gaps and of many lengths, so that a row is never mistaken for an id.
USER_IDS = [7, 12, 130, 5, 41, 12345, 99, 2, 1001, 58]
ITEM_IDS = sorted({*range(3, 90, 7), *range(100, 2000, 123), 12, 123, 1234, 31415, 20001})
N_USERS, N_ITEMS = len(USER_IDS), len(ITEM_IDS)


# ------------------------------------------------------------------ a small catalogue


@cache
def small_catalogue(kind="random"):
    """Names of 2 to 9 tokens by a trained tokenizer too small to hold every name whole."""
    chunks = [[*ITEM_IDS[u::N_USERS], 3, 12, 123] for u in range(N_USERS)]
    sequences = from_sequences("small", USER_IDS, chunks)
    indexing = make_indexing(kind, sequences, seed=3)
    names = indexing.item_identifiers() + indexing.user_identifiers()
    return Catalogue.build(sequences, indexing, train_tokenizer(names, 40))


def special_tokens(catalogue):
    tokenizer = catalogue.vocabulary.tokenizer
    return {token: tokenizer.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<mask>")}


def names_of(catalogue):
    """(user names, item names) as tokens by row: what Tok of the paper gives for ` user_22`."""
    encode = catalogue.vocabulary.tokenizer.encode
    numbers = catalogue.indexing
    return tuple(
        [encode(f" {kind}_{int(n)}", add_special_tokens=False).ids for n in rows]
        for kind, rows in (("user", numbers.user_numbers), ("item", numbers.item_numbers))
    )


def expected_sentence(catalogue, user, items, width=T):
    user_names, item_names = names_of(catalogue)
    special = special_tokens(catalogue)
    sentence = paper.encoder_sentence(user, items, user_names, item_names, special)
    return paper.padded(sentence, width, special)


@cache
def compiled_encoder(kind="random"):
    table = put_on_device(small_catalogue(kind).table)
    return jax.jit(lambda users, items: encoder_input(table, users, items, T))


@cache
def compiled_random_mask():
    return jax.jit(lambda key, histories: mask_random_item(key, histories, N_ITEMS))


def as_array(histories, width=H):
    return jnp.array([row + [-1] * (width - len(row)) for row in histories], dtype=jnp.int32)


def as_lists(array, mask_row=N_ITEMS):
    """Rows of a device array as the oracle's lists; the padding must come after everything."""
    rows = []
    for row in np.asarray(array).tolist():
        kept = [paper.MASK if item == mask_row else item for item in row if item >= 0]
        assert row[len(kept) :] == [-1] * (len(row) - len(kept))
        rows.append(kept)
    return rows


def read_sentences(encoded):
    """EncoderInput → the oracle's (token, user id, item id), by the meaning of the slots."""
    tokens, slots, users, items, *_ = (np.asarray(part).tolist() for part in encoded)
    n_slots = len(items[0])
    sentences = []
    for row in range(len(tokens)):
        user_of = {0: users[row]}
        item_of = {1 + place: item for place, item in enumerate(items[row])}
        assert all(0 <= slot <= n_slots + 1 for slot in slots[row])
        sentences.append(
            [
                (token, none_if_negative(user_of.get(slot)), none_if_negative(item_of.get(slot)))
                for token, slot in zip(tokens[row], slots[row], strict=True)
            ]
        )
    return sentences


def none_if_negative(value):
    return None if value is None or value < 0 else value


def ragged_examples(histories, users=None, targets=None):
    """Examples over one flat array, as every split makes them."""
    stops = np.cumsum([len(items) for items in histories])
    n = len(histories)
    return Examples(
        items=np.array([item for items in histories for item in items], dtype=np.int32),
        users=np.arange(n) if users is None else np.array(users),
        starts=np.concatenate([[0], stops[:-1]]),
        stops=stops,
        targets=np.arange(n) if targets is None else np.array(targets),
    )


item_rows = st.integers(0, N_ITEMS - 1)
short_histories = st.lists(st.lists(item_rows, max_size=H), min_size=B, max_size=B)
user_rows = st.lists(st.integers(-1, N_USERS - 1), min_size=B, max_size=B)
published = st.lists(st.lists(st.integers(1, 60), min_size=3, max_size=9), min_size=1, max_size=8)


@st.composite
def filled_batches(draw):
    """(users, histories) of a batch; the rows with user -1 have no history, as in `pad`."""
    users = draw(user_rows)
    histories = draw(short_histories)
    return users, [items if user >= 0 else [] for user, items in zip(users, histories, strict=True)]


# ------------------------------------------------------------------ splits (section 6, Figure 2)


def with_published_ids(sequences, examples):
    """Each row as (user id, history of item ids, target item id or None)."""
    ids = sequences.item_ids
    return [
        (
            int(sequences.user_ids[examples.users[row]]),
            ids[examples.history(row)].tolist(),
            int(ids[examples.targets[row]]) if examples.targets[row] >= 0 else None,
        )
        for row in range(len(examples))
    ]


@relaxed
@given(published, st.integers(0, 1000))
def test_splits(lists, first_user):
    users = [first_user + 3 * i for i in range(len(lists))][::-1]
    sequences = from_sequences("drawn", users, lists)
    assert sequences.item_ids.tolist() == sorted({item for items in lists for item in items})
    assert [sequences.item_ids[sequences.of(u)].tolist() for u in range(len(lists))] == lists

    pairs = list(zip(users, lists, strict=True))
    found = with_published_ids(sequences, pretraining_examples(sequences))
    assert found == [(user, paper.pretraining_items(items), None) for user, items in pairs]
    for hidden in (0, 1, 2):
        found = with_published_ids(sequences, next_item_examples(sequences, hidden))
        assert found == [(user, *paper.next_item(items, hidden)) for user, items in pairs]
        found = with_published_ids(sequences, prefix_examples(sequences, hidden))
        expected = [
            (user, *paper.next_item(items, more))
            for user, items in pairs
            for more in range(len(items) - 2, hidden - 1, -1)  # one item more to read each time
        ]
        assert found == expected
    found = with_published_ids(sequences, whole_histories(sequences))
    assert found == [(user, items, None) for user, items in pairs]


@relaxed
@given(published)
def test_the_held_out_items_are_never_trained_on(lists):
    """By position, since an item may be repeated: the flat places n-1 and n-2 are never read."""
    sequences = from_sequences("drawn", list(range(1, len(lists) + 1)), lists)
    pretraining = pretraining_examples(sequences)
    last = sequences.offsets[1:]
    assert (pretraining.stops <= last - 2).all()
    for finetuning in (next_item_examples(sequences, 2), prefix_examples(sequences, 2)):
        # The target is at `stops`.
        assert (finetuning.stops + 1 <= last[finetuning.users] - 2).all()


@relaxed
@given(lists=published)
def test_sequence_files(tmp_path_factory, lists):
    path = tmp_path_factory.mktemp("file") / "drawn.txt"
    lines = [[10 + u, *items] for u, items in enumerate(lists)]
    path.write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    read = read_sequence_file(path, "drawn")
    made = from_sequences("drawn", [line[0] for line in lines], lists)
    for field in ("items", "offsets", "user_ids", "item_ids"):
        np.testing.assert_array_equal(getattr(read, field), getattr(made, field))


@pytest.mark.parametrize("text", ["1 2 3\n", "1 2 3 4\n1 5 6 7\n", "1 2 x 4\n", "1 0 3 4\n", ""])
def test_sequence_files_that_leave_no_split(tmp_path, text):
    path = tmp_path / "wrong.txt"
    path.write_text(text)
    with pytest.raises(InputError):
        read_sequence_file(path, "wrong")


# ------------------------------------------------------------------ masking (sections 4.2, 4.3)


@relaxed
@given(short_histories, st.integers(0, 2**31 - 1))
def test_one_random_item_is_masked(histories, seed):
    masked, targets = compiled_random_mask()(jax.random.key(seed), as_array(histories))
    rows = zip(histories, as_lists(masked), targets.tolist(), strict=True)
    for history, found, target in rows:
        if not history:
            assert (found, target) == ([], -1)
            continue
        assert found.count(paper.MASK) == 1
        assert (found, target) == paper.mask_one(history, found.index(paper.MASK))


def test_every_place_is_masked_equally_often():
    """Seeded. A share further than 5 standard deviations off has a chance below 1e-6 a place."""
    draws, lengths = 4000, np.arange(1, H + 1)
    histories = as_array([list(range(n)) for n in lengths])
    keys = jax.random.split(jax.random.key(0), draws)
    targets = jax.jit(
        jax.vmap(lambda key: mask_random_item(key, histories, N_ITEMS)[1]),
    )(keys)
    for row, n in enumerate(lengths.tolist()):
        counts = np.bincount(np.asarray(targets)[:, row], minlength=n)
        assert counts.shape == (n,)
        assert (np.abs(counts - draws / n) <= 5 * np.sqrt(draws * (n - 1)) / n).all()


@relaxed
@given(short_histories, st.integers(0, 2**31 - 1))
def test_the_next_item_is_asked_for_at_the_end(histories, seed):
    expected = [paper.mask_at_end(items) for items in histories]
    assert as_lists(append_mask(as_array(histories), N_ITEMS)) == expected
    targets = jnp.arange(B)
    key = jax.random.key(seed)
    masked, answers = mask_items("next_item", key, as_array(histories), targets, N_ITEMS)
    assert as_lists(masked) == expected
    assert answers.tolist() == targets.tolist()


@relaxed
@given(short_histories, st.integers(0, 2**31 - 1))
def test_pretraining_masks_at_random_whatever_the_targets(histories, seed):
    key = jax.random.key(seed)
    found = mask_items("random_item", key, as_array(histories), jnp.full(B, -1), N_ITEMS)
    expected = mask_random_item(key, as_array(histories), N_ITEMS)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# ------------------------------------------------------------------ names and their tokens


@pytest.mark.parametrize("kind", ["published", "random"])
def test_names_are_words_with_a_leading_space(kind):
    catalogue = small_catalogue(kind)
    tokenizer, table = catalogue.vocabulary.tokenizer, catalogue.table
    numbers = catalogue.indexing
    items = [f"item_{n}" for n in numbers.item_numbers]
    users = [f"user_{n}" for n in numbers.user_numbers]
    texts = []
    for tokens, length in zip(table.tokens.tolist(), table.lengths.tolist(), strict=True):
        assert tokens[length:] == [table.pad] * (len(tokens) - length)
        texts.append("".join(tokenizer.id_to_token(token) for token in tokens[:length]))
    assert texts == ["Ġ" + item for item in items] + ["<mask>"] + ["Ġ" + user for user in users]
    assert len(set(table.lengths.tolist())) > 3  # or the tests below would prove little
    assert sorted(numbers.item_numbers) == ITEM_IDS
    assert sorted(numbers.user_numbers) == sorted(USER_IDS)
    assert (numbers.item_numbers.tolist() == ITEM_IDS) == (kind == "published")
    assert (numbers.user_numbers.tolist() == USER_IDS) == (kind == "published")


@relaxed
@given(st.integers(0, N_USERS - 1), st.lists(item_rows, max_size=H))
def test_a_sentence_is_tokenized_as_its_names_are(user, items):
    """Equation 1 joins Tok(u), Tok(t_1) …: the same as Tok of the whole line."""
    catalogue = small_catalogue()
    numbers = catalogue.indexing
    words = [f"user_{numbers.user_numbers[user]}"]
    words += [f"item_{numbers.item_numbers[item]}" for item in items]
    line = catalogue.vocabulary.tokenizer.encode(" ".join(words), add_special_tokens=False)
    sentence = expected_sentence(catalogue, user, items)
    assert [token for token, _, _ in sentence[1 : 1 + len(line.ids)]] == line.ids


# ------------------------------------------------------------------ the encoder (equations 1, 2)


def check_encoder(users, items, rows):
    """`items` [B, H] on the device must read as the oracle's sentences of `rows`."""
    catalogue = small_catalogue()
    encoded = compiled_encoder()(np.array(users, dtype=np.int32), items)
    expected = [
        expected_sentence(catalogue, none_if_negative(user), row)
        for user, row in zip(users, rows, strict=True)
    ]
    assert read_sentences(encoded) == expected
    pad = special_tokens(catalogue)["<pad>"]
    assert encoded.mask.tolist() == [[token != pad for token, _, _ in row] for row in expected]


@relaxed
@given(filled_batches(), st.integers(0, 2**31 - 1))
def test_encoder_input_of_pretraining(batch, seed):
    users, histories = batch
    masked, targets = compiled_random_mask()(jax.random.key(seed), as_array(histories))
    rows = [
        paper.mask_one(items, found.index(paper.MASK))[0] if items else []
        for items, found in zip(histories, as_lists(masked), strict=True)
    ]
    check_encoder(users, masked, rows)
    assert [target < 0 for target in targets.tolist()] == [not items for items in histories]


@relaxed
@given(filled_batches())
def test_encoder_input_of_the_next_item(batch):
    users, histories = batch
    masked = append_mask(as_array(histories), N_ITEMS)
    check_encoder(users, masked, [paper.mask_at_end(items) for items in histories])


def test_encoder_input_where_nothing_is_known():
    users = [-1, 0, 1, 2, -1, N_USERS - 1]
    check_encoder(users, as_array([[]] * B), [[]] * B)


def test_encoder_input_without_room_to_spare():
    """T exactly as long as the longest sentence: its `</s>` is the last token."""
    catalogue = small_catalogue()
    user, items = 0, [3, 3, 5, 0]
    user_names, item_names = names_of(catalogue)
    n = 2 + len(user_names[user]) + sum(len(item_names[item]) for item in items)
    encoded = encoder_input(
        put_on_device(catalogue.table), jnp.array([user]), jnp.array([items]), n
    )
    expected = expected_sentence(catalogue, user, items, n)
    assert read_sentences(encoded) == [expected]
    assert expected[-1][0] == special_tokens(catalogue)["</s>"]
    assert encoded.mask.all()


# ------------------------------------------------------------------ the decoder (section 4.1)


@pytest.mark.parametrize("kind", ["published", "random"])
def test_decoder_input_of_every_item(kind):
    catalogue = small_catalogue(kind)
    special = special_tokens(catalogue)
    _, item_names = names_of(catalogue)
    found = decoder_input(put_on_device(catalogue.table), jnp.array([*range(N_ITEMS), -1]))
    width = max(len(name) for name in item_names) + 1
    for item in range(N_ITEMS):
        tokens, labels = paper.decoder_sentence(item, item_names, special)
        pads = [special["<pad>"]] * (width - len(labels))
        assert found.tokens[item].tolist() == tokens + pads
        assert found.labels[item].tolist() == labels + pads
        assert found.weights[item].tolist() == [True] * len(labels) + [False] * len(pads)
        assert special["<s>"] not in tokens + labels
    assert not found.weights[N_ITEMS].any()
    assert found.tokens.shape == found.labels.shape == found.weights.shape == (N_ITEMS + 1, width)


# ------------------------------------------------------------------ cutting (section 7.1)


@st.composite
def histories_to_cut(draw):
    histories = draw(st.lists(st.lists(item_rows, max_size=LONGEST), min_size=1, max_size=B))
    users = [draw(st.integers(0, N_USERS - 1)) for _ in histories]
    return users, histories


@relaxed
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=1, max_size=6),
    st.lists(st.integers(1, 7), min_size=5, max_size=5),
    st.lists(st.integers(0, 30), min_size=6, max_size=6),
)
def test_cut_histories(histories, n_tokens, rooms):
    """Fitted one by one; a sentence around it of `<s>`, a user of no tokens, mask and `</s>`."""
    names = [[0] * n for n in n_tokens]
    expected = [
        paper.newest_that_fit(0, items, [[]], names, room + 3)
        for items, room in zip(histories, rooms, strict=False)
    ]
    examples = ragged_examples(histories)
    kept, report = cut_histories(examples, np.array(n_tokens), np.array(rooms[: len(histories)]))
    assert [kept.history(row).tolist() for row in range(len(kept))] == expected
    dropped = [len(a) - len(b) for a, b in zip(histories, expected, strict=True)]
    assert (report.items, report.histories) == (sum(dropped), sum(n > 0 for n in dropped))
    assert kept.users.tolist() == examples.users.tolist()
    assert kept.targets.tolist() == examples.targets.tolist()


@relaxed
@given(histories_to_cut(), st.integers(16, T - 8), st.integers(1, 3))
def test_the_tokens_that_arrive_are_the_newest_that_fit(drawn, limit, buckets):
    """From ragged examples to the encoder's tokens, the mask appended as in finetuning."""
    users, histories = drawn
    catalogue = small_catalogue()
    plan = plan_batches(
        ragged_examples(histories, users), token_lengths(catalogue.table, limit), B, buckets, "cut"
    )
    [(bucket, rows)] = plan.in_order()
    batch = plan.pad(bucket, rows)
    # The width of the compiled shape, not of the bucket: else every example would compile anew.
    wide = np.pad(batch.histories, ((0, 0), (0, LONGEST - bucket.n_items)), constant_values=-1)
    encoded = compiled_encoder()(batch.users, append_mask(jnp.asarray(wide), N_ITEMS))

    user_names, item_names = names_of(catalogue)
    fitting = [
        paper.newest_that_fit(users[row], histories[row], user_names, item_names, limit)
        for row in rows
    ]
    expected = [
        expected_sentence(catalogue, users[row], paper.mask_at_end(items))
        for row, items in zip(rows, fitting, strict=True)
    ]
    assert read_sentences(encoded)[: len(rows)] == expected
    n_seen = np.asarray(encoded.mask).sum(axis=1)[: len(rows)]
    assert n_seen.max() <= min(limit, bucket.n_tokens)
    np.testing.assert_array_equal(plan.n_tokens[rows], n_seen)


@relaxed
@given(histories_to_cut(), st.integers(16, T - 8))
def test_cutting_goes_no_further_than_it_must(drawn, limit):
    """Of what was cut, the newest item would not have fitted any more."""
    users, histories = drawn
    user_names, item_names = names_of(small_catalogue())
    examples = ragged_examples(histories, users)
    kept = plan_batches(
        examples, token_lengths(small_catalogue().table, limit), 4, 2, "cut"
    ).examples
    for row, (user, items) in enumerate(zip(users, histories, strict=True)):
        left = kept.history(row).tolist()
        assert items[len(items) - len(left) :] == left
        if len(left) < len(items):
            longer = items[len(items) - len(left) - 1 :]
            n = 3 + len(user_names[user]) + sum(len(item_names[item]) for item in longer)
            assert n > limit


# ------------------------------------------------------------------ batches


@st.composite
def histories_to_plan(draw):
    """(histories, batch size, buckets at most); item i costs 1 + i tokens."""
    one = st.lists(st.integers(0, 9), max_size=7)
    histories = draw(st.lists(one, min_size=1, max_size=30))
    return histories, draw(st.integers(1, 7)), draw(st.integers(1, 4))


def make_plan(histories, batch_size, buckets):
    """Outside the strategy: the type checks draw random numbers, which strategies may not."""
    n_tokens = np.array([4 + sum(1 + item for item in items) for items in histories])
    examples = ragged_examples(histories, targets=[100 + i for i in range(len(histories))])
    return BatchPlan(examples, n_tokens, batch_size, buckets)


def check_batch(histories, plan, bucket, rows):
    """One padded batch: its shape, its rows, and what only fills it up."""
    batch = plan.pad(bucket, rows)
    n = len(rows)
    assert batch.histories.shape == (plan.batch_size, bucket.n_items)
    assert batch.users.tolist() == [*rows, *[-1] * (plan.batch_size - n)]
    assert batch.targets[:n].tolist() == [100 + row for row in rows]
    assert (batch.targets[n:] == -1).all()
    assert as_lists(batch.histories)[:n] == [histories[row] for row in rows]
    assert (batch.histories[n:] == -1).all()
    assert (plan.n_tokens[rows] <= bucket.n_tokens).all()


@relaxed
@given(histories_to_plan(), st.integers(0, 100))
# Many cheap items beside few dear ones: the longer history moves up to the bucket of the shorter.
@example(([[0] * 7, [9, 9]], 2, 2), 0)
# Widths of 16 and 24 for 16 and 17 tokens: an edge belongs to the smaller bucket, no more does.
@example(([[9, 1], [9, 2], [9, 1], [9, 2]], 2, 2), 0)
def test_every_example_once_an_epoch(drawn, seed):
    histories, _, buckets = drawn
    plan = make_plan(*drawn)
    for batches in (plan.epoch(seed, 0), plan.epoch(seed, 1), plan.in_order()):
        assert sorted(row for _, rows in batches for row in rows) == list(range(len(histories)))
        assert len(batches) == plan.steps_per_epoch == -(-len(histories) // plan.batch_size)
        assert sum(len(rows) < plan.batch_size for _, rows in batches) <= 1
        assert len({bucket for bucket, _ in batches}) <= len(plan.buckets) <= buckets
        for bucket, rows in batches:
            assert bucket in plan.buckets
            check_batch(histories, plan, bucket, rows)
    sizes = [bucket.n_tokens for bucket, _ in plan.in_order()]
    assert sizes == sorted(sizes)
    padded = sum(size * plan.batch_size for size in sizes)
    assert plan.padding_share == pytest.approx(1 - plan.n_tokens.sum() / padded)


def test_a_batch_of_users_of_whom_nothing_is_known():
    """Not one item in the flat array, as when recommending for new users alone."""
    histories = [[], []]
    plan = make_plan(histories, 3, 2)
    [(bucket, rows)] = plan.in_order()
    check_batch(histories, plan, bucket, rows)


def same(one, other):
    return one[0] == other[0] and all(map(np.array_equal, one[1], other[1]))


@relaxed
@given(histories_to_plan(), st.integers(0, 100), st.data())
def test_a_resumed_run_sees_the_same_batches(drawn, seed, data):
    plan = make_plan(*drawn)
    total = 3 * plan.steps_per_epoch
    stop = data.draw(st.integers(0, total))
    start = data.draw(st.integers(0, stop))
    whole = list(plan.training_batches(seed, 0, total))
    part = list(plan.training_batches(seed, start, stop))
    assert len(whole) == total
    assert len(part) == stop - start
    assert all(map(same, part, whole[start:stop]))
    # and whole epochs, one after the other, as `epoch` deals them
    for step, (bucket, batch) in enumerate(whole):
        dealt = plan.epoch(seed, step // plan.steps_per_epoch)[step % plan.steps_per_epoch]
        assert same((bucket, batch), (dealt[0], plan.pad(*dealt)))


def test_epochs_and_seeds_are_shuffled_differently():
    histories = [[0]] * 64
    plan = BatchPlan(ragged_examples(histories), np.full(64, 5), 8, 2)
    orders = [
        tuple(row for _, rows in plan.epoch(seed, epoch) for row in rows.tolist())
        for seed, epoch in itertools.product(range(3), repeat=2)
    ]
    assert len(set(orders)) == len(orders)
    assert tuple(range(64)) not in orders


def padded_tokens(lengths, widths):
    return sum(min(width for width in widths if width >= length) for length in lengths)


@relaxed
@given(st.lists(st.integers(1, 56), min_size=1, max_size=12), st.integers(1, 4))
def test_widths_waste_least(lengths, buckets):
    widths = choose_widths(np.array(lengths), buckets)
    longest = -(-max(lengths) // 8) * 8
    assert widths == sorted(set(widths))
    assert len(widths) <= buckets
    assert all(width % 8 == 0 for width in widths)
    assert widths[-1] == longest
    smaller = range(8, longest, 8)
    choices = itertools.chain.from_iterable(
        itertools.combinations(smaller, n) for n in range(buckets)
    )
    best = min(padded_tokens(lengths, [*choice, longest]) for choice in choices)
    assert padded_tokens(lengths, widths) == best


# ------------------------------------------------------------------ measures (section 7.2)


@relaxed
@given(st.data(), st.sampled_from([5, 10, 20, 23]))
def test_metrics(data, longest):
    """Few items, so that lists repeat them; -1 is a place that the search left empty."""
    ranked = st.lists(st.integers(-1, 12), min_size=longest, max_size=longest)
    lists = data.draw(st.lists(ranked, min_size=1, max_size=6))
    targets = [data.draw(st.integers(0, 12)) for _ in lists]
    expected = {f"HR@{k}": paper.hit_ratio(lists, targets, k) for k in HIT_CUTOFFS if k <= longest}
    expected |= {f"NDCG@{k}": paper.ndcg(lists, targets, k) for k in NDCG_CUTOFFS if k <= longest}
    found = metrics(np.array(lists), np.array(targets))
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_measures_of_the_paper_are_there():
    found = metrics(np.arange(20)[None], np.array([9]))
    assert {"HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"} <= found.keys()
    assert (found["HR@5"], found["HR@10"], found["NDCG@5"]) == (0, 1, 0)
    assert found["NDCG@10"] == pytest.approx(1 / np.log2(11))


@relaxed
@given(published, st.integers(1, 30))
def test_popularity_lists(lists, top_k):
    sequences = from_sequences("drawn", list(range(len(lists))), lists)
    counts = paper.popularity_counts(paper.pretraining_items(items) for items in lists)
    ids = sequences.item_ids.tolist()
    expected = sorted(range(len(ids)), key=lambda row: (-counts.get(ids[row], 0), row))[:top_k]
    found = popularity_rankings(sequences, next_item_examples(sequences, 0), top_k)
    filled = expected + [-1] * (top_k - len(expected))  # a catalogue smaller than the list
    assert found.tolist() == [filled] * len(lists)


# ------------------------------------------------------------------ the trie


def walk(trie, eos, node=0):
    """Our flat arrays as the oracle's dict of dicts, and the number of nodes walked."""
    found, n_nodes = {}, 1
    first, n = int(trie.first_child[node]), int(trie.n_children[node])
    tokens = trie.tokens[first : first + n].tolist()
    assert tokens == sorted(set(tokens))
    for child, token in enumerate(tokens, start=first):
        below, n_below = walk(trie, eos, child)
        n_nodes += n_below
        item = int(trie.items[child])
        if token == eos:
            assert not below
            found[None] = item
        else:
            assert item == -1
            found[token] = below
    return found, n_nodes


def widest(node):
    return max(len(node), *(widest(below) for below in node.values() if isinstance(below, dict)), 0)


def check_trie(trie, spellings, eos):
    expected = paper.nested_trie(spellings)
    found, n_nodes = walk(trie, eos)
    assert found == expected
    assert n_nodes == len(trie.tokens)  # no node that the root does not lead to
    assert sorted(item for item in trie.items.tolist() if item >= 0) == list(range(len(spellings)))
    assert trie.depth == max(map(len, spellings)) + 1
    assert max(trie.widths) == widest(expected)


@relaxed
@given(
    st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=4), min_size=1, unique_by=tuple),
    st.integers(0, 2),
)
def test_the_trie_spells_the_items_and_nothing_else(spellings, spare):
    pad, eos = 1, 2
    width = max(map(len, spellings)) + spare  # the table may be wider than the longest name
    table = np.array([tokens + [pad] * (width - len(tokens)) for tokens in spellings])
    trie = build_trie(table, np.array([len(tokens) for tokens in spellings]), eos)
    check_trie(trie, spellings, eos)


@pytest.mark.parametrize("kind", ["published", "random"])
def test_the_trie_of_the_catalogue(kind):
    catalogue = small_catalogue(kind)
    _, item_names = names_of(catalogue)
    check_trie(catalogue.trie, item_names, special_tokens(catalogue)["</s>"])

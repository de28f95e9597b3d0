"""The GenRec paper, read into plain Python: the oracle that the tests hold the fast code to.

Written from the paper and from the conventions that go beyond it, not from the code. Lists and
dicts only. A sentence is a list of (token, user id, item id); ids are None where the paper gives
the token none.
"""

import math

MASK = "the one [MASK] token"


# Section 6 and Figure 2: which items of a sequence each stage may see.


def pretraining_items(sequence):
    """Figure 2: "the last two items in the sequence are excluded in pretraining"."""
    return list(sequence[: max(len(sequence) - 2, 0)])


def next_item(sequence, hidden):
    """Sections 4.3 and 6: (history, target), the target being the last item not hidden.

    hidden is 0 at test, 1 at validation and where finetuning excludes "the last one item"
    (Figure 2), 2 where finetuning must see neither the test nor the validation item. None where
    nothing is left to predict.
    """
    left = list(sequence[: max(len(sequence) - hidden, 0)])
    return (left[:-1], left[-1]) if left else None


# Sections 4.2 and 4.3: the mask.


def mask_one(items, place):
    """Section 4.2: one item gives its place to the mask; returns (masked sequence, answer)."""
    return [*items[:place], MASK, *items[place + 1 :]], items[place]


def mask_at_end(items):
    """Section 4.3: "appending the [MASK] token to the end", every item stays."""
    return [*items, MASK]


# Section 4.1: the encoder's sentence and the decoder's.


def encoder_sentence(user, items, user_names, item_names, special):
    """Equation 1 without its pads: [BEG], Tok(u), Tok(t_1) ... Tok(t_n), [END].

    "Only user tokens have user ID embeddings and only item tokens have item ID embeddings"; all
    the tokens of one name share its id. The user is None in a row that only fills a batch.
    """
    sentence = [(special["<s>"], None, None)]
    if user is not None:
        sentence += [(token, user, None) for token in user_names[user]]
    for item in items:
        if item == MASK:
            sentence.append((special["<mask>"], None, None))
        else:
            sentence += [(token, None, item) for token in item_names[item]]
    return [*sentence, (special["</s>"], None, None)]


def padded(sentence, width, special):
    """Equation 1: "Extra [PAD] tokens are appended to the end"."""
    return sentence + [(special["<pad>"], None, None)] * (width - len(sentence))


def decoder_sentence(item, item_names, special):
    """Section 4.1: (input, labels). The labels spell the item and end; the input starts with
    `</s>` and lags by one, so that each label is predicted from the labels before it.
    """
    labels = [*item_names[item], special["</s>"]]
    return [special["</s>"], *labels[:-1]], labels


def newest_that_fit(user, items, user_names, item_names, limit):
    """Section 7.1 ("maximum length of the input tokens"): whole items go, oldest first.

    Room for one mask, for [BEG] and for [END] is kept in every stage, so that a history is cut
    alike in pretraining and in finetuning.
    """
    kept = list(items)
    room = limit - 3 - len(user_names[user])
    while kept and sum(len(item_names[item]) for item in kept) > room:
        kept = kept[1:]
    return kept


# Section 7.2: the measures, over all items.


def first_place(ranked, target):
    """The place of the target, 1 for the top; None if it is absent. A repeat never counts."""
    for place, item in enumerate(ranked, start=1):
        if item == target:
            return place
    return None


def hit_ratio(lists, targets, k):
    """Section 7.2, HR@k: the share of users whose next item is among the top k."""
    places = [
        first_place(ranked[:k], target) for ranked, target in zip(lists, targets, strict=True)
    ]
    return sum(place is not None for place in places) / len(targets)


def ndcg(lists, targets, k):
    """Section 7.2, NDCG@k with one relevant item: its ideal gain is 1, its gain 1/log2(place+1)."""
    places = [
        first_place(ranked[:k], target) for ranked, target in zip(lists, targets, strict=True)
    ]
    return sum(1 / math.log2(place + 1) for place in places if place) / len(targets)


# The reference line "popularity", and the set of names that decoding may write.


def popularity_counts(histories):
    """How often each item occurs in the histories."""
    counts = {}
    for items in histories:
        for item in items:
            counts[item] = counts.get(item, 0) + 1
    return counts


def nested_trie(spellings):
    """A dict of dicts: each name's tokens lead from the root to a leaf {None: item}."""
    root = {}
    for item, tokens in enumerate(spellings):
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
        node[None] = item
    return root

"""The model card (README.md) of an exported folder: its contents, and an example in PyTorch."""

from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.genrec.id_tables import FILE, LOG, NUMBERS, id_texts
from genrec_jax.models.genrec.model import GenRecShape

TEMPLATE = """\
---
library_name: transformers
tags: [bart, genrec, recommendation]
---

# GenRec: {run}

A sequential recommendation model: given the items in a user's history, it generates the identifier
of the next item, token by token. It is a BART with embedding tables for users and items, as in
[*Generative Sequential Recommendation with Large Language
Models*](https://arxiv.org/abs/2407.21191) (Cao and Liò, 2024).

`genrec_jax` exported it from step {step} of the run `{run}`, which was trained on the dataset
`{dataset}` with {n_users:,} users and {n_items:,} items (`config.indexing={indexing}`).

## Input

**The model does not work without its id tables.** A plain `BartForConditionalGeneration` loads
`model.safetensors`, but does not have these tables. They are stored in `{file}`
and must be added to the encoder's input embeddings (equation 2 of the paper):

    X_j = EMB(S_j) + PosEMB(j) + IDEMB(ID(j))

- S is the input sequence `<s> user_… item_… item_… <mask> </s>`, with the most recent item last.
  `<mask>` is the item to predict.
- EMB and PosEMB are the token and position embeddings of BART.
- IDEMB is the user's row of `user_embedding` for every token of the user's identifier, and the
  item's row of `item_embedding` for every token of an item's identifier. It is zero for `<s>`,
  `<mask>`, `</s>` and `<pad>`.

The decoder starts with `</s>` and does not use the id tables.
{positions}
## Id tables

`{file}` has these tensors, for U users, N items and the model's width D:

| tensors | type | shape | content |
| --- | --- | --- | --- |
| `user_embedding`, `item_embedding` | float32 | [U, D], [N, D] | IDEMB of each user or item |
| `user_id_bytes`, `item_id_bytes` | uint8 | [bytes] | the ids of all rows in UTF-8, concatenated |
| `user_id_offsets`, `item_id_offsets` | int64 | [U + 1], [N + 1] | the start and end of each id |
| `user_numbers`, `item_numbers` | int64 | [U], [N] | the numbers in `user_…` and `item_…` |

{ids_are} An identifier is `user_` or `item_` and the row's number, which may differ from the id.
The metadata of the file has the dataset's name (`dataset_name`), the sha256 of its content
(`dataset_sha256`), and the kind of ids (`ids`): `log` for the strings of a log, `numbers` for the
numbers of a dataset.

## Recommend with PyTorch

Run this example in the folder. It needs `torch`, `transformers` and `safetensors`.

```python
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BartForConditionalGeneration

tokenizer = AutoTokenizer.from_pretrained(".")
model = BartForConditionalGeneration.from_pretrained(".").eval()
tables = load_file("{file}")

user, history = {user}, {history}  # ids, the most recent item last


def all_ids(kind):
    encoded = tables[f"{{kind}}_id_bytes"].numpy().tobytes()
    offsets = tables[f"{{kind}}_id_offsets"].tolist()
    return [encoded[start:stop].decode() for start, stop in zip(offsets, offsets[1:])]


def identifier_and_vector(kind, id_):
    row = all_ids(kind).index(id_)
    return f"{{kind}}_{{tables[f'{{kind}}_numbers'][row]}}", tables[f"{{kind}}_embedding"][row]


# The input sequence: its tokens, and IDEMB of each token.
zero = torch.zeros(model.config.d_model)
tokens, vectors = [tokenizer.bos_token_id], [zero]
for identifier, vector in [identifier_and_vector("user", user)] + [
    identifier_and_vector("item", item) for item in history
]:
    pieces = tokenizer(identifier, add_special_tokens=False).input_ids
    tokens += pieces
    vectors += [vector] * len(pieces)
tokens += [tokenizer.mask_token_id, tokenizer.eos_token_id]
vectors += [zero, zero]

with torch.no_grad():
    embedded = model.get_input_embeddings()(torch.tensor([tokens])) + torch.stack(vectors)
{reversal}    generated = model.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
        num_beams={beams},
        num_return_sequences={beams},
        length_penalty=0.0,  # beams are scored by their log-probability
    )

# The ids of the recommended items, best first; None for an identifier that no item has.
identifiers = [text.strip() for text in tokenizer.batch_decode(generated, skip_special_tokens=True)]
numbers_and_ids = zip(tables["item_numbers"].tolist(), all_ids("item"))
item_ids = {{f"item_{{number}}": item for number, item in numbers_and_ids}}
print([item_ids.get(identifier) for identifier in identifiers])
```

This beam search is over the vocabulary, so it can generate identifiers that no item has. The beam
search of `genrec_jax` is over the trie of all item identifiers, so it only generates items.

## Continue training

`genrec_jax` starts training from this folder with `--config.model.pretrained=FOLDER`. On another
dataset, users and items with the same ids keep their rows of the id tables, whatever their numbers.
The remaining rows are initialised randomly. An id without a letter, such as 7, can denote different
items in different datasets. Its row is kept only if the dataset is the same, or if both datasets
are prepared logs with the same name.

## Limitations

The model has embeddings only for the {n_users:,} users and {n_items:,} items of its dataset. It
cannot recommend other items.
"""
LONGEST = """
The model was trained from scratch on inputs of up to {longest_input} tokens. Drop the oldest items
of longer histories, since the embeddings of later positions are untrained.
"""
REVERSED = """
**Positions are counted from the end**: `</s>` has position 0, `<mask>` has position 1, and so on.
BART counts from the start. The example below corrects for this.
"""
REVERSAL = """\
    # This model counts positions from the end, but BART adds those counted from the start.
    positions = model.get_encoder().embed_positions.weight[2 : 2 + len(tokens)]  # 2: BART's offset
    embedded = embedded + positions.flip(0) - positions
"""
IDS_ARE = {
    LOG: "The ids are the strings of the log.",
    NUMBERS: "The ids are the numbers of the dataset, as strings.",
}


def model_card(catalogue: Catalogue, shape: GenRecShape, run: str, step: int, dataset: str) -> str:
    """Return the model card of an export, in Markdown.

    Args:
        catalogue: the run's users and items. The example is for the first user, with a history of
            the first three items.
        shape: the model's shape.
        run: the name of the run's directory.
        step: the step of the exported checkpoint.
        dataset: the name of the dataset.
    """
    users, items = id_texts(catalogue)
    is_reversed = shape.reversed_positions
    positions = LONGEST.format(**vars(shape)) if shape.longest_input else ""
    return TEMPLATE.format(
        positions=positions + REVERSED * is_reversed,
        reversal=REVERSAL * is_reversed,
        run=run,
        step=step,
        dataset=dataset,
        file=FILE,
        indexing=catalogue.indexing.kind,
        ids_are=IDS_ARE[LOG if catalogue.users.are_text else NUMBERS],
        n_users=len(users),
        n_items=len(items),
        user=repr(users[0]),
        history=items[:3],
        beams=min(20, len(items)),
    )

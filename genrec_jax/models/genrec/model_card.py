"""The README.md of an exported folder: what the id tables mean, and how PyTorch uses them."""

from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.genrec.id_tables import FILE, LOG, NUMBERS, id_texts
from genrec_jax.models.genrec.model import GenRecShape

TEMPLATE = """\
---
library_name: transformers
tags: [bart, genrec, recommendation]
---

# GenRec: {run}

A BART that continues a user's history, written by `genrec_jax` from step {step} of the run
`{run}` on the dataset `{dataset}`, with {indexing} numbers for users and items. The model is that
of [*Generative Sequential Recommendation with Large Language
Models*](https://arxiv.org/abs/2407.21191) (Cao and Liò, 2024).

**Without its id tables this is another model.** `BartForConditionalGeneration` loads
`model.safetensors`, but BART has no place for the tables. They are in `{file}`,
and must be added to the encoder's input (equation 2 of the paper):

    X_j = EMB(S_j) + PosEMB(j) + IDEMB(ID(j))

S is the sentence `<s> user_… item_… item_… <mask> </s>`, and `<mask>` stands for the item that is
asked for. IDEMB is the user's row of `user_embedding` for every token of the user's name, the
item's row of `item_embedding` for every token of an item's name, and zero for `<s>`, `<mask>`,
`</s>` and `<pad>`. The decoder has no ids and starts with `</s>`.
{positions}
| tensor of `{file}` | type | shape | what it is |
| --- | --- | --- | --- |
| `user_embedding`, `item_embedding` | float32 | [U, D], [N, D] | IDEMB of user r, item r |
| `user_id_bytes`, `item_id_bytes` | uint8 | [bytes] | all ids in UTF-8, one after the other |
| `user_id_offsets`, `item_id_offsets` | int64 | [U + 1], [N + 1] | where each starts; the end |
| `user_numbers`, `item_numbers` | int64 | [U], [N] | in a sentence: `item_` and the number |

U = {n_users:,} users, N = {n_items:,} items, D the width of the model. {ids_are}
The file's metadata has the dataset's name and the sha256 of its content (`dataset_name`,
`dataset_sha256`), and whether the ids are those of a `log` or `numbers` of the dataset (`ids`).

With PyTorch and `transformers`, in this folder:

```python
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BartForConditionalGeneration

tokenizer = AutoTokenizer.from_pretrained(".")
model = BartForConditionalGeneration.from_pretrained(".").eval()
ids = load_file("{file}")

user, history = {user}, {history}  # ids, the most recent item last


def id_texts(kind):
    encoded = ids[f"{{kind}}_id_bytes"].numpy().tobytes()
    offsets = ids[f"{{kind}}_id_offsets"].tolist()
    return [encoded[start:stop].decode() for start, stop in zip(offsets, offsets[1:])]


def name_and_vector(kind, one):
    row = id_texts(kind).index(one)
    return f"{{kind}}_{{ids[f'{{kind}}_numbers'][row]}}", ids[f"{{kind}}_embedding"][row]


none = torch.zeros(model.config.d_model)
tokens, vectors = [tokenizer.bos_token_id], [none]
for name, vector in [name_and_vector("user", user)] + [
    name_and_vector("item", item) for item in history
]:
    pieces = tokenizer(name, add_special_tokens=False).input_ids
    tokens += pieces
    vectors += [vector] * len(pieces)
tokens += [tokenizer.mask_token_id, tokenizer.eos_token_id]
vectors += [none, none]

with torch.no_grad():
    embedded = model.get_input_embeddings()(torch.tensor([tokens])) + torch.stack(vectors)
{reversal}    written = model.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
        num_beams={beams},
        num_return_sequences={beams},
        length_penalty=0.0,
    )
names = [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
numbers_and_ids = zip(ids["item_numbers"].tolist(), id_texts("item"))
item_ids = {{f"item_{{number}}": item for number, item in numbers_and_ids}}
print([item_ids.get(name) for name in names])
```

This search is free to write names that no item has (`None` above). `genrec_jax` itself walks the
trie of the catalogue, and continues training from this folder with
`--config.model.pretrained=FOLDER`. A run on another dataset takes the rows of users and items that
have the same ids, whatever their numbers; all others start anew. An id without a letter in it is a
number that every dataset counts for itself: its row is taken only in the same dataset, or in a
prepared log of the same name.
"""
LONGEST = """
The model was trained from scratch on inputs of up to {longest_input} tokens: leave out the oldest
items of a longer history, since positions beyond have random vectors.
"""
REVERSED = """
**Positions are counted from the end**: `</s>` has position 0, `<mask>` position 1, and so on. BART
itself counts from the start; the example takes the difference into account.
"""
REVERSAL = """\
    positions = model.get_encoder().embed_positions.weight[2 : 2 + len(tokens)]  # 2: BART's offset
    embedded = embedded + positions.flip(0) - positions  # counted from the end
"""
IDS_ARE = {
    LOG: "The ids are those of the\nlog itself.",
    NUMBERS: "The ids are the\nnumbers of the dataset, as text.",
}


def model_card(catalogue: Catalogue, shape: GenRecShape, run: str, step: int, dataset: str) -> str:
    """The card of a run's folder; its example is about the first user and up to three items."""
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

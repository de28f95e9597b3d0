"""The README.md of an exported folder: what the id tables mean, and how PyTorch uses them."""

from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.model.id_tables import FILE

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

| tensor of `{file}` | shape | what it is |
| --- | --- | --- |
| `user_embedding`, `item_embedding` | [U, D], [N, D] | IDEMB: row r is that of the user or item r |
| `user_ids`, `item_ids` | [U], [N] | what the dataset calls user r, item r |
| `user_numbers`, `item_numbers` | [U], [N] | what a sentence calls them: `item_` and the number |

U = {n_users:,} users, N = {n_items:,} items, D the width of the model; the tables are float32, the
rest int64.

With PyTorch and `transformers`, in this folder:

```python
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BartForConditionalGeneration

tokenizer = AutoTokenizer.from_pretrained(".")
model = BartForConditionalGeneration.from_pretrained(".").eval()
ids = load_file("{file}")

user, history = {user}, {history}  # ids of the dataset, the most recent item last


def name_and_vector(kind, number):
    row = ids[f"{{kind}}_ids"].tolist().index(number)
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
    written = model.generate(
        inputs_embeds=embedded,
        attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
        num_beams={beams},
        num_return_sequences={beams},
        length_penalty=0.0,
    )
names = [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
numbers_and_ids = zip(ids["item_numbers"].tolist(), ids["item_ids"].tolist())
item_ids = {{f"item_{{number}}": item for number, item in numbers_and_ids}}
print([item_ids.get(name) for name in names])
```

This search is free to write names that no item has (`None` above). `genrec_jax` itself walks the
trie of the catalogue, and goes on training from this folder with
`--config.model.pretrained=FOLDER`; the id tables go on too where the users, the items and their
numbers are the same.
"""


def model_card(catalogue: Catalogue, run: str, step: int, dataset: str) -> str:
    """The card of a run's folder; its example is about the first user and up to three items."""
    return TEMPLATE.format(
        run=run,
        step=step,
        dataset=dataset,
        file=FILE,
        indexing=catalogue.indexing.kind,
        n_users=len(catalogue.user_ids),
        n_items=len(catalogue.item_ids),
        user=int(catalogue.user_ids[0]),
        history=[int(item) for item in catalogue.item_ids[:3]],
        beams=min(20, len(catalogue.item_ids)),
    )

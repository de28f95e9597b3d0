"""Our parameters → a Hugging Face folder that PyTorch's BART loads, and that we read back.

config.json, generation_config.json   what transformers needs to know
model.safetensors                     BART: the names and shapes of BartForConditionalGeneration
tokenizer.json, tokenizer_config.json  the run's tokenizer: AutoTokenizer writes our tokens with it
genrec_ids.safetensors                the id tables, which BART has no place for (id_tables.py)
README.md                             how they are used (model_card.py)
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import RobertaProcessing

from genrec_jax.core.disk import writing
from genrec_jax.core.errors import InputError
from genrec_jax.identifiers.catalogue import TOKENIZER, Catalogue
from genrec_jax.identifiers.token_table import build_token_table
from genrec_jax.identifiers.tokenizer import Vocabulary, read_tokenizer
from genrec_jax.models.contract import Params
from genrec_jax.models.genrec.convert import (
    POSITION_KEYS,
    SHAPE_KEYS,
    load_params,
    read_positions,
    read_shape,
)
from genrec_jax.models.genrec.id_tables import (
    TABLES,
    IdTables,
    id_tables_of,
    read_id_tables,
    write_id_tables,
)
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.models.genrec.model_card import model_card
from genrec_jax.models.genrec.names import leaf, name_table

log = logging.getLogger(__name__)

CLASS = "BartForConditionalGeneration"
DRAFT = ".unfinished"  # marks a folder as ours to start over


@dataclass(frozen=True)
class Origin:
    """Where the parameters come from, for the model card."""

    run: str
    step: int
    dataset: str


def write_folder(
    output: Path, catalogue: Catalogue, shape: GenRecShape, params: Params, origin: Origin
) -> None:
    """Write everything, read it back, compare bit for bit, and only then give it its name.

    Args:
        output: a folder that is new or empty.
        catalogue: of the run.
        shape: of its model.
        params: its parameters.
        origin: what the model card says of them.

    Raises:
        InputError: `output` holds something or reads back differently; or the items are written
            by titles or codes, which the exported files have no place for.
        DiskError: `output` cannot be written.
    """
    indexing = catalogue.indexing
    if indexing.item_texts is not None or indexing.codes is not None:
        what = "titles" if indexing.codes is None else "codes"
        raise InputError(
            f"{origin.run}: its items are written by {what} (config.indexing={indexing.kind}), "
            "expected a run whose items are written by numbers: the exported id tables tell items "
            "by these"
        )
    with writing(f"--output={output}", SafetensorError), _draft_of(output) as draft:
        _write_config(draft, catalogue, shape)
        _write_weights(draft, shape, params)
        users, items = (np.asarray(params[name]) for name in TABLES)
        write_id_tables(draft, id_tables_of(catalogue, users, items))
        _write_tokenizer(draft, catalogue.vocabulary, shape)
        text = model_card(catalogue, shape, origin.run, origin.step, origin.dataset)
        (draft / "README.md").write_text(text, encoding="utf-8")
        for path in draft.iterdir():  # safetensors lets nobody else read what it writes
            shutil.copymode(draft / "config.json", path)
        _check_reads_back(draft, catalogue, shape, params)
        (draft / DRAFT).unlink()
        os.replace(draft, output)
    log.info(
        "wrote %s: %d tensors, the id tables of %d users and %d items, and the tokenizer, from "
        "step %d; read back, every bit is the same",
        output,
        len(name_table(shape)),
        *(len(users), len(items), origin.step),
    )


@contextlib.contextmanager
def _draft_of(output: Path) -> Iterator[Path]:
    """An empty folder beside `output`, so that a killed command leaves none of that name."""
    if output.is_dir():
        if any(output.iterdir()):
            raise InputError(f"--output={output}: the folder is not empty, expected a new one")
    elif output.exists():
        raise InputError(f"--output={output}: found a file, expected a folder to write")
    output = output.absolute()
    draft = output.with_name(f"{output.name}.part")
    if (draft / DRAFT).is_file():
        shutil.rmtree(draft)  # left of a command that was cut short
    if draft.exists():
        raise InputError(f"--output: {draft} is needed for the work, but is there already")
    draft.mkdir(parents=True)
    try:
        (draft / DRAFT).touch()
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _transformers() -> Any:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch; we do not
    import transformers  # here: its import is slow

    return transformers


def _write_config(folder: Path, catalogue: Catalogue, shape: GenRecShape) -> None:
    """The decoder starts with `</s>`, and nothing is forced: our model writes what it writes."""
    transformers = _transformers()
    vocabulary = catalogue.vocabulary
    special: dict[str, Any] = {
        "bos_token_id": vocabulary.bos,
        "pad_token_id": vocabulary.pad,
        "eos_token_id": vocabulary.eos,
        "decoder_start_token_id": vocabulary.eos,
    }
    sizes: dict[str, Any] = {theirs: getattr(shape, ours) for ours, theirs in SHAPE_KEYS.items()}
    sizes[POSITION_KEYS["reversed_positions"]] = "end" if shape.reversed_positions else "start"
    sizes[POSITION_KEYS["longest_input"]] = shape.longest_input
    transformers.BartConfig(
        **sizes,
        **special,
        activation_function="gelu",
        scale_embedding=False,
        tie_word_embeddings=True,
        dropout=shape.dropout,
        attention_dropout=shape.attention_dropout,
        activation_dropout=shape.activation_dropout,
        init_std=shape.init_std,
        forced_eos_token_id=None,
        architectures=[CLASS],
        dtype="float32",
    ).save_pretrained(folder)
    # The longest item name and </s>.
    length = int(catalogue.table.item_lengths.max()) + 1
    transformers.GenerationConfig(**special, max_new_tokens=length).save_pretrained(folder)


def _write_weights(folder: Path, shape: GenRecShape, params: Params) -> None:
    tensors = {
        entry.full_name: entry.to_torch(np.asarray(leaf(params, entry.path)))
        for entry in name_table(shape)
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _write_tokenizer(folder: Path, vocabulary: Vocabulary, shape: GenRecShape) -> None:
    """The run's tokenizer, made to write whole sentences as the encoder sees them.

    The run writes names, and puts the special tokens around them itself (inputs.py). A tokenizer
    for text must put `<s>` and `</s>` around a sentence, and take the space before `<mask>` for a
    part of it.
    """
    mask = AddedToken("<mask>", lstrip=True, normalized=False, special=True)
    tokenizer = Tokenizer.from_str(vocabulary.tokenizer.to_str())  # a copy: both of these change it
    tokenizer.add_special_tokens([mask])
    ends = ("</s>", vocabulary.eos), ("<s>", vocabulary.bos)
    tokenizer.post_processor = RobertaProcessing(*ends, add_prefix_space=True)
    fast = _transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=mask,
        model_max_length=shape.longest_input or shape.max_positions,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def _check_reads_back(
    folder: Path, catalogue: Catalogue, shape: GenRecShape, params: Params
) -> None:
    """Raises InputError if what stands on the disk is not what should."""
    found_shape = {**vars(read_shape(folder)), **vars(read_positions(folder))}
    for name in (*SHAPE_KEYS, *POSITION_KEYS):
        if found_shape[name] != getattr(shape, name):
            raise InputError(f"{folder}: {name} reads back differently")
    tables = read_id_tables(folder, shape.d_model)
    if tables is None or not _same_rows(tables, catalogue):
        raise InputError(f"{folder}: the id tables read back differently")
    vectors = {f"{table.kind}_embedding": table.vectors for table in tables.tables}
    found = {**load_params(folder, shape, params), **vectors}
    for path, ours in jax.tree_util.tree_leaves_with_path(params):
        theirs = leaf(found, tuple(key.key for key in path))
        if np.asarray(ours).tobytes() != np.asarray(theirs).tobytes():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(f"{folder}: {name} reads back differently")
    names = catalogue.indexing.item_names(), catalogue.indexing.user_names()
    table = build_token_table(read_tokenizer(folder / TOKENIZER), *names)
    if not np.array_equal(table.tokens, catalogue.table.tokens):
        raise InputError(f"{folder}: the tokenizer reads back differently")


def _same_rows(found: IdTables, catalogue: Catalogue) -> bool:
    """Whether the tables say of every row whose it is as the catalogue does."""
    users, items = (np.zeros((len(table.ids), 0), np.float32) for table in found.tables)
    expected = id_tables_of(catalogue, users, items)
    return (found.ids_are, found.dataset) == (expected.ids_are, expected.dataset) and all(
        ours.ids == theirs.ids and np.array_equal(ours.numbers, theirs.numbers)
        for ours, theirs in zip(found.tables, expected.tables, strict=True)
    )

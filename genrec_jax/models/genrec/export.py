"""Export our parameters as a Hugging Face folder that PyTorch's BART and this package can load.

config.json, generation_config.json    the model's config for transformers
model.safetensors                      BART, with the names of BartForConditionalGeneration
tokenizer.json, tokenizer_config.json  the run's tokenizer, for AutoTokenizer
genrec_ids.safetensors                 the id tables, which a BART does not have (id_tables.py)
README.md                              the model card, with an example (model_card.py)
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
from genrec_jax.models.genrec.tensor_names import leaf, name_table

log = logging.getLogger(__name__)

CLASS = "BartForConditionalGeneration"
DRAFT = ".unfinished"  # a file that marks an unfinished export, which may be deleted


@dataclass(frozen=True)
class Origin:
    """The origin of the parameters, for the model card."""

    run: str  # name of the run's directory
    step: int  # step of the checkpoint
    dataset: str  # config.data.name


def write_folder(
    output: Path, catalogue: Catalogue, shape: GenRecShape, params: Params, origin: Origin
) -> None:
    """Export a model as a Hugging Face folder.

    The folder is written under a temporary name, read back and compared bit for bit, and then
    renamed to `output`.

    Args:
        output: a folder that is new or empty.
        catalogue: the run's users and items.
        shape: the model's shape.
        params: the model's parameters.
        origin: the origin of the parameters, for the model card.

    Raises:
        InputError: `output` is not empty, what was written reads back differently, or the items'
            identifiers are titles or codes, which the exported id tables cannot represent.
        DiskError: `output` cannot be written.
    """
    indexing = catalogue.indexing
    if indexing.item_texts is not None or indexing.codes is not None:
        what = "titles" if indexing.codes is None else "codes"
        raise InputError(
            f"config.indexing: found {indexing.kind!r} in {origin.run}, whose items have {what}, "
            "expected numbers as identifiers, since an export stores no others"
        )
    with writing(f"--output={output}", SafetensorError), _draft_of(output) as draft:
        _write_config(draft, catalogue, shape)
        _write_weights(draft, shape, params)
        users, items = (np.asarray(params[name]) for name in TABLES)
        write_id_tables(draft, id_tables_of(catalogue, users, items))
        _write_tokenizer(draft, catalogue.vocabulary, shape)
        text = model_card(catalogue, shape, origin.run, origin.step, origin.dataset)
        (draft / "README.md").write_text(text, encoding="utf-8")
        for path in draft.iterdir():  # safetensors makes files readable by their owner only
            shutil.copymode(draft / "config.json", path)
        _check_reads_back(draft, catalogue, shape, params)
        (draft / DRAFT).unlink()
        os.replace(draft, output)
    log.info(
        "exported step %d to %s: %d tensors, the id tables of %d users and %d items, and the "
        "tokenizer; verified bit for bit",
        *(origin.step, output, len(name_table(shape)), len(users), len(items)),
    )


@contextlib.contextmanager
def _draft_of(output: Path) -> Iterator[Path]:
    """Make a temporary folder beside `output`, so that a killed command leaves no partial output.

    The folder is deleted on exit, unless it was renamed.
    """
    if output.is_dir():
        if any(output.iterdir()):
            raise InputError(f"--output={output}: found a folder with files, expected a new folder")
    elif output.exists():
        raise InputError(f"--output={output}: found a file, expected a new folder")
    output = output.absolute()
    draft = output.with_name(f"{output.name}.part")
    if (draft / DRAFT).is_file():
        shutil.rmtree(draft)  # left by an interrupted command
    if draft.exists():
        raise InputError(
            f"--output={output}: found {draft}, expected that name to be free for temporary files; "
            "move it away"
        )
    draft.mkdir(parents=True)
    try:
        (draft / DRAFT).touch()
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _transformers() -> Any:
    """Import transformers, without its warning that PyTorch is missing."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers  # imported here because it is slow

    return transformers


def _write_config(folder: Path, catalogue: Catalogue, shape: GenRecShape) -> None:
    """Write config.json and generation_config.json.

    Decoding starts from `</s>`, and no first or last token is forced.
    """
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
    # The tokens of the longest item and </s>.
    length = int(catalogue.table.item_lengths.max()) + 1
    transformers.GenerationConfig(**special, max_new_tokens=length).save_pretrained(folder)


def _write_weights(folder: Path, shape: GenRecShape, params: Params) -> None:
    """Write model.safetensors."""
    tensors = {
        entry.full_name: entry.to_torch(np.asarray(leaf(params, entry.path)))
        for entry in name_table(shape)
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _write_tokenizer(folder: Path, vocabulary: Vocabulary, shape: GenRecShape) -> None:
    """Write the run's tokenizer, extended to encode whole input sequences.

    In the run, the tokenizer encodes identifiers only, and inputs.py adds the special tokens. For
    text, it must add `<s>` and `</s>` itself, and absorb the space before `<mask>`.
    """
    mask = AddedToken("<mask>", lstrip=True, normalized=False, special=True)
    tokenizer = Tokenizer.from_str(vocabulary.tokenizer.to_str())  # a copy, which is changed below
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
    """Raise InputError if the written folder does not read back as the same model."""
    written_shape = {**vars(read_shape(folder)), **vars(read_positions(folder))}
    for name in (*SHAPE_KEYS, *POSITION_KEYS):
        if written_shape[name] != getattr(shape, name):
            raise InputError(f"{folder}: {name} reads back differently")
    tables = read_id_tables(folder, shape.d_model)
    if tables is None or not _same_rows(tables, catalogue):
        raise InputError(f"{folder}: the id tables read back differently")
    vectors = {f"{table.kind}_embedding": table.vectors for table in tables.tables}
    written = {**load_params(folder, shape, params), **vectors}
    for path, ours in jax.tree_util.tree_leaves_with_path(params):
        theirs = leaf(written, tuple(key.key for key in path))
        if np.asarray(ours).tobytes() != np.asarray(theirs).tobytes():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise InputError(f"{folder}: {name} reads back differently")
    identifiers = catalogue.indexing.item_identifiers(), catalogue.indexing.user_identifiers()
    table = build_token_table(read_tokenizer(folder / TOKENIZER), *identifiers)
    if not np.array_equal(table.tokens, catalogue.table.tokens):
        raise InputError(f"{folder}: the tokenizer reads back differently")


def _same_rows(written: IdTables, catalogue: Catalogue) -> bool:
    """Return whether the tables have the ids, numbers and dataset of the catalogue."""
    users, items = (np.zeros((len(table.ids), 0), np.float32) for table in written.tables)
    expected = id_tables_of(catalogue, users, items)
    return (written.ids_are, written.dataset) == (expected.ids_are, expected.dataset) and all(
        theirs.ids == ours.ids and np.array_equal(theirs.numbers, ours.numbers)
        for theirs, ours in zip(written.tables, expected.tables, strict=True)
    )

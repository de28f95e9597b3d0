"""What a config describes, loaded: the dataset, the catalogue and the model's shape and start."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import jax
import numpy as np
from jaxtyping import Float

from genrec_jax.config import Config, DataConfig, ModelConfig
from genrec_jax.data.datasets import load_named, named_attributes
from genrec_jax.data.identity import identify
from genrec_jax.data.prepared import RECORD, Names, is_prepared, read_names, read_prepared
from genrec_jax.data.sequences import (
    PRETRAINING_HOLDOUT,
    UserSequences,
    next_item_examples,
    read_sequence_file,
    repeats,
    without_last,
)
from genrec_jax.data.synthetic import SyntheticSpec, synthetic_sequences
from genrec_jax.errors import InputError
from genrec_jax.identifiers.catalogue import TOKENIZER, Catalogue
from genrec_jax.identifiers.codes import code_symbols, likeness
from genrec_jax.identifiers.indexing import CODE_KINDS, Indexing, coded_indexing, make_indexing
from genrec_jax.identifiers.item_vectors import collaborative_vectors, side_by_side, text_vectors
from genrec_jax.identifiers.sentences import longest_input
from genrec_jax.identifiers.titles import clean_title, title_names
from genrec_jax.identifiers.token_table import TokenTable
from genrec_jax.identifiers.tokenizer import (
    Vocabulary,
    load_bart_tokenizer,
    read_tokenizer,
    train_tokenizer,
    with_symbols,
)
from genrec_jax.identifiers.trie import decided
from genrec_jax.model.bart import BartShape
from genrec_jax.model.convert import (
    SHAPE_KEYS,
    is_export,
    load_params,
    read_positions,
    read_shape,
    with_tokens,
)
from genrec_jax.model.genrec import (
    CountFrom,
    GenRecShape,
    Head,
    Params,
    Residual,
    abstract_model,
    init_params,
)
from genrec_jax.model.hub import checkpoint_folder
from genrec_jax.model.id_tables import FILE as ID_TABLES
from genrec_jax.model.id_tables import TABLES
from genrec_jax.model.item_inputs import Unit

log = logging.getLogger(__name__)

TFDS_RECORD = "dataset_info.json"


def load_sequences(config: DataConfig) -> UserSequences:
    """Raises InputError for a file that is missing, corrupt, ill-formed or too short to cut."""
    return without_last(_whole_sequences(config), config.drop_last)


def _whole_sequences(config: DataConfig) -> UserSequences:
    if config.name == "synthetic":
        return synthetic_sequences(synthetic_spec(config))
    if config.name == "file":
        path = Path(config.file).expanduser()
        if is_prepared(path):
            return read_prepared(path)
        if is_tfds(path):
            from genrec_jax.data.tfds_reader import read_tfds  # here: few runs need the library

            return read_tfds(path)
        expected = "expected a prepared dataset, a tensorflow-datasets folder or a sequence file"
        if path.is_dir():
            raise InputError(
                f"config.data.file: found neither {RECORD} nor {TFDS_RECORD} in the folder {path}, "
                f"{expected}"
            )
        if not path.exists():
            raise InputError(f"config.data.file: found nothing at {path}, {expected}")
        return read_sequence_file(path, path.stem)
    return load_named(config.name, config.dir)


def load_names(config: DataConfig) -> Names | None:
    """The log's own ids and titles; None for datasets that have no other names than numbers.

    Raises:
        InputError: a folder that is damaged.
    """
    path = Path(config.file).expanduser()
    if config.name == "file" and is_prepared(path):
        return read_names(path)
    if config.name == "file" and is_tfds(path):
        from genrec_jax.data.tfds_reader import read_tfds_names

        return read_tfds_names(path)
    return None


def is_tfds(folder: Path) -> bool:
    return (folder / TFDS_RECORD).is_file()


def synthetic_spec(config: DataConfig) -> SyntheticSpec:
    return SyntheticSpec(
        users=config.synthetic_users, items=config.synthetic_items, seed=config.synthetic_seed
    )


def log_statistics(sequences: UserSequences) -> None:
    """The figures of the paper's Table 2."""
    n = len(sequences.items)
    log.info(
        "dataset %s: %d users, %d items, %d interactions, %.1f items a user, %.1f users an item, "
        "longest history %d",
        sequences.name,
        sequences.n_users,
        sequences.n_items,
        n,
        n / sequences.n_users,
        n / sequences.n_items,
        sequences.lengths.max(),
    )


def build_catalogue(config: Config, sequences: UserSequences, pretrained: Path | None) -> Catalogue:
    """Number, name and tokenize every user and item.

    Args:
        config: of the run.
        sequences: its dataset.
        pretrained: the folder of BART's tokenizer; None: train one on the names.
    """
    names = load_names(config.data)
    indexing, vocabulary = make_names(config, sequences, names, pretrained)
    # Whose ids these are does not depend on how much of every user's history is used.
    whole = _whole_sequences(config.data) if config.data.drop_last else sequences
    return Catalogue.build(sequences, indexing, vocabulary, names, identify(whole, names))


def make_names(
    config: Config, sequences: UserSequences, names: Names | None, pretrained: Path | None
) -> tuple[Indexing, Vocabulary]:
    """How every user and item is written, and the tokenizer; arguments as of `build_catalogue`.

    Raises:
        InputError: items are to be written by titles, or by codes from texts, that the dataset
            does not have.
    """
    if config.indexing in CODE_KINDS:
        return make_codes(config, sequences, names, pretrained)
    indexing = make_indexing(config.indexing, sequences, config.indexing_seed)
    titles: list[str] = []
    if config.indexing == "title":
        titles = [clean_title(title) for title in (names.titles if names else [])]
        if not any(titles):
            raise InputError(
                f"config.indexing: found 'title', but {sequences.name} has no titles, expected a "
                "prepared dataset with some (python -m genrec_jax.data.prepare)"
            )
    if pretrained is not None:
        vocabulary = load_vocabulary(pretrained)
    else:
        written = indexing.item_names()
        written = [title or name for title, name in zip(titles or written, written, strict=True)]
        vocabulary = train_tokenizer(
            written + indexing.user_names(), config.model.vocab_size, by_word=bool(titles)
        )
    if titles:
        made = title_names(titles, indexing.item_numbers, vocabulary, config.title_tokens)
        log.info("%s", made.summary())
        indexing = dataclasses.replace(indexing, item_texts=made.names)
    return indexing, vocabulary


def make_codes(
    config: Config, sequences: UserSequences, names: Names | None, pretrained: Path | None
) -> tuple[Indexing, Vocabulary]:
    """The same for items that are written by codes."""
    vectors = code_vectors(config, sequences, names)
    indexing = coded_indexing(config.indexing, sequences, vectors, config.indexing_seed)
    vocabulary = (
        train_tokenizer(indexing.user_names(), config.model.vocab_size)
        if pretrained is None
        else load_vocabulary(pretrained)
    )
    if vectors is not None and indexing.codes is not None:
        like = [likeness(vectors, indexing.codes, symbols) for symbols in (0, 1, 2)]
        log.info(
            "%d items have %s codes, %d of them by chance, since nothing is known of these; the "
            "mean cosine of two items is %.3f, %.3f with the same first symbol, %.3f with two",
            len(vectors),
            indexing.kind,
            (~vectors.any(axis=1)).sum(),
            *like,
        )
    return indexing, with_symbols(vocabulary, code_symbols(sequences.n_items))


def code_vectors(
    config: Config, sequences: UserSequences, names: Names | None
) -> Float[np.ndarray, "N d"] | None:
    """What the codes of `config.indexing` are made from; None for those that chance makes.

    Raises:
        InputError: the dataset has neither titles nor attributes, and they are asked for.
    """
    codes, kind, seed = config.codes, config.indexing, config.indexing_seed
    if kind == "random_codes":
        return None
    by_users = by_texts = None
    if kind in ("collaborative", "combined"):
        by_users = collaborative_vectors(sequences, codes.dims, codes.window, seed)
    if kind in ("semantic", "combined"):
        titles, attributes = item_texts(config, sequences, names)
        by_texts = text_vectors(titles, attributes, codes.dims, seed)
    if by_users is None or by_texts is None:
        return by_texts if by_users is None else by_users
    return side_by_side(by_users, by_texts, codes.text_weight)


def item_texts(
    config: Config, sequences: UserSequences, names: Names | None
) -> tuple[Sequence[str | None], Sequence[Sequence[str] | None]]:
    """The titles and the attributes of every item."""
    if names is not None:
        titles, attributes = names.titles, names.attributes or [None] * sequences.n_items
    else:
        about = named_attributes(config.data.name, config.data.dir)
        titles = [None] * sequences.n_items
        attributes = [about.get(item) for item in sequences.item_ids.tolist()]
    if not any(titles) and not any(attributes):
        raise InputError(
            f"config.indexing: found {config.indexing!r}, but {sequences.name} has neither titles "
            "nor attributes, expected a prepared dataset with some (python -m "
            "genrec_jax.data.prepare), or the file of a named dataset's attributes beside it"
        )
    return titles, attributes


def load_vocabulary(pretrained: Path) -> Vocabulary:
    """BART's tokenizer, or that of the run which a folder was exported from.

    The latter is taken as it stands: BartTokenizer would build it anew from its merges, and split
    names before it merges.
    """
    if (pretrained / ID_TABLES).is_file():
        return read_tokenizer(pretrained / TOKENIZER)
    if (pretrained / "config.json").is_file() and is_export(pretrained):
        raise InputError(
            f"{pretrained}: was exported by genrec_jax, but lacks {ID_TABLES}, expected the whole "
            "folder"
        )
    return load_bart_tokenizer(pretrained)


def pretrained_folder(config: ModelConfig) -> Path | None:
    """Where the weights and the tokenizer come from; None for a run from scratch."""
    return checkpoint_folder(config.pretrained) if config.pretrained else None


def longest_trained(config: Config, sequences: UserSequences, table: TokenTable) -> int:
    """The encoder tokens of the longest input that training reads.

    The test's histories are up to two items longer, and serving asks for any length. A model from
    scratch has no vectors for such positions but noise, so ranking cuts histories to this length.

    Pretraining reads no longer inputs than finetuning with a holdout of 2: with the last item of
    the training part masked, they are the same.
    """
    holdout = config.finetune.holdout if config.finetune.epochs else PRETRAINING_HOLDOUT
    examples = next_item_examples(sequences, holdout)
    return longest_input(examples, table, config.model.max_tokens, config.model.encoder_unit)


def model_shape(
    config: ModelConfig, catalogue: Catalogue, pretrained: Path | None, longest: int = 0
) -> GenRecShape:
    """The checkpoint's, or from the config alone where there is none.

    Args:
        config: of the model.
        catalogue: of the run.
        pretrained: the checkpoint's folder; None: from scratch.
        longest: see `longest_trained`; counts for a model from scratch.

    Raises:
        InputError: a key of the config that was changed asks for another shape than the
            checkpoint's, or the checkpoint cannot hold the tokenizer or `max_tokens`.
    """
    vocabulary = catalogue.vocabulary
    nodes = int((decided(catalogue.trie).items < 0).sum()) if config.head == "trie" else 0
    ours = GenRecShape(
        vocab_size=vocabulary.size,
        max_positions=config.max_tokens,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        init_std=config.init_std,
        low_pass=config.low_pass,
        frequencies=config.frequencies,
        dtype=_dtype(config.dtype),
        encoder_unit=cast(Unit, config.encoder_unit),
        head=cast(Head, config.head),
        count_from=cast(CountFrom, config.count_from),
        residual=cast(Residual, config.residual),
        inner_nodes=nodes,
        temperature=config.temperature,
        longest_input=longest,
        **_sizes(config),
    )
    if pretrained is None:
        return ours
    theirs, positions = read_shape(pretrained), read_positions(pretrained)
    if vocabulary.n_words > theirs.vocab_size:
        raise InputError(
            f"{pretrained}: its tokenizer has {vocabulary.n_words} tokens, expected at most "
            f"vocab_size = {theirs.vocab_size} of its config.json"
        )
    if config.max_tokens > theirs.max_positions:
        raise InputError(
            f"config.model.max_tokens: found {config.max_tokens}, expected at most the "
            f"{theirs.max_positions} positions of {pretrained}"
        )
    # A key at its default says nothing, so that bart-large or a distilled BART needs no flags.
    defaults = _sizes(ModelConfig())
    wrong = [
        f"{name} is {getattr(theirs, name)} there and {size} here"
        for name, size in _sizes(config).items()
        if size not in (defaults[name], getattr(theirs, name))
    ]
    if config.count_from not in ("start", positions.count_from):
        wrong.append(f"count_from is {positions.count_from} there and {config.count_from} here")
    if config.count_from != positions.count_from:
        log.info("positions are counted from the %s, as in %s", positions.count_from, pretrained)
    if wrong:
        raise InputError(
            f"config.model: {pretrained} is a checkpoint of another shape: {'; '.join(wrong)}"
        )
    shape = dataclasses.replace(
        ours,
        **{name: getattr(theirs, name) for name in SHAPE_KEYS},
        count_from=positions.count_from,
        # Of a checkpoint that was trained from scratch; 0 for BART, whose positions all are.
        longest_input=positions.longest_input and max(positions.longest_input, longest),
    )
    return dataclasses.replace(shape, vocab_size=max(theirs.vocab_size, vocabulary.size))


def _sizes(config: ModelConfig) -> dict[str, int]:
    """Those of a GenRecShape that the config has keys for."""
    return {
        "d_model": config.d_model,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_heads": config.attention_heads,
        "decoder_heads": config.attention_heads,
        "encoder_ffn_dim": config.ffn_dim,
        "decoder_ffn_dim": config.ffn_dim,
    }


def check_answers(config: Config, sequences: UserSequences) -> None:
    """Raise InputError for data that has none to learn from, or some that the model cannot give."""
    finetune, holdout = config.finetune, config.finetune.holdout
    if finetune.epochs and finetune.targets == "prefixes" and sequences.lengths.max() < holdout + 2:
        raise InputError(
            f"config.finetune.targets: found 'prefixes' with {sequences.name}, where no user has "
            f"more than {sequences.lengths.max()} items, expected 'last', or some with "
            f"{holdout + 2}: one to read, one to answer, {holdout} held out"
        )
    again = repeats(sequences, holdout)
    if config.model.residual == "unseen" and again:
        raise InputError(
            f"config.model.residual: found 'unseen' with {sequences.name}, where {again} "
            "interactions to learn from are with an item that the user had before, expected 'items'"
        )


def start_vectors(config: Config, sequences: UserSequences) -> Float[np.ndarray, "N d"] | None:
    """What `model.item_vectors` starts the items' id vectors from; None: chance."""
    if config.model.item_vectors == "random":
        return None
    codes, dims = config.codes, min(config.codes.dims, config.model.d_model)
    return collaborative_vectors(sequences, dims, codes.window, config.indexing_seed)


def start_params(
    shape: BartShape,
    catalogue: Catalogue,
    pretrained: Path | None,
    seed: int,
    vectors: Float[np.ndarray, "N d"] | None = None,
) -> Params:
    """The checkpoint's weights with fresh id tables and symbols of codes, or everything fresh.

    A checkpoint that was exported from a run gives the rows of users and items that it knows too.
    Fresh item vectors start from `vectors`, of length 1: as long as random ones are on average.
    Columns that these have not, and items of which they say nothing (rows of zeros), stay random.
    """
    users, items = catalogue.table.n_users, catalogue.table.n_items
    params = init_params(shape, users, items, seed)
    if vectors is not None:
        dims = vectors.shape[1]
        table = np.array(params["item_embedding"])
        told = vectors.any(axis=1)
        table[told, :dims] = vectors[told] * shape.init_std * np.sqrt(dims)
        params["item_embedding"] = jax.numpy.asarray(table)
    if pretrained is None:
        return params
    # Of the rest the shapes are enough: the random weights go before the checkpoint's come.
    theirs = dataclasses.replace(shape, vocab_size=read_shape(pretrained).vocab_size)
    _, like = abstract_model(theirs, users, items)
    n_words = catalogue.vocabulary.n_words
    symbols = params["token_embedding"][n_words:]
    params = {**like, **{name: params[name] for name in TABLES}}
    params = load_params(pretrained, theirs, params, catalogue)
    return with_tokens(params, n_words, symbols[: catalogue.vocabulary.size - n_words])


def log_parameters(params: Params, dtype: str) -> None:
    """How many there are, by part."""
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()
    }
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    log.info("model: %s parameters in %s (%s)", f"{sum(sizes.values()):,}", dtype, parts)


def _dtype(name: str) -> str:
    if name != "auto":
        return name
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"

"""A checkpoint and histories → top-k lists in a file."""

from pathlib import Path

from genrec_jax.config import Config
from genrec_jax.data.sequences import Examples, read_id_lines, whole_histories
from genrec_jax.errors import InputError
from genrec_jax.evaluate import watch
from genrec_jax.experiment import load_sequences
from genrec_jax.predictions import check_writable, rank_to_file
from genrec_jax.recommender import Recommender
from genrec_jax.run_folder import RunFolder


def recommend(
    config: Config,
    folder: RunFolder,
    step: int | None,
    histories: Path | None,
    output: Path | None,
) -> None:
    """Write the next items of every user of the dataset, or of a file of histories.

    Args:
        config: the run's, with perhaps another `evaluate` part.
        folder: the run.
        step: of the checkpoint; the best by validation if None.
        histories: lines of `user item item …`, ids as the dataset writes them, the most recent
            item last; None: all users of the dataset with everything that is known of them.
        output: the file to write; None: predictions/recommendations.parquet of the run.
    """
    path = output or folder.predictions / "recommendations.parquet"
    check_writable(path, "--output")
    if histories is not None and path.exists() and path.samefile(histories):
        raise InputError(f"--output={path}: is the file of histories itself, expected another")
    recommender = Recommender.load(folder.path, step, config.evaluate)
    if histories is None:
        sequences = load_sequences(config.data)
        recommender.catalogue.check_same_dataset(sequences)
        examples = whole_histories(sequences)
    else:
        examples = read_histories(histories, recommender)
    plan = recommender.plan(examples, "recommend")
    for _ in rank_to_file(path, recommender, examples, plan, "recommend", watch):
        pass  # the file is all that is wanted of the lists


def read_histories(path: Path, recommender: Recommender) -> Examples:
    """The histories of a file, in its order.

    Raises:
        InputError: see `read_id_lines`; also a user or an item that the run does not know.
    """
    lines = read_id_lines(path, "a file of histories")
    histories = [(ids[0], ids[1:]) for _, ids in lines]
    try:
        return recommender.examples(histories)
    except InputError:
        for (number, _), history in zip(lines, histories, strict=True):
            try:
                recommender.examples([history])
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
        raise

"""The report.html of a finished run, from what its folder holds and its dataset."""

import json
import logging
from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq

from genrec_jax.core.config_fields import flat
from genrec_jax.core.disk import write_atomically
from genrec_jax.core.errors import InputError
from genrec_jax.core.processes import by_the_first
from genrec_jax.data.datasets import named_attributes
from genrec_jax.data.sequences import UserSequences
from genrec_jax.evaluation.audit import audit_numbering, held_out_tell
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.run_config import RunConfig, WithIdentifiers
from genrec_jax.reporting.page import Item, Page, SampledUser, render
from genrec_jax.reporting.tables import result_table
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.training.train import FinishedRun

log = logging.getLogger(__name__)

USERS = 10
HISTORY = 50  # newest items shown of a sampled user


def report_run(run: FinishedRun) -> None:
    """Log the result table of a finished run and write its report.html if that is missing."""
    if run.is_new:
        write_page(run.config, run.folder, *run.load())
        steps, seconds = run.result["counts"]["steps"], run.result["seconds"]
        log.info(
            "%d steps in %.0f s, test ranked in %.0f s\n\n%s",
            *(steps, seconds["training"], seconds["ranking"], result_table(run.result)),
        )
        return
    log.info("%s holds a finished run:\n%s", run.folder.path, result_table(run.result))
    if not run.folder.report.is_file():  # stopped before its report
        write_page(run.config, run.folder, *run.load())


@by_the_first
def write_page(
    config: RunConfig, folder: RunFolder, sequences: UserSequences, catalogue: Catalogue
) -> None:
    """Audit the run's numbering and write the page.

    Args:
        config: the run's.
        folder: with results.json and the test's predictions.
        sequences: the run's dataset.
        catalogue: the run's.

    Raises:
        InputError: the run is not finished, or its folder cannot be written.
    """
    result = folder.read_results()
    if result is None:
        raise InputError(f"{folder.path}: the run is not finished, expected a results.json")
    audit = None
    if isinstance(config, WithIdentifiers):
        tell = held_out_tell(config, sequences, catalogue.names, catalogue.indexing)
        audit = audit_numbering(sequences, catalogue.indexing, catalogue.table, tell)
    page = Page(
        name=folder.path.resolve().name,
        result=result,
        lines=[json.loads(line) for line in folder.metrics.read_text().splitlines()],
        audit=audit,
        users=sampled_users(config, folder, sequences, catalogue),
        config={k: v for k, v in flat(config.to_dict()).items() if not k.endswith(".dir")},
    )
    write_atomically(folder.report, render(page))
    log.info("wrote %s", folder.report)


def sampled_users(
    config: RunConfig, folder: RunFolder, sequences: UserSequences, catalogue: Catalogue
) -> list[SampledUser]:
    """Ten users of the test, drawn by the run's seed."""
    table = pq.read_table(folder.predictions / "test.parquet")
    rng = np.random.default_rng([config.seed, USERS])
    rows = np.sort(rng.choice(table.num_rows, min(USERS, table.num_rows), replace=False))
    item = _shown_items(config, catalogue)
    users = catalogue.indexing.user_names()

    drawn = []
    for line in table.take(rows).to_pylist():
        row = int(catalogue.users.rows([line["user"]])[0])
        name = f"{users[row]}, {line['user']}" if catalogue.users.are_text else users[row]
        history = sequences.of(row)[:-1].tolist()[-HISTORY:]
        drawn.append(
            SampledUser(
                name=name,
                history=[item(one) for one in history],
                items=[item(one) for one in catalogue.items.rows(line["items"]).tolist()],
                target=item(int(catalogue.items.rows([line["target"]])[0])),
            )
        )
    return drawn


def _shown_items(config: RunConfig, catalogue: Catalogue) -> Callable[[int], Item]:
    """From an item row to what the page shows: its title and the log's id, or else its name."""
    written = catalogue.indexing.item_names()
    names = catalogue.names
    if names is None:
        about = _attributes(config)
        ids = catalogue.item_ids.tolist()
        return lambda row: Item(written[row], " ".join(about.get(ids[row], ())))
    return lambda row: Item(names.titles[row] or written[row], names.item_ids[row])


def _attributes(config: RunConfig) -> dict[int, list[str]]:
    """They are an extra: a page without them is a page."""
    try:
        return named_attributes(config.data.name, config.data.dir)
    except InputError:
        return {}

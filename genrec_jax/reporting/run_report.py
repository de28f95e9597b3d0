"""Create the report.html of a finished run from its directory and its dataset."""

import json
import logging
from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq

from genrec_jax.core.config_fields import flat
from genrec_jax.core.disk import write_atomically
from genrec_jax.core.errors import InputError
from genrec_jax.core.processes import on_process_0
from genrec_jax.data.datasets import named_attributes
from genrec_jax.data.sequences import UserSequences
from genrec_jax.evaluation.audit import audit_numbering, codes_leak
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.run_config import RunConfig, WithIdentifiers
from genrec_jax.reporting.page import Item, Page, SampledUser, render
from genrec_jax.reporting.tables import result_table
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.training.train import FinishedRun

log = logging.getLogger(__name__)

USERS = 10  # number of sampled users
HISTORY = 50  # maximum number of history items shown per user, the newest ones


def report_run(run: FinishedRun) -> None:
    """Log the result table of a finished run, and write its report.html if it is missing."""
    if run.is_new:
        write_page(run.config, run.folder, *run.load())
        steps, seconds = run.result["counts"]["steps"], run.result["seconds"]
        log.info(
            "trained %d steps in %.0f s, ranked the test users in %.0f s\n\n%s",
            *(steps, seconds["training"], seconds["ranking"], result_table(run.result)),
        )
        return
    log.info("%s contains a finished run:\n%s", run.folder.path, result_table(run.result))
    if not run.folder.report.is_file():  # stopped before the report was written
        write_page(run.config, run.folder, *run.load())


@on_process_0
def write_page(
    config: RunConfig, folder: RunFolder, sequences: UserSequences, catalogue: Catalogue
) -> None:
    """Audit the run's identifiers for leakage and write its report.html.

    Args:
        config: the run's config.
        folder: the run's directory, with results.json and the predictions of the test split.
        sequences: the run's dataset.
        catalogue: the run's users and items with their identifiers.

    Raises:
        InputError: the run is not finished.
        DiskError: the page cannot be written.
    """
    result = folder.read_results()
    if result is None:
        raise InputError(f"{folder.path}: the run is not finished, expected a results.json")
    audit = None
    if isinstance(config, WithIdentifiers):
        leak = codes_leak(config, sequences, catalogue.log_metadata, catalogue.indexing)
        audit = audit_numbering(sequences, catalogue.indexing, catalogue.table, leak)
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
    """Sample test users at random with the run's seed.

    Args:
        config: the run's config.
        folder: the run's directory, with the predictions of the test split.
        sequences: the run's dataset.
        catalogue: the run's users and items with their identifiers.

    Returns:
        At most `USERS` users.
    """
    table = pq.read_table(folder.predictions / "test.parquet")
    rng = np.random.default_rng([config.seed, USERS])
    rows = np.sort(rng.choice(table.num_rows, min(USERS, table.num_rows), replace=False))
    to_item = _item_display(config, catalogue)
    users = catalogue.indexing.user_identifiers()

    sampled = []
    for line in table.take(rows).to_pylist():
        row = int(catalogue.users.rows([line["user"]])[0])
        name = f"{users[row]}, {line['user']}" if catalogue.users.are_text else users[row]
        history = sequences.of(row)[:-1].tolist()[-HISTORY:]
        ranking = catalogue.items.rows(line["items"]).tolist()
        sampled.append(
            SampledUser(
                name=name,
                history=[to_item(item_row) for item_row in history],
                ranking=[to_item(item_row) for item_row in ranking],
                target=to_item(int(catalogue.items.rows([line["target"]])[0])),
            )
        )
    return sampled


def _item_display(config: RunConfig, catalogue: Catalogue) -> Callable[[int], Item]:
    """Return a function from an item row to the item as the page shows it.

    The page shows the title and the original id if the dataset has them; otherwise the identifier
    and the attributes.
    """
    identifiers = catalogue.indexing.item_identifiers()
    metadata = catalogue.log_metadata
    if metadata is None:
        attributes = _attributes(config)
        ids = catalogue.item_ids.tolist()
        return lambda row: Item(identifiers[row], " ".join(attributes.get(ids[row], ())))
    return lambda row: Item(metadata.titles[row] or identifiers[row], metadata.item_ids[row])


def _attributes(config: RunConfig) -> dict[int, list[str]]:
    """Return the attributes of a named dataset by item id; empty if they are not available."""
    try:
        return named_attributes(config.data.name, config.data.dir)
    except InputError:
        return {}

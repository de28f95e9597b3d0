"""Combine a finished run with the item-transition kNN.

Scores every item for the validation users, chooses the combination method and its weight on them,
and then ranks the test users once. `RUN/results_ensemble.json` holds the result and the metrics of
every weight on validation; `RUN/predictions/ensemble_test.parquet` holds the rankings. The files of
an earlier ensemble are overwritten. The metrics of the model alone are those of exact ranking,
whatever search the run's config selects.

A run that was also finetuned on the validation items (`finetune.include_validation_item`) is
refused, because they cannot be used to choose a weight.

By default the weight is chosen with the run itself. The run was trained on the histories from which
it predicts the validation items, whereas every test history ends with an item that it was not
trained on. The chosen weight of the kNN may therefore be smaller than is best on the test items.
`--chooser=OTHER` chooses the weight with a second run of the same config and `data.drop_last=1`,
which shifts the split by one item: the validation items of RUN are the test items of OTHER. The
seeds of the two runs may differ.
"""

import logging
from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.cli.runs import REQUIRED_WORKDIR
from genrec_jax.core.flags import Flag
from genrec_jax.runs.config_source import STORED_RUN

log = logging.getLogger(__name__)


def run(arguments: SimpleNamespace) -> None:
    """Run the command."""
    from genrec_jax.cli.jax_setup import set_up_jax
    from genrec_jax.core.file_lock import locked
    from genrec_jax.evaluation.ensemble_run import RESULTS, evaluate_ensemble
    from genrec_jax.reporting.tables import ensemble_table
    from genrec_jax.runs.run_folder import RunFolder

    set_up_jax()
    with locked(arguments.workdir / "ensemble.lock", f"--workdir={arguments.workdir}"):
        chooser = RunFolder(arguments.chooser) if arguments.chooser else None
        result = evaluate_ensemble(arguments.config, RunFolder(arguments.workdir), chooser)
    log.info("\n%s\nwrote %s", ensemble_table(result), arguments.workdir / RESULTS)


main = Command(
    "ensemble",
    "--workdir=RUN [--chooser=OTHER] [--config.evaluate.KEY=VALUE …]",
    __doc__ or "",
    run,
    (
        REQUIRED_WORKDIR,
        Flag(
            "chooser",
            "The directory of a weight-tuning run: a run of the same config with data.drop_last=1. "
            "If not given, the weight is chosen with the run itself.",
            Path,
            expected="OTHER",
        ),
    ),
    STORED_RUN,
    interrupted="interrupted; existing files are unchanged, rerun the command to start over",
)

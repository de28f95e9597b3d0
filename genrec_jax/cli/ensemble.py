"""Combine a finished run's probabilities with those of the item-transition kNN.

Scores every item for the validation users and chooses the combination method and its weight there;
then ranks the test users once. `RUN/results_mixed.json` holds the result with the whole validation
curve, `RUN/predictions/mixed_test.parquet` the rankings; those of an earlier ensemble are
overwritten. A run that was finetuned on the validation targets (`finetune.holdout=1`) is refused:
no weight can be chosen on them. GenRec's own row is that of exact ranking, whatever search the
run's config names.

A run was trained on the histories that its validation shows, and so may give the kNN less weight
there than is best on the test. --chooser=OTHER, a run of the same config with `data.drop_last=1`,
predicts the same validation items as the test items will be predicted: the newest item of a
history is new to it. Its seed may be another.
"""

import logging
from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.cli.runs import FINISHED
from genrec_jax.core.flags import Flag
from genrec_jax.runs.config_source import STORED_RUN

log = logging.getLogger(__name__)


def run(given: SimpleNamespace) -> None:
    from genrec_jax.cli.jax_setup import set_up_jax
    from genrec_jax.core.file_lock import locked
    from genrec_jax.evaluation.ensemble_run import RESULTS, mix_run
    from genrec_jax.reporting.tables import mixed_table
    from genrec_jax.runs.run_folder import RunFolder

    set_up_jax()
    with locked(given.workdir / "mix.lock", f"--workdir={given.workdir}"):
        chooser = RunFolder(given.chooser) if given.chooser else None
        result = mix_run(given.config, RunFolder(given.workdir), chooser)
    log.info("\n%s\nwrote %s", mixed_table(result), given.workdir / RESULTS)


main = Command(
    "ensemble",
    "--workdir=RUN [--chooser=OTHER] [--config.evaluate.KEY=VALUE …]",
    __doc__ or "",
    run,
    (FINISHED, Flag("chooser", "The run that chooses on validation.", Path, expected="OTHER")),
    STORED_RUN,
    interrupted="interrupted; earlier files are untouched, rerun the command to start anew",
)

"""Combine a finished run's probabilities with those of the item-transition kNN.

    python -m genrec_jax ensemble --workdir=RUN [--chooser=OTHER] [--config.evaluate.KEY=VALUE …]

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

Exit codes: 0, done; 2, bad input; 74, the disk; 130 and 143, interrupted by SIGINT or SIGTERM:
rerun the command to start anew, with the earlier files untouched.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import jax

from genrec_jax.core.endings import RESUMABLE, run_command
from genrec_jax.core.errors import InputError
from genrec_jax.core.file_lock import locked
from genrec_jax.core.jax_settings import pin
from genrec_jax.core.progress import logging_to_console
from genrec_jax.data.datasets import cache_dir
from genrec_jax.evaluation.ensemble_run import RESULTS, mix_run
from genrec_jax.reporting.tables import mixed_table
from genrec_jax.runs.config_flags import run_config
from genrec_jax.runs.run_folder import RunFolder

log = logging.getLogger(__name__)


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m genrec_jax ensemble",
        description=(__doc__ or "").partition("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, type=Path, metavar="RUN")
    parser.add_argument("--chooser", type=Path, metavar="OTHER", help="chooses on validation")
    found, changes = parser.parse_known_args(argv[1:])
    for flag in changes:
        if not flag.startswith("--config.evaluate."):
            raise InputError(f"{flag}: not a flag, expected --config.evaluate.KEY=VALUE")
    config = run_config(["ensemble", f"--workdir={found.workdir}", *changes])
    with locked(found.workdir / "mix.lock", f"--workdir={found.workdir}"):
        chooser = RunFolder(found.chooser) if found.chooser else None
        result = mix_run(config, RunFolder(found.workdir), chooser)
    log.info("\n%s\nwrote %s", mixed_table(result), found.workdir / RESULTS)


@logging_to_console()
def main(argv: Sequence[str]) -> int:
    pin()
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    return run_command(lambda: run(argv), RESUMABLE)

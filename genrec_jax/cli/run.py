"""Train, evaluate or serve GenRec: python -m genrec_jax.main --config=configs/NAME.py[:variant]

  --mode=train      pretrain, finetune and test; rerun the command to resume a run
  --mode=evaluate   rank a split with a run's checkpoint and print its metrics
  --mode=audit      say whether the numbering of a config leaks the test items; nothing is trained
  --mode=recommend  write top-k lists for all users, or for a file of histories

On several hosts the same command runs on each, and adds who it is: --coordinator=HOST:PORT (where
process 0 listens), --processes=N, --process=I; or --distributed, where SLURM, Open MPI or
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID say so. --workdir is on a shared disk.

A file of configs/ that the working folder does not have is the one shipped with genrec_jax.
Every key of the config is a flag: --config.finetune.epochs=5. genrec_jax/runs/config.py says what
each means. A command that fails ends in one line. Exit codes:

  0    done                                  74   the disk: full, read-only or failing
  1    a fault of the program: a traceback   75   stopped by SIGTERM or SIGINT; training has saved,
  2    bad input, the workdir is taken, or        rerun the command to resume
       too little memory on the device
  3    loss or parameters not finite         130, 143   ended at once by SIGINT, SIGTERM
"""

import logging
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from genrec_jax.core import processes
from genrec_jax.core.endings import RESUMABLE, run_command
from genrec_jax.core.errors import InputError
from genrec_jax.core.jax_settings import pin
from genrec_jax.core.progress import logging_to_console
from genrec_jax.data.datasets import cache_dir
from genrec_jax.evaluation.audit import audit
from genrec_jax.evaluation.evaluate import evaluate
from genrec_jax.reporting.run_report import report_run
from genrec_jax.reporting.tables import audit_text, result_table
from genrec_jax.runs.config import Config
from genrec_jax.runs.config_flags import check_keys, define_config, parse
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.serving.bulk import recommend
from genrec_jax.training.train import train

log = logging.getLogger(__name__)

MODES = "train (default), evaluate, recommend or audit."
SPLITS = ("test", "validation")
NOT_FOR = {
    "train": ("step", "split", "histories", "output"),
    "evaluate": ("histories", "output"),
    "recommend": ("split",),
    "audit": ("step", "split", "histories", "output", "distributed", "coordinator"),
}

FLAGS: tuple[tuple[Any, str, Any, str], ...] = (
    (flags.DEFINE_string, "workdir", None, "The run's folder; default runs/NAME[_variant]."),
    (flags.DEFINE_integer, "step", None, "The checkpoint to restore; default the best."),
    (flags.DEFINE_string, "histories", None, "recommend: 'user item item …' or JSON lines."),
    (flags.DEFINE_string, "output", None, "recommend: the file to write; default in the run."),
    (flags.DEFINE_string, "coordinator", None, "HOST:PORT where process 0 of several listens."),
    (flags.DEFINE_integer, "processes", None, "How many processes there are."),
    (flags.DEFINE_integer, "process", None, "Which of them this is, from 0."),
    (flags.DEFINE_boolean, "distributed", False, "The same three, found in the environment."),
    (flags.DEFINE_boolean, "help", False, "Show this help."),
)


def define_flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    define_config(values, argv)
    for define, name, default, text in FLAGS:
        define(name, default, text, flag_values=values)
    flags.DEFINE_enum("mode", "train", tuple(NOT_FOR), MODES, flag_values=values)
    flags.DEFINE_enum("split", "test", SPLITS, "evaluate: test (default) or validation.", values)
    return values


def run(argv: list[str]) -> None:
    check_keys(argv, Config())
    values = define_flags(argv)
    config = parse(values, argv, Config.from_dict)
    for name in NOT_FOR[values.mode]:
        if values[name].present:
            raise InputError(f"--{name}: is not for --mode={values.mode}")
    if values.help:
        print(__doc__)
        for name in ("config", "workdir", "mode", *(name for _, name, *_ in FLAGS[1:-1])):
            print(f"  --{name:11} {values[name].help}")
        return
    if config is None:
        raise InputError("--config: found none, expected --config=configs/NAME.py[:variant]")
    if values.mode == "audit":
        log.info("%s", audit_text(audit(config)))
        return
    join_others(values, config)
    folder = RunFolder(Path(values.workdir) if values.workdir else default_workdir(values))
    if values.mode == "train":
        train(config, folder, report_run)
        return
    folder.read_config()  # there must be a run
    folder.check_usable(config, ignored=("config.evaluate", "config.model_parallel"))
    if values.mode == "evaluate":
        result = evaluate(config, folder, values.split, values.step)
        log.info("\n%s", result_table(result))
    else:
        histories, output = (values[name].value for name in ("histories", "output"))
        recommend(
            config,
            folder,
            values.step,
            None if histories is None else Path(histories),
            None if output is None else Path(output),
        )


def join_others(values: flags.FlagValues, config: Config) -> None:
    """Become one of several processes, if the flags say so."""
    told = {name: values[name].value for name in ("coordinator", "processes", "process")}
    missing = [f"--{name}" for name, value in told.items() if value is None]
    if values.distributed:
        if len(missing) < len(told):
            raise InputError("--distributed: found --coordinator, --processes or --process beside")
    elif len(missing) == len(told):
        return
    elif missing:
        raise InputError(f"{' and '.join(missing)}: missing, expected all of {', '.join(told)}")
    elif not is_address(values.coordinator):
        raise InputError(
            f"--coordinator: found {values.coordinator!r}, expected HOST:PORT with a port from 1 "
            "to 65535, as in localhost:29500"
        )
    elif values.process not in range(values.processes):
        raise InputError(
            f"--process: found {values.process}, expected a number from 0 to below "
            f"--processes={values.processes}"
        )
    processes.join(*told.values())
    if not processes.is_first():
        logging.getLogger("genrec_jax").setLevel(logging.ERROR)
    processes.check_same(config.to_json(), "config")


def is_address(text: str) -> bool:
    match = re.fullmatch(r"[^\s:]+:(\d{1,5})|\[[^\s\]]+\]:(\d{1,5})", text)
    return match is not None and 0 < int(match[1] or match[2]) < 2**16


def default_workdir(values: flags.FlagValues) -> Path:
    """configs/beauty.py:small → runs/beauty_small."""
    path, _, variant = config_flags.get_config_filename(values["config"]).partition(":")
    return Path("runs") / "_".join([Path(path).stem, *variant.split()])


def report_unless_abandoned(report: Callable[[Any], object], unraisable: Any) -> None:
    """Report an exception that no code can catch, unless it is about an abandoned write.

    When one array of a checkpoint cannot be written, orbax gives up the others and closes their
    event loop; tensorstore still reports each of them there later, from threads of its own.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)


@logging_to_console()
def main(argv: list[str]) -> int:
    pin()
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # Each of orbax's and tensorstore's threads reports a full disk by itself; what counts comes as
    # an exception.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.unraisablehook = partial(report_unless_abandoned, sys.unraisablehook)
    return run_command(lambda: run(argv), RESUMABLE, processes.is_to_be_told)

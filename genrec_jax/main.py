"""Train, evaluate or serve GenRec: python -m genrec_jax.main --config=configs/NAME.py[:variant]

  --mode=train      pretrain, finetune and test; the same command goes on with a run cut short
  --mode=evaluate   rank a split with a run's checkpoint and print its metrics
  --mode=recommend  write top-k lists for all users, or for a file of histories

Every key of the config is a flag: --config.finetune.epochs=5. genrec_jax/config.py says what each
means. Bad input is told in one line, with exit code 2.
"""

import logging
import re
import sys
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from genrec_jax.config import Config, check_key
from genrec_jax.data.datasets import cache_dir
from genrec_jax.errors import InputError
from genrec_jax.evaluate import evaluate
from genrec_jax.progress import ConsoleHandler
from genrec_jax.recommend import recommend
from genrec_jax.run_folder import RunFolder
from genrec_jax.train import train


def define_flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "The config file.", flag_values=values, sys_argv=argv
    )
    for define, name, default, text in (
        (flags.DEFINE_string, "workdir", None, "The run's folder; default: runs/NAME[_variant]."),
        (flags.DEFINE_integer, "step", None, "Checkpoint to restore; default: the best."),
        (flags.DEFINE_string, "histories", None, "recommend: a file of 'user item item …' lines."),
        (flags.DEFINE_string, "output", None, "recommend: the file to write."),
    ):
        define(name, default, text, flag_values=values)
    modes = ("train", "evaluate", "recommend")
    flags.DEFINE_enum("mode", "train", modes, "What to do.", flag_values=values)
    splits = ("test", "validation")
    flags.DEFINE_enum("split", "test", splits, "evaluate: what to rank.", flag_values=values)
    flags.DEFINE_boolean("help", False, "Show this help.", flag_values=values)
    return values


def read_config(values: flags.FlagValues, argv: list[str]) -> Config | None:
    """The config file with its overrides; None where no --config is given."""
    for argument in argv:
        if match := re.match(r"--?(config\.[^=]*)", argument):
            check_key(match[1])
    try:
        rest = values(argv)
        config = None if values.config is None else Config.from_dict(values.config.to_dict())
    except InputError:
        raise
    except (flags.Error, OSError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(" ".join(str(error).split())) from None
    if len(rest) > 1:
        raise InputError(f"{rest[1]}: not a flag, expected --name=value")
    return config


def run(argv: list[str]) -> None:
    values = define_flags(argv)
    config = read_config(values, argv)
    if values.help:
        print(f"{__doc__}\n{values.main_module_help() or values.get_help()}")
        return
    if values.workdir is None and config is None:
        raise InputError("--config: found none, expected --config=configs/NAME.py (or --workdir)")
    name = Path(re.sub(r"\.py:?", "_", values["config"].config_filename or "")).name.strip("_")
    folder = RunFolder(Path(values.workdir or Path("runs") / name))
    if values.mode == "train":
        if config is None:
            raise InputError("--config: found none, expected --config=configs/NAME.py to train")
        train(config, folder)
        return
    if config is not None:
        folder.check_usable(config, ignored=("config.evaluate",))
    config = config or folder.read_config()
    if values.mode == "evaluate":
        evaluate(config, folder, values.split, values.step)
    else:
        histories, output = (values[name].value for name in ("histories", "output"))
        recommend(
            config,
            folder,
            values.step,
            histories and Path(histories),
            output and Path(output),
        )


def main(argv: list[str]) -> int:
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    log = logging.getLogger("genrec_jax")
    log.setLevel(logging.INFO)
    log.propagate = False
    console = ConsoleHandler()
    log.addHandler(console)
    try:
        run(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    finally:
        log.removeHandler(console)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

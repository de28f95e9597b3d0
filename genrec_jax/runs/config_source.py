"""Where commands read a run's config from: a config file or the run's directory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from genrec_jax.core.config_flags import ConfigSource, parse_config
from genrec_jax.core.flags import Flag
from genrec_jax.models import FAMILIES
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.config import check_keys, config_from_dict, default_config
from genrec_jax.runs.stored_config import read_config

FILE = "configs/NAME.py[:variant]"


def stored_config(workdir: Path) -> Mapping[str, Any]:
    """Read the config of a run from its directory.

    Raises:
        InputError: the directory does not contain a run.
    """
    return read_config(workdir).to_dict()


DEFAULTS = {family: default_config(family) for family in FAMILIES}
FIXED = {
    "config.model.family": "a config file of another family, such as "
    + ", ".join(f"--config={one.file} for {name}" for name, one in DEFAULTS.items() if one.file)
}
NEW_RUN = ConfigSource(
    config_from_dict,
    list(DEFAULTS.values()),
    FILE,
    stored_config,
    fixed=FIXED,
    check_keys=check_keys,
)
# Recommending allows a top_k below 10, because nothing is evaluated.
RECOMMENDED_RUN = replace(NEW_RUN, build=partial(config_from_dict, is_measured=False))
# An existing run: only the keys of `evaluate` may be changed.
STORED_RUN = ConfigSource(
    config_from_dict,
    list(DEFAULTS.values()),
    stored=stored_config,
    group="evaluate",
    check_keys=check_keys,
)


def run_config(argv: Sequence[str]) -> RunConfig:
    """Parse the config of a run from command-line arguments.

    Args:
        argv: the program name, then only --config, --workdir and --config.KEY flags.

    Raises:
        InputError: a flag or a config value is invalid.
    """
    return parse_config(argv, NEW_RUN, [Flag("workdir", "", Path)]).config

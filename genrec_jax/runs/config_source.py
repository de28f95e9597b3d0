"""The config of a run on the command line: from a file, or from the run's directory."""

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
    """The config in a run's directory. Raises InputError if the directory holds no run."""
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
# A run that recommends, where short lists are fine.
RECOMMENDED_RUN = replace(NEW_RUN, build=partial(config_from_dict, is_measured=False))
# A run that exists, of which only how it ranks may be changed.
STORED_RUN = ConfigSource(
    config_from_dict,
    list(DEFAULTS.values()),
    stored=stored_config,
    group="evaluate",
    check_keys=check_keys,
)


def run_config(argv: Sequence[str]) -> RunConfig:
    """The config of a run from --config, --workdir and --config.KEY flags alone.

    Raises:
        InputError: as of `parse_config`.
    """
    return parse_config(argv, NEW_RUN, [Flag("workdir", "", Path)]).config

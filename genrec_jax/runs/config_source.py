"""The config of a run on the command line: from a file, or from the run's directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genrec_jax.core.config_flags import ConfigSource, parse_config
from genrec_jax.core.flags import Flag
from genrec_jax.models import FAMILIES
from genrec_jax.runs.config import Config
from genrec_jax.runs.stored_config import read_config

FILE = "configs/NAME.py[:variant]"


def stored_config(workdir: Path) -> Mapping[str, Any]:
    """The config in a run's directory. Raises InputError if the directory holds no run."""
    return read_config(workdir).to_dict()


VARIANTS = {f"the family {family}": Config.of_family(family) for family in FAMILIES}
FIXED = {
    "config.model.family": "a config file of that family, as --config=configs/NAME.py for genrec, "
    "configs/NAME.py:best for code_genrec, configs/sasrec.py for sasrec"
}
NEW_RUN = ConfigSource(Config(), FILE, stored_config, variants=VARIANTS, fixed=FIXED)
# A run that exists, of which only how it ranks may be changed.
STORED_RUN = ConfigSource(Config(), stored=stored_config, group="evaluate")


def run_config(argv: Sequence[str]) -> Config:
    """The config of a run from --config, --workdir and --config.KEY flags alone.

    Raises:
        InputError: as of `parse_config`.
    """
    return parse_config(argv, NEW_RUN, [Flag("workdir", "", Path)]).config

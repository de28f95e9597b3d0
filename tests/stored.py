"""Files of a run directory as tests write them: the record of run.json goes with them."""

import json
from pathlib import Path
from typing import Any

from genrec_jax.runs.run_format import CONFIG, MODEL, RECORD, make_record


def sign(run: Path) -> None:
    """Write the run.json of the config.json and the model.json that are there, or of none."""
    found = [read(run / name) for name in (CONFIG, MODEL)]
    (run / RECORD).write_text(json.dumps(make_record(*found)))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def change_config(run: Path, **changes: Any) -> None:
    """Change keys of a run's config, `group__key=value`, as if it had been created so."""
    config = read(run / CONFIG)
    for name, value in changes.items():
        *groups, key = name.split("__")
        values = config
        for group in groups:
            values = values[group]
        values[key] = value
    (run / CONFIG).write_text(json.dumps(config))
    sign(run)

#!/usr/bin/env bash
# From a fresh clone to a trained recommender: creates .venv, installs the package, trains
# configs/quickstart.py on the synthetic dataset and prints the model's metrics beside those of
# popularity and the best possible recommender. Arguments are passed to the training command, e.g.
# launch/quickstart.sh --workdir=/tmp/try --config.seed=1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

launch/venv.sh
exec .venv/bin/python -m genrec_jax.main --config=configs/quickstart.py "$@"

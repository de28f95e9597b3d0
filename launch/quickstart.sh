#!/usr/bin/env bash
# From nothing to a trained recommender: makes .venv, installs, trains configs/quickstart.py on the
# synthetic dataset and prints the model beside popularity and the best possible recommender.
# Arguments go on to the command, e.g. launch/quickstart.sh --workdir=/tmp/try --config.seed=1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

launch/venv.sh
exec .venv/bin/python -m genrec_jax.main --config=configs/quickstart.py "$@"

#!/usr/bin/env bash
# Creates .venv if necessary, installs the test extra, runs the linter and the tests.
#   launch/test.sh               all but the slow tests, in parallel on up to four cores
#   launch/test.sh -m slow       only the slow tests, which take minutes each
#   launch/test.sh tests/models  any arguments of pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

launch/venv.sh test
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
# loadfile keeps the tests of a file on one worker, since they share runs.
[[ $# -gt 0 ]] || set -- -m "not slow" --numprocesses=auto --maxprocesses=4 --dist=loadfile \
  --no-loadscope-reorder
exec .venv/bin/python -m pytest "$@"

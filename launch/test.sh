#!/usr/bin/env bash
# Makes .venv if need be, installs the test extra, checks the style and runs the tests.
#   launch/test.sh               all but the slow ones, side by side on as many as four cores
#   launch/test.sh -m slow       only those, minutes each
#   launch/test.sh tests/models  what pytest takes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

launch/venv.sh test
.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
# Files stay whole: their tests share runs.
[[ $# -gt 0 ]] || set -- -m "not slow" --numprocesses=auto --maxprocesses=4 --dist=loadfile \
  --no-loadscope-reorder
exec .venv/bin/python -m pytest "$@"

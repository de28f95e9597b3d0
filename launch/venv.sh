#!/usr/bin/env bash
# Creates .venv and installs genrec_jax into it, optionally with an extra: launch/venv.sh [test]
# Does nothing if that is done already and requirements.txt and pyproject.toml are unchanged.
# PYTHON is the interpreter to use (default: python3; 3.11 or newer).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extra="${1:-}"
python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: found $("$python" --version 2>&1), expected Python 3.11 or newer; set PYTHON" >&2
  exit 2
fi

stamp=".venv/.installed${extra:+-$extra}"
wanted="$(cat requirements.txt pyproject.toml | cksum)"
if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
  exit 0
fi

if [[ ! -x .venv/bin/python ]]; then
  echo "creating .venv"
  "$python" -m venv .venv
fi
echo "installing genrec_jax${extra:+ with its $extra extra} (about a minute)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
echo "$wanted" > "$stamp"

#!/usr/bin/env bash
# Makes .venv and installs genrec_jax into it, with an extra if one is named: launch/venv.sh [test]
# Does nothing where that has been done and neither requirements.txt nor pyproject.toml has changed.
# PYTHON names the interpreter to build on (default: python3; 3.11 or newer).
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
  echo "making .venv"
  "$python" -m venv .venv
fi
echo "installing genrec_jax${extra:+ with its $extra extra} (about a minute)"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
echo "$wanted" > "$stamp"

#!/usr/bin/env bash
# Runs the benchmarks of docs/speed.md one after the other: a training step and decoding, each
# compared with PyTorch, and a soak test of ten thousand steps. Takes half an hour on 2 cores.
#   launch/benchmark.sh                  all benchmarks
#   launch/benchmark.sh decode --all     one benchmark, with its flags
# Beauty's sequences and BART's tokenizer are read from GENREC_DATA_DIR and GENREC_BART_DIR, or
# downloaded.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

launch/venv.sh test
if [[ $# -gt 0 ]]; then
  exec .venv/bin/python -m genrec_jax benchmark "$@"
fi
for name in train-step decode soak; do
  echo "== $name"
  .venv/bin/python -m genrec_jax benchmark "$name"
done

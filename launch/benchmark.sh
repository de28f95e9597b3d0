#!/usr/bin/env bash
# The measurements that the README quotes, one after the other: a training step and decoding, each
# beside PyTorch, and ten thousand steps in a row. Half an hour on 2 cores.
#   launch/benchmark.sh                  all
#   launch/benchmark.sh decode --all     one of them, with its flags
# Beauty's sequences and BART's tokenizer come from GENREC_DATA_DIR and GENREC_BART_DIR, or are
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

"""Train, evaluate, recommend or audit: `python -m genrec_jax.main --config=configs/NAME.py`.

The same as `python -m genrec_jax train`, `evaluate`, `recommend` and `audit`, by --mode.
"""

import sys

from genrec_jax.cli.launch import by_mode as main

if __name__ == "__main__":
    sys.exit(main(sys.argv))

"""Train, evaluate, audit or recommend: `python -m genrec_jax.main --config=configs/NAME.py`.

`--help` says more; genrec_jax/cli/run.py is the command.
"""

import sys

from genrec_jax.cli.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))

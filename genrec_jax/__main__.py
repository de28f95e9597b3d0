"""`python -m genrec_jax COMMAND`: one file a command, in genrec_jax/cli/."""

import sys

from genrec_jax.cli.launch import by_name as main

if __name__ == "__main__":
    sys.exit(main(sys.argv))

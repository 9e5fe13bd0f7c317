"""``python -m rocketry_otel``: the command line."""

import sys

from ._cli.main import main

# Children that multiprocessing spawns import this module under another name.
if __name__ == "__main__":
    sys.exit(main())

"""`python -m raydistill` is `raydistill`."""

import sys

from raydistill.entry import start

if __name__ == "__main__":
    sys.exit(start())

"""Thin door to `raydistill tune`: works from a checkout and as a submitted Ray job."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raydistill.entry import start

if __name__ == "__main__":
    sys.exit(start("tune"))

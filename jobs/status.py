"""Thin door to `raydistill status`: how far a run is."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raydistill.entry import start

if __name__ == "__main__":
    sys.exit(start("status"))

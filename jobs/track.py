"""Thin door to `raydistill track`: what a run keeps for MLflow goes to a server."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raydistill.entry import start

if __name__ == "__main__":
    sys.exit(start("track"))

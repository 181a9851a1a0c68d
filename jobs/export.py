"""Thin door to `raydistill export`: the product of a run in a format that other tools read."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raydistill.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))

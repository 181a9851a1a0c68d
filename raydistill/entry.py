"""Where jobs/ and the console script begin: signals are watched before anything that takes long is imported."""

from __future__ import annotations

import sys

from raydistill import signals


def start(*verb: str) -> int:
    """Runs the command line, whose first word is `verb` if one is given. Returns the exit code."""
    signals.watch()
    try:
        from raydistill.cli import main

        return main([*verb, *sys.argv[1:]])
    finally:
        signals.settle()

"""Where jobs/ and the console script begin: signals are watched before anything that takes long is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable

from raydistill import signals


def start(*verb: str) -> int:
    """Runs the command line, whose first word is `verb` if one is given. Returns the exit code."""

    def command_line() -> int:
        from raydistill.cli import main

        return main([*verb, *sys.argv[1:]])

    return program(command_line)


def program(main: Callable[[], int]) -> int:
    """Runs a program that may be ended at any moment and run again. Returns its exit code, if no signal came."""
    signals.watch()
    try:
        return main()
    finally:
        signals.settle()

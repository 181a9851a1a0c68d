"""The command lines of modules that make checkpoints: `python -m raydistill.models.convert` and its like."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from raydistill.errors import BadInput, RaydistillError, one_line
from raydistill.redact import redact


class ToolParser(argparse.ArgumentParser):
    """Of the module `name` of this package; what cannot be parsed is BadInput."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(prog=f"python -m raydistill.models.{name}", description=description, allow_abbrev=False)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise BadInput(f"{message} (see --help)")

    def carry(self, argv: Sequence[str] | None, work: Callable[[argparse.Namespace], Path]) -> int:
        """Does the work, which returns what it wrote, and prints that.

        Exit code: 0, 1 (could not be written) or 2 (bad input, nothing written).
        """
        try:
            written = work(self.parse_args(argv))
        except RaydistillError as e:
            print(f"error: {one_line(e)}", file=sys.stderr)
            return e.exit_code
        print(redact(str(written)))
        return 0

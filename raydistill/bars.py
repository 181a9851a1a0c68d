"""The lowest lines of a terminal: a bar of the stage that goes on, and below it one of the run as a whole."""

from __future__ import annotations

import shutil
import sys
import threading

from tqdm import tqdm

BAR = 16  # columns
ROWS = 3  # that every terminal has: tqdm shows nothing on one that says it has none


class _Line(tqdm):
    """Drawn when it is told to, and by no thread of tqdm's."""

    monitor_interval = 0

    def __init__(self, position: int, leave: bool) -> None:
        super().__init__(
            total=1.0, position=position, leave=leave, file=sys.stderr, bar_format="{desc}", delay=1e-9, nrows=ROWS
        )

    def draw(self, name: str, share: float, text: str) -> None:
        name, text = (part.replace("{", "{{").replace("}", "}}") for part in (name, text))
        self.ncols = shutil.get_terminal_size().columns - 1  # behind a full line the cursor is on the next one
        self.bar_format = f"{name:<13} {{bar:{BAR}}} {text}"
        self.n = min(1.0, max(0.0, share))
        self.refresh()


_Line.set_lock(threading.RLock())


class Bars:
    """Of one stage, until `close`: its line stays, and that of the run goes. tqdm moves the cursor."""

    def __init__(self) -> None:
        self.stage, self._whole = _Line(0, leave=True), list[_Line]()

    @property
    def whole(self) -> _Line:
        """Of the run, from when it is first asked for."""
        self._whole = self._whole or [_Line(1, leave=False)]
        return self._whole[0]

    def write(self, line: str) -> None:
        """A line above."""
        _Line.write(line, file=sys.stderr)

    def close(self) -> None:
        for bar in (*self._whole, self.stage):
            bar.close()

"""What has become of the tries at the units of one stage: how long they took, which are late, which failed and why.

A unit's bytes do not depend on who computes it. So one that takes much longer than others did may be tried a second
time meanwhile: the first commit stands, and the other, if it comes, is the same.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

from raydistill.distributed.failures import again, last_line
from raydistill.errors import StageFailed, first_of
from raydistill.progress import Retried, say, tell

ATTEMPTS = 3
MOST_FAILED = 5  # units that failed so often; then the others are not tried any more
SLOW_TIMES, SLOW_S = 3.0, 30.0  # a straggler takes so many times the median of its stage, and at least so long
SHOWN = 3  # units that the line names


@dataclass(frozen=True)
class Failure:
    """A try at a unit that came to nothing; `node` is empty where it is not known."""

    node: str
    why: str

    def __str__(self) -> str:
        return f"{self.why} on {self.node}" if self.node else self.why


class Attempts:
    """`units` in all; `seconds` of those that are done, `failures` by key."""

    def __init__(self, stage: str, units: int) -> None:
        self.stage, self.units = stage, units
        self.seconds: list[float] = []
        self.failures: defaultdict[str, list[Failure]] = defaultdict(list)

    def done(self, key: str, seconds: float) -> None:
        self.seconds.append(seconds)
        self.failures.pop(key, None)

    def fail(self, key: str, node: str, e: Exception) -> None:
        """Notes a try that came to nothing, and says so if it is not the last."""
        failure = Failure(node, last_line(e))
        self.failures[key].append(failure)
        if self.again(key):
            say(self.stage, f"{key}: {failure}; it is tried again")
            tell(Retried(self.stage, key, str(failure)))

    def give_up(self, key: str, e: Exception) -> None:
        """Notes that all tries came to the same."""
        self.failures[key] = [Failure("", last_line(e))] * ATTEMPTS

    def slow(self, seconds: float) -> bool:
        """Whether a unit that runs for so long is a straggler; none is before another one is done."""
        return bool(self.seconds) and seconds > max(SLOW_S, SLOW_TIMES * statistics.median(self.seconds))

    def avoided(self, key: str) -> set[str]:
        """The nodes on which a unit failed."""
        return {failure.node for failure in self.failures[key]} - {""} if key in self.failures else set()

    def again(self, key: str) -> bool:
        """Whether a unit that failed is to be tried once more."""
        return len(self.failures[key]) < ATTEMPTS

    def given_up(self) -> list[str]:
        return sorted(key for key in self.failures if not self.again(key))

    def over(self) -> bool:
        """Whether the stage ends here: many units fail, or the first one does before anything was done at all."""
        return len(self.given_up()) >= (MOST_FAILED if self.seconds else 1)

    def error(self) -> StageFailed:
        """Names the units that were given up; every try at them is a note, and so in the traceback."""
        keys = self.given_up()
        shown = first_of([f"{key} ({self.failures[key][-1]})" for key in keys], SHOWN)
        why = [failure.why for key in keys for failure in self.failures[key]]
        error = StageFailed(
            f"{self.stage}: {len(keys)} of {self.units} units failed {ATTEMPTS} times each: {shown}; what "
            f"happened each time is in logs/error.txt; {again(self.stage, why)}"
        )
        for key in keys:
            for number, failure in enumerate(self.failures[key], 1):
                error.add_note(f"{self.stage}: {key}, try {number}: {failure}")
        return error

"""How numbers read on the page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from raydistill.errors import escaped, printable
from raydistill.redact import redact


def aligned(head: str, rows: Sequence[tuple[str, str]]) -> str:
    """Lines for a terminal: a head, and below it names and their texts in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join([head, *(f"  {printable(name):<{width}}  {printable(text)}" for name, text in rows)])


def count(value: int) -> str:
    """5000 -> '5,000'."""
    return f"{value:,}"


def percent(fraction: float) -> str:
    """0.5214 -> '52.1', without the sign; '–' if it is not a number."""
    return f"{100 * fraction:.1f}" if math.isfinite(fraction) else "–"


def spread(mean: float, std: float | None) -> str:
    """'52.1 ± 0.8'; one training has no spread (None), so none is shown."""
    if std is None or not math.isfinite(mean) or not math.isfinite(std):
        return percent(mean)
    return f"{percent(mean)} ± {deviation(100 * std)}"


def deviation(points: float) -> str:
    """A standard deviation in percent points: '0.8', '0.04' where a tenth would hide it, '0' where nothing differs."""
    tenths = f"{points:.1f}"
    return tenths if tenths != "0.0" else f"{round(points, 4):.1g}"


def number(value: float) -> str:
    """Three significant digits, without an exponent where it can be avoided."""
    if not math.isfinite(value):
        return "–"
    return minus(f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}")


def minus(words: str) -> str:
    """A true minus for the hyphen that stands before a number, in '-1.3 points [-4.5, 1.9]'."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", words)


def duration(seconds: float) -> str:
    """0.42 -> '0.42 s', 93 -> '1 min 33 s', 7380 -> '2 h 3 min'."""
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def rate(per_second: float | None, unit: str) -> str:
    """'12.5 images/s'; slow ones are turned over: '4.2 s each'. '–' if there is none."""
    if per_second is None or not per_second > 0:
        return "–"
    if per_second < 0.5:
        return f"{duration(1 / per_second)} each"
    return f"{number(per_second)} {unit}/s"


def plural(value: int, one: str, many: str | None = None) -> str:
    """'1 class', '10 classes'."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def printable_lines(text: str) -> str:
    """The text with all but its line ends made printable, and without secrets, whatever the names in it hold."""
    return "\n".join(map(escaped, redact(text).split("\n")))

"""Ramps from 0 to 1: how a radius narrows and how a weight grows along the guided window."""

from __future__ import annotations

import math

from raydistill.diffusion.schedule import Step, Window


def ramp(kind: str, p: float) -> float:
    """s(p) for p in [0, 1] (clipped): linear p, cosine (1 + cos(pi (1 - p))) / 2, exponential (e^p - 1) / (e - 1)."""
    p = min(max(p, 0.0), 1.0)
    if kind == "linear":
        return p
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (1 - p)))
    if kind == "exponential":
        return math.expm1(p) / math.expm1(1.0)
    raise ValueError(f"unknown ramp {kind!r}")


def radius(kind: str, base: float, growth: float, share: float, window: Window, step: Step) -> float:
    """Radius at a step: base x growth at the noisiest step, base after `share` of all steps (ManifoldGD's release).

    r = base (1 + (growth - 1) s(p)), p = (i - cut) / (n - 1 - cut), cut = max(last step before the window, n - 1 -
    share n), for indices i that count down.
    """
    top = step.count - 1
    cut = max(math.floor(window.stop * step.count + 1e-9), top - share * step.count)
    if kind == "constant" or step.index <= cut or top <= cut:
        return base
    return base * (1 + (growth - 1) * ramp(kind, (step.index - cut) / (top - cut)))


def weight(kind: str, final: float, window: Window, step: Step) -> float:
    """A weight that grows from 0 where the window opens to `final` where it shuts; constant = `final` throughout."""
    if kind == "constant":
        return final
    first = min(window.start, (step.count - 1) / step.count)
    return final * ramp(kind, (first - step.fraction) / max(first - window.stop, 1e-9))

"""Noise schedules and the steps that a sampler takes through them.

x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. Steps are indexed 0 (image) .. n-1 (noise) and run downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from raydistill.diffusion.start import NOISE, Start
from raydistill.errors import BadInput


class Placed(Protocol):
    """What steps of diffusion and of flows have in common: an index and a share of the noise path that count down."""

    @property
    def index(self) -> int: ...

    @property
    def fraction(self) -> float: ...


class Opening(Protocol):
    """Where guidance acts."""

    def active(self, step: Placed) -> bool: ...


@dataclass(frozen=True)
class Step:
    """One denoising step from x_t to x_{t-1} of the respaced process. All numbers are Python floats (float64)."""

    index: int  # 0 .. n-1, counts down while sampling
    fraction: float  # index / n; windows are given in it (1 = pure noise)
    t: int  # training time step that the network is told
    alpha_bar: float
    alpha_bar_prev: float  # of the next cleaner step, 1 at the last or what the scheduler ends at
    count: int  # n

    @property
    def beta(self) -> float:
        return 1.0 - self.alpha_bar / self.alpha_bar_prev

    @property
    def posterior_variance(self) -> float:
        """beta_tilde = beta (1 - alpha_bar_prev) / (1 - alpha_bar) (Ho et al. 2020, eq. 7)."""
        return self.beta * (1.0 - self.alpha_bar_prev) / (1.0 - self.alpha_bar)


def alphas_bar(scheduler: dict[str, Any]) -> np.ndarray:
    """alpha_bar (T,) float64 from a diffusers scheduler_config. Raises BadInput on a schedule it does not know."""
    steps: Any = scheduler.get("num_train_timesteps", 1000)
    kind = scheduler.get("beta_schedule")
    trained = scheduler.get("trained_betas")
    low: Any = scheduler.get("beta_start")
    high: Any = scheduler.get("beta_end")
    if scheduler.get("rescale_betas_zero_snr"):
        raise BadInput("generator.path: rescale_betas_zero_snr is not supported by the samplers")
    try:
        if trained is not None:
            betas = np.asarray(trained, np.float64).reshape(-1)
        elif kind == "linear":
            betas = np.linspace(low, high, steps, dtype=np.float64)
        elif kind == "scaled_linear":
            betas = np.linspace(low**0.5, high**0.5, steps, dtype=np.float64) ** 2
        else:
            betas = np.zeros(0)
    except (TypeError, ValueError):
        betas = np.zeros(0)
    if not len(betas) or not ((betas > 0) & (betas < 1)).all():
        raise BadInput(
            f"generator.path: num_train_timesteps={steps!r} of beta_schedule {kind!r} with beta_start={low}, "
            f"beta_end={high} is not supported (linear, scaled_linear or trained_betas, each beta between 0 and 1)"
        )
    return np.cumprod(1.0 - betas)


def timesteps(grid: str, steps: int, train_steps: int, offset: int = 0) -> np.ndarray:
    """Training times (steps,) int64, ascending. Raises BadInput for more steps than there are times.

    `released` = `linspace`: evenly spread over [0, T-1] and rounded, DiT's respacing "50" and diffusers' linspace.
    `leading`: multiples of T // steps from `offset`, DiT's "ddim50" and diffusers' default.
    """
    if steps > train_steps:
        raise BadInput(f"sampler.steps={steps} is more than the generator's {train_steps} training steps")
    if grid == "leading":
        times = np.arange(steps, dtype=np.int64) * (train_steps // steps) + offset
        if times[-1] >= train_steps:
            raise BadInput(
                f"sampler.steps={steps} begin at t={times[-1]} by the scheduler's steps_offset={offset}, beyond the "
                f"generator's {train_steps} training steps; take fewer, or another sampler.grid"
            )
        return times
    if steps == 1:
        return np.array([train_steps - 1], np.int64)
    return np.linspace(0, train_steps - 1, steps).round().astype(np.int64)


def path(
    alpha_bar: np.ndarray, grid: str, steps: int, start: Start = NOISE, offset: int = 0, last: float = 1.0
) -> tuple[Step, ...]:
    """The steps in sampling order, noisiest first; those that a start leaves, counted among themselves.

    `offset` of the grid `leading`, and `last`, the alpha_bar at which the last step ends, are the scheduler's
    steps_offset, and 1 or by set_alpha_to_one=false the first alpha_bar. Raises as `timesteps` does.
    """
    times = timesteps(grid, steps, len(alpha_bar), offset)
    times = times[: start.steps(alpha_bar[times])]
    steps = len(times)
    previous = np.concatenate([[last], alpha_bar[times[:-1]]])
    ascending = [
        Step(i, i / steps, int(t), float(alpha_bar[t]), float(p), steps)
        for i, (t, p) in enumerate(zip(times, previous, strict=True))
    ]
    return tuple(reversed(ascending))


@dataclass(frozen=True)
class Window:
    """Where guidance acts: stop < fraction <= start, as fractions of the noise path (1 = pure noise), and of these
    steps at those whose index `every` divides."""

    start: float = 1.0
    stop: float = 0.0
    every: int = 1

    def active(self, step: Placed) -> bool:
        return self.stop < step.fraction <= self.start and step.index % self.every == 0

    def count(self, steps: int) -> int:
        """Active steps among `steps`."""
        return sum(self.stop < i / steps <= self.start for i in range(0, steps, self.every))


@dataclass(frozen=True)
class Windows:
    """Of several terms of guidance: open where any is."""

    each: tuple[Window, ...]

    def active(self, step: Placed) -> bool:
        return any(window.active(step) for window in self.each)

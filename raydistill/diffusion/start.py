"""Where trajectories begin: in pure noise, or part of the way from it to each slot's prototype."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Start:
    """`t0` is the share of the way from noise to image that is skipped, 0 <= t0 < 1; 0 = from pure noise.

    In flows x = t0 p + (1 - t0) noise at time t0. In diffusion the noisiest steps are left out, and x = sqrt(alpha_bar)
    p + sqrt(1 - alpha_bar) noise at the first that runs, as image-to-image pipelines begin at strength 1 - t0.

    `snr`, in place of t0, is the ratio alpha_bar / (1 - alpha_bar) of the level at which they begin: after the same
    share of its schedule one network has a tenth of the prototype where another has a third of it.
    """

    t0: float = 0.0
    snr: float | None = None

    @property
    def noised(self) -> bool:
        """Whether anything of the prototype is in the beginning."""
        return self.t0 > 0 or self.snr is not None

    @property
    def time(self) -> float:
        """The time of a flow, 0 = noise, at which they begin: (time / (1 - time))^2 = snr."""
        return self.t0 if self.snr is None else self.snr**0.5 / (1 + self.snr**0.5)

    def share(self, count: int) -> int:
        """How many of `count` denoising steps run, where t0 says so: whole ones, as those pipelines count, and one."""
        return max(1, int((1.0 - self.t0) * count + 1e-6))

    def steps(self, alpha_bar: np.ndarray) -> int:
        """How many of the denoising steps run: at least one. alpha_bar (n,) at these steps, cleanest first."""
        if self.snr is None:
            return self.share(len(alpha_bar))
        levels = np.log(alpha_bar) - np.log1p(-alpha_bar)
        return int(np.abs(levels - np.log(self.snr)).argmin()) + 1


NOISE = Start()


def mixed(noise: Tensor, prototype: Tensor, signal: float, noise_level: float, start: Start) -> Tensor:
    """x at the beginning, (B, C, h, w): noise_level noise + signal prototype; noise alone from pure noise."""
    return noise_level * noise + signal * prototype if start.noised else noise

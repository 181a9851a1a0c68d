"""Where trajectories begin: in pure noise, or part of the way from it to each slot's prototype."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Start:
    """`t0` is the share of the way from noise to image that is skipped, 0 <= t0 < 1; 0 = from pure noise.

    In flows x = t0 p + (1 - t0) noise at time t0. In diffusion the noisiest steps are left out, and x = sqrt(alpha_bar)
    p + sqrt(1 - alpha_bar) noise at the first that runs, as image-to-image pipelines begin at strength 1 - t0.
    """

    t0: float = 0.0

    def steps(self, count: int) -> int:
        """How many of `count` denoising steps run: at least one."""
        return max(1, round((1.0 - self.t0) * count))


NOISE = Start()


def mixed(noise: Tensor, prototype: Tensor, signal: float, noise_level: float, start: Start) -> Tensor:
    """x at the beginning, (B, C, h, w): noise_level noise + signal prototype; noise alone from pure noise."""
    return noise if start.t0 == 0 else noise_level * noise + signal * prototype

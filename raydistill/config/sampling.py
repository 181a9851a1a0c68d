"""The sections that say how images are sampled: the sampler, and each guidance with its own numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raydistill.config.base import Fraction, Section
from raydistill.config.search import Search

Space = Literal["mean", "epsilon", "velocity"]


class SamplerConfig(Section):
    """null = what the method prescribes."""

    name: Annotated[str | None, Field(description="ddpm | ddim, or as a flow: euler | heun | adaptive; null = own")] = (
        None
    )
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=1000,
            description="denoising steps, or intervals of a flow's time (heun: two calls each); null = own",
        ),
        Search(4, 100, log=True),
    ] = None
    grid: Annotated[
        Literal["released", "linspace", "leading"],
        Field(
            description=(
                "how steps are spread over training time: DiT's release, or diffusers' two "
                "(flow samplers of flow models: evenly over t)"
            )
        ),
    ] = "released"
    cfg_scale: Annotated[float, Field(ge=1, le=100, description="classifier-free guidance; 1 = off")] = 4.0
    cfg_channels: Annotated[
        Literal["all", "first3"],
        Field(description="channels that CFG acts on: all, or the first three as DiT's release does"),
    ] = "all"


class GuidanceConfig(Section):
    """Used by guided methods only. All but `form` is for guidance of diffusion; `path` has its own section."""

    scale: Annotated[
        float, Field(ge=0, le=1000, description="guidance_scale; 0 = unguided"), Search(0.005, 0.5, log=True)
    ] = 0.1
    form: Annotated[
        Space | None,
        Field(
            description=(
                "mean: DDPM form, shifts the posterior mean; epsilon: DDIM form, shifts the noise; "
                "velocity: of flows; null = own"
            )
        ),
    ] = None
    start: Annotated[
        Fraction,
        Field(
            description="window start as a fraction of the noise path, counted down from 1 = pure noise to 0 = image: "
            "the reverse of diffusers"
        ),
    ] = 1.0
    stop: Annotated[
        Fraction,
        Field(description="window stop, counted as start is: guidance acts while stop < fraction <= start"),
        Search(0.0, 0.9),
    ] = 0.5


class StartConfig(Section):
    """Where trajectories begin, for methods with prototypes: at each slot's prototype, noised. null = own."""

    strength: Annotated[
        float | None,
        Field(gt=0, le=1, description="share of the noise path that is run, from the prototype noised; 1 = pure noise"),
        Search(0.3, 1.0),
    ] = None
    snr: Annotated[
        float | None,
        Field(
            gt=0,
            le=1e6,
            description=(
                "instead, the ratio alpha_bar / (1 - alpha_bar) of the level; 0.0892 is D4M's strength 0.7 on Stable "
                "Diffusion's schedule"
            ),
        ),
    ] = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> StartConfig:
        if self.strength is not None and self.snr is not None:
            raise ValueError("start.strength and start.snr both say where trajectories begin; leave out one")
        return self


Ramp = Literal["constant", "linear", "cosine", "exponential"]


class ManifoldConfig(Section):
    """Used by guidance `manifold` (ManifoldGD). null = what the variant prescribes."""

    variant: Annotated[
        Literal["tangent_projection", "normal_correction"],
        Field(
            description=(
                "tangent_projection: the paper, the pull loses its part normal to the manifold; "
                "normal_correction: the release, a pull onto the plane is added"
            )
        ),
    ] = "tangent_projection"
    kernel: Annotated[
        Literal["rbf", "laplace", "imq"], Field(description="log-kernel whose gradient pulls to the prototype")
    ] = "rbf"
    kernel_width: Annotated[
        float, Field(gt=0, le=1e6, description="width of the kernel; rbf of width 1 pulls as mgd3 does")
    ] = 1.0
    neighbours: Annotated[
        int, Field(ge=2, le=4096, description="real latents of the class around each prototype (tangent_projection)")
    ] = 64
    nearest: Annotated[int, Field(ge=2, le=512, description="K: points nearest the sample that span the tangent")] = 12
    tangent_dim: Annotated[
        int, Field(ge=1, le=511, description="d: dimensions of the tangent, below K"), Search(1, 8)
    ] = 3
    noise: Annotated[
        Literal["estimate", "shared", "independent"],
        Field(description="how real latents are noised: by the network's own estimate, one draw, or a draw each"),
    ] = "estimate"
    radius: Annotated[
        float | None,
        Field(
            gt=0,
            le=1e6,
            description=(
                "of the neighbourhood: in units of the neighbours' median distance (own: 1), "
                "or of the release's cloud in latent units (own: 0.05)"
            ),
        ),
    ] = None
    radius_growth: Annotated[float, Field(ge=1, le=1000, description="the radius starts this many times as wide")] = 2.0
    radius_ramp: Annotated[Ramp, Field(description="how it narrows; constant = never wide")] = "exponential"
    radius_steps: Annotated[Fraction, Field(description="share of the steps over which it narrows")] = 0.1
    normal_weight: Annotated[
        Fraction, Field(description="share of the normal part that is removed in the end"), Search(0.0, 1.0)
    ] = 1.0
    normal_ramp: Annotated[
        Ramp, Field(description="how that share grows from 0 through the window; constant = at once")
    ] = "constant"
    renorm: Annotated[bool, Field(description="give the projected pull the length that it had before")] = False
    correction_scale: Annotated[
        float, Field(ge=0, le=1000, description="length of the pull onto the plane (normal_correction)")
    ] = 0.1
    bandwidth: Annotated[
        float, Field(gt=0, le=1e6, description="distance at which that pull saturates, as tanh (normal_correction)")
    ] = 0.2
    cloud: Annotated[
        int, Field(ge=4, le=100_000, description="synthetic points around each prototype (normal_correction)")
    ] = 300

    @model_validator(mode="after")
    def _a_tangent_has_room(self) -> ManifoldConfig:
        if self.tangent_dim >= self.nearest:
            raise ValueError(
                f"manifold.tangent_dim={self.tangent_dim} must be below manifold.nearest={self.nearest}: "
                "K points span K - 1 directions"
            )
        points = self.neighbours if self.variant == "tangent_projection" else self.cloud
        if self.nearest > points:
            which = "neighbours" if self.variant == "tangent_projection" else "cloud"
            raise ValueError(f"manifold.nearest={self.nearest} is more than manifold.{which}={points}")
        return self


class PathConfig(Section):
    """Used by guidance `path` (PGFM). Times run from 0 (noise) to 1 (image)."""

    w_max: Annotated[
        Fraction,
        Field(description="w_max: share of the way to the prototype that the predicted image is moved"),
        Search(0.05, 0.9),
    ] = 0.3
    t_stop: Annotated[Fraction, Field(description="guidance acts while t < t_stop"), Search(0.25, 1.0)] = 0.6
    power: Annotated[
        float, Field(ge=0, le=100, description="w(t) = w_max (1 - t / t_stop)^power; 0 = constant until t_stop")
    ] = 1.0
    t0: Annotated[
        Fraction,
        Field(description="warm start: begin at t0 from (1 - t0) noise + t0 prototype; 0 = from noise"),
        Search(0.0, 0.2),
    ] = 0.1
    tau: Annotated[
        float | None,
        Field(gt=0, le=1e6, description="trust region: the push is at most tau |v| per sample; null = none"),
    ] = 0.5
    rho: Annotated[
        float | None,
        Field(
            gt=0,
            le=1e6,
            description=(
                "trust region of the predicted image: it is moved by at most rho times the spread of its class "
                "(median distance of its latents to their mean); null = none"
            ),
        ),
    ] = None
    pairing: Annotated[
        Literal["optimal", "random"],
        Field(description="which slot's noise goes to which prototype: least total squared distance, or any"),
    ] = "optimal"

    @model_validator(mode="after")
    def _some_step_is_guided(self) -> PathConfig:
        if self.t_stop <= self.t0:
            raise ValueError(
                f"path.t_stop={self.t_stop} must be above path.t0={self.t0}, otherwise no step is guided; "
                "raise path.t_stop, or lower path.t0; for no guidance set path.w_max=0 and path.t0=0"
            )
        return self


class AdaptiveConfig(Section):
    """Used by sampler `adaptive`."""

    solver: Annotated[
        Literal["RK45", "DOP853"], Field(description="scipy's explicit Runge-Kutta methods of order 5 or 8")
    ] = "RK45"
    rtol: Annotated[float, Field(ge=1e-12, le=1, description="relative error a step of one sample")] = 1e-3
    atol: Annotated[float, Field(gt=0, le=1, description="absolute error a step of one sample")] = 1e-6
    calls: Annotated[
        int, Field(ge=20, le=10**6, description="network calls of a sample in one interval before it is given up")
    ] = 2000

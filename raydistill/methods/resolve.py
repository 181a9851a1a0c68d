"""What a configuration and its method come to, decided once: everything after reads a Variant and asks no registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raydistill import registry
from raydistill.clustering.hierarchy import leaves_needed
from raydistill.config import Config, GuidanceConfig, SamplerConfig, Section, Space, WeightsConfig
from raydistill.diffusion.schedule import Window
from raydistill.diffusion.start import NOISE, Start
from raydistill.errors import BadInput
from raydistill.guidance.base import Guidance
from raydistill.guidance.context import Context
from raydistill.methods.base import Method
from raydistill.methods.weighting import MODES
from raydistill.models.classifier import ClassifierSpec


@dataclass(frozen=True)
class GuidancePlan:
    """The guidance of a method with its numbers. `acts`: whether it does anything with them.

    `context` and `roles` are what it asks for if it acts; `networks` holds a classifier a role once they are found.
    """

    name: str
    kind: type[Guidance]
    space: Space
    numbers: GuidanceConfig
    own: Section | None
    acts: bool
    context: Mapping[str, Context]
    roles: tuple[str, ...] = ()
    networks: Mapping[str, ClassifierSpec] = field(default_factory=dict)

    @property
    def begins(self) -> Start:
        """Where it begins itself, if it acts."""
        return self.kind.start(self.own) if self.acts else NOISE

    @property
    def window(self) -> Window:
        """In which it acts, of the section that guidance of diffusion shares."""
        return Window(self.numbers.start, self.numbers.stop)

    def make(self) -> Guidance:
        return self.kind.make(self.numbers, self.space, self.own)

    def numbers_read(self) -> dict[str, Any]:
        """The numbers that it reads of section `guidance`, for fingerprints and provenance. Flows read the form."""
        read = self.numbers.model_dump()
        return {"form": self.space} if self.space == "velocity" else read


@dataclass(frozen=True)
class SamplingPlan:
    """How the images of a generating method come about. `sampler` has its name and its steps."""

    sampler: SamplerConfig
    kind: Any
    own: Section | None  # the sampler's
    start: Start
    guidance: GuidancePlan | None

    @property
    def flows(self) -> bool:
        """Whether a flow is walked, and not a diffusion."""
        return "velocity" in self.kind.spaces

    @property
    def steps(self) -> int:
        assert self.sampler.steps is not None, "resolved"
        return self.sampler.steps

    @property
    def acting(self) -> GuidancePlan | None:
        """The guidance if it does anything."""
        return self.guidance if self.guidance is not None and self.guidance.acts else None

    @property
    def context(self) -> Mapping[str, Context]:
        """What has to be seen of the real latents, by name."""
        return self.acting.context if self.acting else {}

    @property
    def roles(self) -> tuple[str, ...]:
        """The classifiers that guidance asks."""
        return self.acting.roles if self.acting else ()

    @property
    def networks(self) -> Mapping[str, ClassifierSpec]:
        """Those classifiers, by role, once they are found."""
        return self.acting.networks if self.acting else {}

    def make_sampler(self) -> Any:
        return self.kind() if self.own is None else self.kind(self.own)


@dataclass(frozen=True)
class Variant:
    """A method with its resolved configuration: the run's own, or a baseline's. `sampling` is None for real images."""

    config: Config
    method: Method
    sampling: SamplingPlan | None

    def with_networks(self, networks: Mapping[str, ClassifierSpec]) -> Variant:
        """The variant whose guidance asks these classifiers, one for each of its roles."""
        assert self.sampling is not None and self.sampling.guidance is not None
        guidance = replace(self.sampling.guidance, networks=networks)
        return replace(self, sampling=replace(self.sampling, guidance=guidance))


def resolve(config: Config) -> Variant:
    """Fills what the configuration leaves to the method, and refuses what contradicts it. Raises BadInput."""
    method: Method = registry.get("method", config.method).of(config)
    if method.uses_prototypes:
        config = _with_prototypes(config, method)
    config = config.model_copy(update={"weights": _weights(config, method)})
    if not method.generates:
        return Variant(config, method, None)
    name = config.sampler.name or method.sampler
    kind = registry.get("sampler", name)
    sampler = config.sampler.model_copy(update={"name": name, "steps": config.sampler.steps or method.steps})
    guidance = _guidance(config, method, name, kind.spaces)
    start = _start(config, method, guidance)
    if guidance is not None and guidance.acts and guidance.space != "velocity" and start.snr is None:
        guidance.window.check(start.share(sampler.steps or 1))
    form = None if guidance is None else guidance.space
    numbers = config.guidance.model_copy(update={"form": form}) if guidance is None else guidance.numbers
    config = config.model_copy(update={"sampler": sampler, "guidance": numbers})
    return Variant(config, method, SamplingPlan(sampler, kind, section(config, kind), start, guidance))


def _weights(config: Config, method: Method) -> WeightsConfig:
    weights = config.weights.model_copy(update={"mode": config.weights.mode or method.weights})
    mode, gamma = weights.mode, weights.gamma
    if mode is not None and mode not in MODES:
        raise BadInput(f"method {config.method} prescribes weights={mode!r}, which is no mode ({', '.join(MODES)})")
    needed = mode is not None and MODES[mode].needs_gamma
    if needed and gamma is None:
        raise BadInput(f"weights.mode={mode} needs an exponent; give weights.gamma (0.5 is sqrt, 1 is density)")
    if not needed and gamma is not None:
        raise BadInput(
            f"weights.gamma={gamma:g} is for weights.mode=power, not for {mode or 'none'}; leave out one of the two"
        )
    return weights


def _start(config: Config, method: Method, guidance: GuidancePlan | None) -> Start:
    """Where the guidance begins if it has a start of its own, otherwise what `start` says, otherwise the method."""
    requested, own = config.start, method.start
    if requested.strength is not None:
        own = Start(1.0 - requested.strength)
    elif requested.snr is not None:
        own = Start(snr=requested.snr)
    if own.noised and not method.uses_prototypes:
        raise BadInput(
            f"start begins at prototypes, and method {config.method} has none; leave start.strength and start.snr out, "
            "or choose a method with prototypes (ddoq, mgd3)"
        )
    theirs = NOISE if guidance is None else guidance.begins
    if guidance is not None and theirs.noised and own.noised:
        raise BadInput(
            f"guidance {guidance.name} begins at t={theirs.time:g} itself, and start says another; set "
            f"{guidance.name}.t0=0, or leave start.strength and start.snr out"
        )
    return theirs if theirs.noised else own


def _guidance(config: Config, method: Method, sampler: str, spaces: tuple[str, ...]) -> GuidancePlan | None:
    if method.guidance is None:
        return None
    kind: type[Guidance] = registry.get("guidance", method.guidance)
    space = config.guidance.form or method.form
    if space not in kind.spaces:
        raise BadInput(
            f"guidance.form={space} does not go with guidance {method.guidance} of method {config.method}, which "
            f"has {' or '.join(kind.spaces)}; leave it out"
        )
    if space not in spaces:
        raise BadInput(
            f"guidance.form={space} does not go with sampler.name={sampler}, which accepts "
            f"{' or '.join(spaces)}; choose another of the two"
        )
    numbers, own = config.guidance.model_copy(update={"form": space}), section(config, kind)
    acts = kind.acts(numbers, own)
    context, roles = (kind.context(own), tuple(kind.networks(own))) if acts else ({}, ())
    return GuidancePlan(method.guidance, kind, space, numbers, own, acts, context, roles)


def section(config: Config, kind: Any) -> Section | None:
    """The section of the configuration that an entry declares as its own, if any."""
    declared = getattr(kind, "section", None)
    return None if declared is None else config.section(*declared)


def _with_prototypes(config: Config, method: Method) -> Config:
    algorithm = config.cluster.algorithm or method.clustering
    h = config.hierarchy
    wanted = leaves_needed(h.selection, config.ipc, h.factor)
    if registry.get("clustering", algorithm).makes == "tree" and wanted > config.cluster.leaves:
        why = f"ipc={config.ipc}" + (f" and hierarchy.factor={h.factor}" if h.selection == "levels" else "")
        raise BadInput(f"cluster.leaves={config.cluster.leaves} is too few for {why}; make it at least {wanted}")
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"algorithm": algorithm})})

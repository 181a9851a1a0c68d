"""What a configuration and its method come to, decided once: everything after reads a Variant and asks no registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raydistill import registry
from raydistill.clustering.hierarchy import leaves_needed
from raydistill.config import Config, GuidanceConfig, SamplerConfig, Section, Space, StartConfig, WeightsConfig
from raydistill.diffusion.schedule import Window
from raydistill.diffusion.start import NOISE, Start
from raydistill.errors import BadInput
from raydistill.guidance.base import Guidance
from raydistill.guidance.combined import Combined
from raydistill.guidance.context import Context
from raydistill.methods import windows
from raydistill.methods.base import Curriculum, Method
from raydistill.methods.weighting import MODES
from raydistill.models.classifier import ClassifierSpec
from raydistill.models.latent_classifier import LatentClassifierSpec
from raydistill.models.vae import VaeSpec


@dataclass(frozen=True)
class GuidancePlan:
    """A guidance of a method with its numbers. `acts`: whether it does anything with them.

    `context` and `roles` are what it asks for if it acts.
    """

    name: str
    kind: type[Guidance]
    space: Space
    numbers: GuidanceConfig
    settings: Section | None
    acts: bool
    context: Mapping[str, Context]
    roles: tuple[str, ...] = ()

    @property
    def begins(self) -> Start:
        """Where it begins itself, if it acts."""
        return self.kind.start(self.settings) if self.acts else NOISE

    @property
    def window(self) -> Window:
        return self.make().window

    @property
    def decoder(self) -> str | None:
        """The folder of what decodes for it, if it acts and the VAE does not."""
        return self.kind.decoder(self.settings) if self.acts else None

    @property
    def differentiates(self) -> bool:
        """Whether it acts, and asks the generator for gradients."""
        return self.acts and self.kind.differentiates(self.settings)

    def make(self) -> Guidance:
        return self.kind.make(self.numbers, self.space, self.settings)

    def own_read(self) -> dict[str, Any] | None:
        """Its section, for fingerprints and provenance; a decoder is known by its weights and not by its path."""
        return None if self.settings is None else self.settings.read(exclude={"decoder"})

    def numbers_read(self) -> dict[str, Any]:
        """The numbers that it reads of section `guidance`, for fingerprints and provenance. Flows read the form."""
        read = self.numbers.model_dump()
        return {"form": self.space} if self.space == "velocity" else read


@dataclass(frozen=True)
class SamplingPlan:
    """How the images of a generating method come about. `sampler` has its name and its steps.

    `terms` are guidances beside the method's own; `networks` holds a classifier a role once they are found.
    """

    sampler: SamplerConfig
    kind: Any
    settings: Section | None  # the sampler's
    start: Start
    guidance: GuidancePlan | None
    terms: tuple[GuidancePlan, ...] = ()
    networks: Mapping[str, ClassifierSpec | LatentClassifierSpec] = field(default_factory=dict)
    decoder: VaeSpec | None = None  # by which guidance sees pixels, if another than that of the images

    @property
    def flows(self) -> bool:
        """Whether a flow is walked, and not a diffusion."""
        return "velocity" in self.kind.spaces

    @property
    def steps(self) -> int:
        assert self.sampler.steps is not None, "resolved"
        return self.sampler.steps

    @property
    def acting(self) -> tuple[GuidancePlan, ...]:
        """The guidances that do anything, the method's own first."""
        main = () if self.guidance is None else (self.guidance,)
        return tuple(g for g in (*main, *self.terms) if g.acts)

    @property
    def context(self) -> Mapping[str, Context]:
        """What has to be seen of the real latents, by name."""
        return {name: context for g in self.acting for name, context in g.context.items()}

    @property
    def roles(self) -> tuple[str, ...]:
        """The classifiers that guidance asks."""
        return tuple(dict.fromkeys(role for g in self.acting for role in g.roles))

    @property
    def differentiates(self) -> bool:
        """Whether guidance asks the generator for gradients."""
        return any(g.differentiates for g in self.acting)

    def settled(self, larger: int = 1) -> SamplingPlan:
        """With what guidance leaves to the steps that run, which of a start at a level only the schedule knows, and to
        how many times larger images are than what those see who judge them."""
        steps = None if self.start.snr is not None else self.start.share(self.steps)

        def settle(g: GuidancePlan) -> GuidancePlan:
            return replace(g, settings=g.kind.settled(g.settings, g.space, steps, larger))

        return replace(self, guidance=self.guidance and settle(self.guidance), terms=tuple(map(settle, self.terms)))

    def make_sampler(self) -> Any:
        return self.kind() if self.settings is None else self.kind(self.settings)

    def make_guidance(self) -> Guidance | Combined | None:
        """What acts, as one."""
        guidances = {g.name: g.make() for g in self.acting}
        return Combined(guidances) if len(guidances) > 1 else next(iter(guidances.values()), None)


@dataclass(frozen=True)
class Variant:
    """A method with its resolved configuration: the run's own, or a baseline's. `sampling` is None for real images.

    A curriculum's `config` is that of the whole set, and its `growth` how an increment of it comes about.
    """

    config: Config
    method: Method
    sampling: SamplingPlan | None
    growth: Growth | None = None

    def with_networks(self, networks: Mapping[str, ClassifierSpec | LatentClassifierSpec]) -> Variant:
        """The variant whose guidance asks these classifiers, by role."""
        assert self.sampling is not None
        return replace(self, sampling=replace(self.sampling, networks=networks))

    def with_decoder(self, decoder: VaeSpec) -> Variant:
        """The variant whose guidance sees pixels by this decoder."""
        assert self.sampling is not None
        return replace(self, sampling=replace(self.sampling, decoder=decoder))

    def makers(self) -> tuple[Variant, ...]:
        """By what its images are made: of a curriculum the variants of its increments, otherwise itself."""
        return (self.growth.first, self.growth.next) if self.growth else (self,)


@dataclass(frozen=True)
class Growth:
    """The variants of a curriculum's increments: of the first one, and of every other."""

    how: Curriculum
    first: Variant
    next: Variant

    def count(self, ipc: int) -> int:
        """Increments of a set with so many images a class."""
        return ipc // self.how.increment

    def among(self, increment: int) -> Variant:
        """`next` with as many prototypes a class as this increment and those before it have, by whose clustering it
        takes those that are new. A later increment changes nothing for it."""
        before = increment - (not self.first.method.uses_prototypes)
        more = {"ipc": (before + 1) * self.how.increment}
        return replace(self.next, config=self.next.config.model_copy(update=more))


def resolve(config: Config) -> Variant:
    """Fills what the configuration leaves to the method, and refuses what contradicts it. Raises BadInput."""
    method: Method = registry.get("method", config.method).of(config)
    variant = _variant(config, method)
    if method.curriculum is None:
        return variant
    small = config.model_copy(update={"ipc": method.curriculum.increment})
    first = resolve(beside(small, method.curriculum.seed, config.sampler.name or method.sampler))
    return replace(variant, growth=Growth(method.curriculum, first, _variant(small, method)))


def _variant(config: Config, method: Method) -> Variant:
    if method.uses_prototypes:
        config = _with_prototypes(config, method)
    config = config.model_copy(update={"weights": _weights(config, method)})
    if not method.generates:
        return Variant(config, method, None)
    name = config.sampler.name or method.sampler
    kind = registry.get("sampler", name)
    sampler = config.sampler.model_copy(update={"name": name, "steps": config.sampler.steps or method.steps})
    guidance = _guidance(config, method, name, kind.spaces)
    terms = tuple(_term(config, term, guidance.space if guidance else None, kind.spaces) for term in method.terms)
    start = _start(config, method, guidance)
    plan = SamplingPlan(sampler, kind, section(config, kind), start, guidance, terms).settled(_larger(config, method))
    if not plan.flows and start.snr is None:
        windows.check(plan, windows.by_share)
    form = None if guidance is None else guidance.space
    numbers = config.guidance.model_copy(update={"form": form}) if guidance is None else guidance.numbers
    config = config.model_copy(update={"sampler": sampler, "guidance": numbers})
    return Variant(config, method, plan)


def _larger(config: Config, method: Method) -> int:
    """How often the side that a curriculum's students see goes into that of an image; a teacher may see all of it."""
    if method.curriculum is None or method.curriculum.reference != "trained":
        return 1
    return max(1, config.source.image_size // config.evaluate.protocol.image_size)


def beside(config: Config, name: str, main: str | None) -> Config:
    """Another method beside the run's own: it keeps steps and CFG but takes the sampler, the form of guidance, the
    clustering and the weights that it prescribes itself.

    Beside a flow sampler (`main`) a method of diffusion takes its own steps too, and the other way round: they count
    otherwise.
    """
    method: Method = registry.get("method", name).of(config)
    sampler: dict[str, object] = {"name": None if method.guidance else config.sampler.name}
    if main is not None and flows(main) != flows(method.sampler):
        sampler = {"name": None, "steps": None}
    return config.model_copy(
        update={
            "method": name,
            "sampler": config.sampler.model_copy(update=sampler),
            "guidance": config.guidance.model_copy(update={"form": None}),
            "start": StartConfig(),
            "cluster": config.cluster.model_copy(update={"algorithm": None}),
            "weights": config.weights.model_copy(update={"mode": None, "gamma": None}),
        }
    )


def flows(sampler: str) -> bool:
    """Whether a sampler walks a flow."""
    return "velocity" in registry.get("sampler", sampler).spaces


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


def with_prototypes(instead: Method) -> str:
    """What to choose in place of a method without prototypes; a curriculum has those of its base."""
    if instead.curriculum is not None:
        return "an lgd.base with prototypes (lgd.base=mgd3, lgd.base=ddoq)"
    return "a method with prototypes (method=mgd3, method=ddoq)"


def _start(config: Config, method: Method, guidance: GuidancePlan | None) -> Start:
    """Where the guidance begins if it has a start of its own, otherwise what `start` says, otherwise the method."""
    requested, start = config.start, method.start
    if requested.strength is not None:
        start = Start(1.0 - requested.strength)
    elif requested.snr is not None:
        start = Start(snr=requested.snr)
    if start.noised and not method.uses_prototypes:
        raise BadInput(
            f"start begins at prototypes, and method {config.method} has none; leave start.strength and start.snr out, "
            f"or choose {with_prototypes(method)}"
        )
    theirs = NOISE if guidance is None else guidance.begins
    if guidance is not None and theirs.noised and start.noised:
        raise BadInput(
            f"guidance {guidance.name} begins at t={theirs.time:g} itself, and start says another; set "
            f"{guidance.name}.t0=0, or leave start.strength and start.snr out"
        )
    return theirs if theirs.noised else start


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
    return _planned(config, method.guidance, kind, space)


def _term(config: Config, name: str, beside: Space | None, spaces: tuple[str, ...]) -> GuidancePlan:
    """A guidance beside a method's own, in its space; without one, in the first of its own that the sampler takes."""
    kind: type[Guidance] = registry.get("guidance", name)
    first: Space = next(space for space in kind.spaces if space in spaces)
    return _planned(config, name, kind, beside or first)


def _planned(config: Config, name: str, kind: type[Guidance], space: Space) -> GuidancePlan:
    numbers, settings = config.guidance.model_copy(update={"form": space}), section(config, kind)
    acts = kind.acts(numbers, settings)
    context, roles = (kind.context(settings), tuple(kind.networks(settings))) if acts else ({}, ())
    return GuidancePlan(name, kind, space, numbers, settings, acts, context, roles)


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

"""A run's images, VAE and networks under another configuration: what a trial of a sweep is."""

from __future__ import annotations

from dataclasses import replace

from raydistill.config import Config
from raydistill.methods.resolve import Variant, flows, resolve
from raydistill.models.generator import Generator
from raydistill.pipeline.counts import check_images
from raydistill.pipeline.preflight import (
    check_growth,
    check_masses,
    check_steps,
    check_students,
    find_decoder,
    find_networks,
    find_teacher,
    fitting_generator,
    teacher_asked_by,
)
from raydistill.state import Prepared


def varied(p: Prepared, config: Config) -> Prepared:
    """A run on the same images and VAE by another configuration, whose baselines are left out.

    Raises BadInput where it contradicts itself, the images or the generator.
    """
    v, class_ids = resolve(config), [c.class_id for c in p.splits.train.classes]
    check_students(config)
    check_growth(v, p.run)
    check_images(p.splits, [v])
    for maker in v.makers():
        check_masses(maker)
    teacher = find_teacher(config, class_ids, teacher_asked_by(config, [v], True))
    generator = _generator(p, config, v)
    if generator is not None:
        for maker in v.makers():
            if maker.sampling is not None:
                check_steps(maker.sampling, generator)
        v = find_decoder(find_networks(v, class_ids), p.vae)
    return replace(p, config=v.config, variants=(v,), generator=generator, teacher=teacher)


def _generator(p: Prepared, config: Config, v: Variant) -> Generator | None:
    """The run's own, unless the one walks flows and the other does not: then two may be meant."""
    generating = [maker.method for maker in v.makers() if maker.method.generates]
    if not generating:
        return None
    before = [maker.method for maker in p.variants[0].makers() if maker.method.generates]
    if p.generator is not None and before and flows(before[0].sampler) == flows(generating[0].sampler):
        return p.generator
    return fitting_generator(config, generating[0], p.splits.train.classes, p.vae, p.shape)

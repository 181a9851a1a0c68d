"""What a run leaves for others: distilled/ with its card, and where its images come from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from raydistill.diffusion.start import NOISE
from raydistill.methods.resolve import Variant
from raydistill.models.checkpoint import licence
from raydistill.progress import say
from raydistill.report.card import card
from raydistill.stages.syntheses import product
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.state import Prepared, images_per_class, source_name


def provenance(p: Prepared, v: Variant) -> dict[str, Any]:
    """What an image came from, free of host and time: the same on every machine."""
    c = v.config
    fields: dict[str, Any] = {"vae": p.vae.identity()["weights"][:16]}
    if v.sampling is not None and p.generator is not None:
        fields |= {"generator": p.generator.identity()["weights"][:16], "sampler": v.sampling.sampler.model_dump()}
        guidance = v.sampling.guidance
        if v.sampling.start != (NOISE if guidance is None else guidance.begins):
            fields["start"] = {k: value for k, value in asdict(v.sampling.start).items() if value}
        if guidance is not None:
            settings = guidance.own_read() or {}
            fields |= {"guidance": {"name": guidance.name, **guidance.numbers_read(), **settings}}
        fields |= {term.name: term.own_read() for term in v.sampling.terms if term.acts}
        fields |= {role: network.identity()["weights"][:16] for role, network in v.sampling.networks.items()}
    if v.growth is not None:
        fields["curriculum"] = asdict(v.growth.how)
    if v.method.uses_prototypes and c.cluster.algorithm not in (None, "kmeans"):
        fields["prototypes"] = {"algorithm": c.cluster.algorithm, **c.hierarchy.model_dump()}
    return fields


def terms(p: Prepared, v: Variant) -> dict[str, str | None]:
    """The licence of each thing that the images of a variant are made from, None where nobody states it."""
    licences: dict[str, str | None] = {"images": p.config.source.licence}
    if v.method.generates and p.generator is not None:
        licences |= {"generator": licence(p.generator.path), "VAE": licence(p.vae.path)}
    return licences


def assemble(p: Prepared, v: Variant, syntheses: DistilledSet) -> bool:
    """Writes distilled/; True if that changed anything."""
    c, fields = v.config, provenance(p, v)
    if syntheses.weights:
        fields["weights"] = c.weights.model_dump(exclude_none=True)
    text = card(
        title=f"{source_name(c)} distilled by {c.method}, {images_per_class(c.ipc)}",
        method=c.method,
        ipc=c.ipc,
        seed=c.seed,
        classes=p.splits.train.classes,
        image_size=c.source.image_size,
        source_kind=c.source.kind,
        generator=fields.get("generator"),
        fields=fields,
        terms=terms(p, v),
        images=syntheses.rows,
        source=c.source.path if c.source.on_hub else source_name(c),
        on_hub=c.source.on_hub,
    )
    changed = product.assemble(p.run.root, syntheses, p.splits.train.classes, c.method, fields, text)
    if changed:
        say("assemble", f"{syntheses.rows} images in {p.run.root / 'distilled'}")
    return changed

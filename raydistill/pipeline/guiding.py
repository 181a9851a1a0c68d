"""What guidance needs besides the generator, found before a run: classifiers by their roles, and another decoder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from raydistill.errors import BadInput
from raydistill.guidance.learnability import CURRENT, REFERENCE
from raydistill.guidance.networks import ROLES
from raydistill.methods.resolve import Variant
from raydistill.models.classifier import ClassifierSpec, class_columns
from raydistill.models.vae import VaeSpec


def find_networks(v: Variant, class_ids: Sequence[str], trained: Sequence[str] = ()) -> Variant:
    """The variant with the classifiers that its guidance asks, but for the roles that a curriculum has `trained` on the
    way.

    Raises BadInput where one is not given, or does not fit, and ValueError for a guidance that names a role which there
    is not.
    """
    if v.growth is not None:
        first = find_networks(v.growth.first, class_ids)
        following = find_networks(v.growth.next, class_ids, (CURRENT, REFERENCE))
        return replace(v, growth=replace(v.growth, first=first, next=following))
    roles = [] if v.sampling is None else [role for role in v.sampling.roles if role not in trained]
    if v.sampling is None or not roles:
        return v
    name = " and ".join(g.name for g in v.sampling.acting if set(g.roles) & set(roles))
    networks = {}
    for role in roles:
        if role not in ROLES:
            raise ValueError(f"guidance {name} asks for a network {role!r}, and there are {', '.join(ROLES)}")
        section = getattr(v.config, role)
        if section.path is None:
            raise BadInput(
                f"guidance {name} asks a classifier: give {role}.path=FILE or FOLDER (docs/bring-your-own.md), or "
                "choose another method"
            )
        networks[role] = ClassifierSpec(**section.model_dump(), key=role)
        if role == "teacher":
            class_columns(networks[role], class_ids)
    return v.with_networks(networks)


def find_decoder(v: Variant, vae: VaeSpec) -> Variant:
    """The variant with what decodes for its guidance, if the VAE does not. Raises BadInput for one of other latents."""
    if v.growth is not None:
        first, following = (find_decoder(one, vae) for one in (v.growth.first, v.growth.next))
        return replace(v, growth=replace(v.growth, first=first, next=following))
    for g in () if v.sampling is None else v.sampling.acting:
        if g.decoder is not None:
            key = f"{g.name}.decoder"
            try:
                decoder = VaeSpec(os.path.abspath(os.path.expanduser(g.decoder)))
            except BadInput as e:
                raise BadInput(f"{key}: {str(e).removeprefix('vae.path: ')}") from None
            decoder_shape, shape = (one.latent_shape(v.config.source.image_size) for one in (decoder, vae))
            scaled = (decoder.scaling_factor, decoder.shift_factor) in (
                (1.0, 0.0),
                (vae.scaling_factor, vae.shift_factor),
            )
            if not scaled:
                raise BadInput(
                    f"{key}: {decoder.path} scales latents by {decoder.scaling_factor:g}, and {vae.path} by "
                    f"{vae.scaling_factor:g}; give the tiny decoder of that VAE, or leave it out"
                )
            if decoder_shape != shape:
                raise BadInput(
                    f"{key}: {decoder.path} decodes latents of {' x '.join(map(str, decoder_shape))}, and those of the "
                    f"VAE are {' x '.join(map(str, shape))}; give the tiny decoder of that VAE, or leave it out"
                )
            v = v.with_decoder(decoder)
    return v

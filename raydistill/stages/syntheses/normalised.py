"""Tensors of a judged folder that were normalised: by what, where nothing is said of it, and what that cuts off."""

from __future__ import annotations

import numpy as np

from raydistill.config import Config, SourceConfig
from raydistill.evaluation.colour import STATISTICS
from raydistill.evaluation.recipe import Setting, resolve, students_of
from raydistill.sources.tensors import NORMALISATION, Tensors, looks_normalised, share_cut

WHOSE = {"imagenet": "ImageNet's", "cifar": "CIFAR's"}


def settle(config: Config, source: SourceConfig, classes: int) -> tuple[SourceConfig, str]:
    """The source of a folder of tensors, and what a reader must know of their normalisation; empty if nothing.

    Tensors that say nothing and look like it are taken as normalised as the protocol normalises, so that a student is
    shown the values as they were published. Raises BadInput.
    """
    root, images, labels = Tensors(source).arrays()
    protocol, ipc = config.evaluate.protocol, int(np.unique(labels, return_counts=True)[1].max())
    by = resolve(protocol, Setting(ipc, classes, protocol.image_size, students_of(config.evaluate)[0])).statistics
    said = (root / NORMALISATION).size() is not None
    assumed = not said and by in WHOSE and looks_normalised(images, STATISTICS[by])
    if assumed:
        source = source.normalised_by(STATISTICS[by])
    cut = share_cut(source)
    became = f"{100 * cut:.2g} % of their values lay outside 0 to 1 and were cut" if cut else ""
    if not assumed:
        return source, became and f"once the normalisation was taken back, {became}"
    return source, (
        f"no {NORMALISATION} says how its tensors (from {images.min():.3g} to {images.max():.3g}) were normalised: "
        f"taken as by {WHOSE[by]} mean and deviation, as protocol {protocol.name} does" + (became and f"; {became}")
    )

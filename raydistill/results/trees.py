"""The trees of a run's classes as its page shows them."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from raydistill import registry
from raydistill.methods.resolve import Variant
from raydistill.report.images import thumbnail
from raydistill.report.page import MAX_PANELS
from raydistill.report.trees import ClassTree, TreeNode
from raydistill.sources.images import decode, png
from raydistill.stages.prototypes.selection import chosen
from raydistill.state import Results

MAX_NODES = 1000  # on a page: a kilobyte each, and an image to decode
LEAST_NODES = 15  # of a class


def class_tree(done: Results, index: int, ids: pa.ChunkedArray, slots: Mapping[int, int]) -> ClassTree | None:
    """Of class `index`, whose image ids these are; None where the run has no trees. `slots`: prototype of each slot.

    It is the tree of the run's own method, or else of the first baseline that has one.
    """
    p, v = done.prepared, _grown(done)
    if v is None or done.classes is None:
        return None
    key = next(r.key for r in done.classes.records if index in r.meta["classes"])
    clusters = done.prototypes[str(v.config.cluster.algorithm)].table(key)
    rows, tree = chosen(clusters, index, p.splits.train.classes[index].class_id, ids, v.config)
    if tree is None:
        return None
    led: dict[int, list[int]] = {}
    if v is p.variants[0] and v.growth is None:
        nodes = rows["node"].to_pylist()
        for slot, prototype in slots.items():
            if 0 <= prototype < len(nodes):
                led.setdefault(nodes[prototype], []).append(slot)
    most = max(LEAST_NODES, MAX_NODES // min(MAX_PANELS, len(p.splits.train.classes)))
    shown = tree.cut(min(len(tree.leaves), (most + 1) // 2))
    pictures = _pictures(done, ids.take(pa.array(shown.medoid)).to_pylist())
    level = shown.level
    return ClassTree(
        tuple(
            TreeNode(i, int(shown.parent[i]), int(level[i]), int(shown.size[i]), image, tuple(led.get(i, ())))
            for i, image in enumerate(pictures)
        ),
        len(tree) - len(shown),
    )


def _grown(done: Results) -> Variant | None:
    """The first variant whose clustering is finished and makes trees."""

    def grows(v: Variant) -> bool:
        name = v.config.cluster.algorithm
        return name is not None and name in done.prototypes and registry.get("clustering", name).makes == "tree"

    return next((v for v in done.prepared.variants if v.method.uses_prototypes and grows(v)), None)


def _pictures(done: Results, ids: list[str]) -> list[bytes]:
    """A small copy of each of these training images."""
    p, s = done.prepared, done.prepared.config.source
    distinct = list(dict.fromkeys(ids))
    read = p.splits.source.read(p.splits.train.split, distinct)
    small = {
        name: thumbnail(png(decode(data, s.image_size, s.max_pixels)))
        for name, data in zip(distinct, read, strict=True)
    }
    return [small[name] for name in ids]

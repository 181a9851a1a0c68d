"""How many images there are of each class, and whether they are enough for what is to be made of them."""

from __future__ import annotations

from collections.abc import Sequence

from raydistill import registry
from raydistill.config import Config
from raydistill.errors import BadInput
from raydistill.methods.resolve import Variant
from raydistill.progress import say
from raydistill.report.text import plural
from raydistill.sources import carved
from raydistill.sources.base import ClassInfo, Listing, Splits

NAMED = 10  # classes that are named one by one


def check_counts(config: Config, splits: Splits, variants: list[Variant]) -> None:
    """Prints the counts per class; refuses an IPC that a method of real images cannot fill."""
    train, test = splits.train, splits.test
    counts = train.counts
    named = list(zip(train.classes, counts, strict=True))[:NAMED]
    shown = ", ".join(f"{c.class_name or c.class_id} {n}" for c, n in named)
    more = f", ... {len(counts) - NAMED} more" if len(counts) > NAMED else ""
    say("source", f"{len(train)} training images in {len(counts)} classes ({shown}{more}); {len(test)} to test on")
    source = config.source
    if source.search_split == 0 and carved.share_of(source.val) is not None:
        say("source", f"tested on {len(test)} training images, held out of each class by id (source.val={source.val})")
    elif source.search_split == 0 and test.split != source.val:
        say("source", f"tested on the split {test.split!r}: there is none called {source.val!r}")
    if train.uneven:
        uneven = f"classes have {counts.min()} to {counts.max()} images"
        say("source", f"{uneven}: accuracies are averaged over classes, too")
    if splits.left_out:
        say("source", f"{splits.left_out}: nothing is tested on their images")
    if counted_from_one(train.classes):
        say(
            "source",
            "the classes are numbers without names, and start at 1; a generator knows them by these numbers "
            "(docs/bring-your-own.md#labels-that-are-numbers)",
        )
    single = [info for info, count in zip(train.classes, counts, strict=True) if count == 1]
    for info in single[:NAMED]:
        say("source", f"class {info.class_id!r} has a single image: its one prototype is that image")
    if len(single) > NAMED:
        say("source", f"... and {len(single) - NAMED} more classes of a single image")
    check_images(splits, variants)


def check_images(splits: Splits, variants: Sequence[Variant]) -> None:
    """Raises BadInput for a variant that needs more images of a class than there are."""
    train, counts = splits.train, splits.train.counts
    low = int(counts.argmin())
    _check_trees(train, variants)
    for v in (one for variant in variants for one in variant.makers()):
        for context in v.sampling.context.values() if v.sampling is not None else ():
            if context.least > counts[low]:
                raise BadInput(
                    f"{context.asked_by} needs {plural(context.least, 'image')} of a class, and class "
                    f"{train.classes[low].class_id!r} has {counts[low]}; {context.remedy}"
                )
        if not v.method.generates and v.config.ipc > counts[low]:
            raise BadInput(
                f"ipc={v.config.ipc} is more than the {counts[low]} images of class {train.classes[low].class_id!r}, "
                f"and method {v.config.method} picks real ones; lower ipc, or drop it from method or evaluate.baselines"
            )


def _check_trees(train: Listing, variants: Sequence[Variant]) -> None:
    """A tree has no more leaves than points; an increment is offered the nodes of the whole set."""
    low, least = int(train.counts.argmin()), int(train.counts.min())
    for i, v in enumerate(variants):
        makers = [(v, v.config.ipc)] if v.growth is None else [(v.growth.first, v.growth.first.config.ipc)]
        makers += [] if v.growth is None else [(v.growth.next, v.config.ipc)]
        for one, ipc in makers:
            algorithm = one.config.cluster.algorithm or one.method.clustering
            tree = one.method.uses_prototypes and registry.get("clustering", algorithm).makes == "tree"
            if tree and ipc > least:
                other = "drop it from evaluate.baselines" if i else "choose cluster.algorithm=kmeans, which has no tree"
                if v.growth is not None and one is v.growth.first:
                    other = "choose another lgd.seed_method (mgd3)"  # which clusters as it does by itself
                raise BadInput(
                    f"ipc={ipc} is more than the {least} images of class {train.classes[low].class_id!r}, and the tree "
                    f"of method {one.config.method} has no leaf without one; lower ipc, or {other}"
                )


def counted_from_one(classes: Sequence[ClassInfo]) -> bool:
    """Whether nothing but numbers is known of the classes, the lowest of them 1."""
    bare = all(c.class_id.isdecimal() and c.class_name == c.class_id for c in classes)
    return bare and min(int(c.class_id) for c in classes) == 1

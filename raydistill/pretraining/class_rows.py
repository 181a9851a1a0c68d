"""The class table of a checkpoint for classes that it does not know: rows taken from its classes, rows that are new.

A new row begins as that of no class, which is kept: before the first step the network makes of a new class what it
makes without one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from raydistill.errors import BadInput, first_of
from raydistill.models.denoiser import GeneratorSpec
from raydistill.sources.base import NAMED, ClassInfo

TABLE = "class_embedder.embedding_table"  # of every block of a DiT


def rows_of(
    spec: GeneratorSpec, classes: Sequence[ClassInfo], class_map: Mapping[str, str] | None
) -> tuple[int, ...] | None:
    """The checkpoint's label whose row each class begins as, its null label for new ones; None if it knows them all.

    `class_map` gives by class id or name a class of the checkpoint, by id or name. Raises BadInput.
    """
    known = {c: i for i, c in enumerate(spec.class_ids)}
    if class_map is None and all(c.class_id in known for c in classes):
        return None
    mapped = {}
    for mine, theirs in (class_map or {}).items():
        position = _position(mine, [c.class_id for c in classes], [c.class_name for c in classes], "the images")
        names = spec.training.get("class_names")
        named = [str(n) for n in names] if isinstance(names, list) and len(names) == len(known) else spec.class_ids
        mapped[classes[position].class_id] = _position(theirs, spec.class_ids, named, str(spec.path))
    return tuple(mapped.get(c.class_id, known.get(c.class_id, spec.null_class)) for c in classes)


def _position(wanted: str, ids: Sequence[str], names: Sequence[str], what: str) -> int:
    """Of a class by its id, or by a name that is one class's alone."""
    if wanted in ids:
        return list(ids).index(wanted)
    if list(names).count(wanted) == 1:
        return list(names).index(wanted)
    alike = difflib.get_close_matches(wanted, [*ids, *names], n=1)
    hint = f"did you mean {alike[0]!r}?" if alike else f"it has {', '.join(ids[:NAMED])}"
    raise BadInput(f"pretrain.class_map: {wanted!r} is no class of {what}; {hint}")


def described(rows: Sequence[int], spec: GeneratorSpec, classes: Sequence[ClassInfo]) -> str:
    """In words, which classes are new to the checkpoint, and as what the others begin."""
    new = [c.class_name for c, row in zip(classes, rows, strict=True) if row == spec.null_class]
    taken = [
        f"{c.class_name} as {spec.class_ids[row]}"
        for c, row in zip(classes, rows, strict=True)
        if row != spec.null_class
    ]
    parts = [f"{first_of(new, NAMED)} begin{'s' if len(new) == 1 else ''} as no class"] if new else []
    return f"classes that {spec.path.name} is taught: {', '.join([*parts, first_of(taken, NAMED)] if taken else parts)}"


def is_table(parameter: str) -> bool:
    """Whether a parameter of a network, by its name, is a class table."""
    return parameter.endswith(f"{TABLE}.weight")


def rewrite(net: nn.Module, rows: Sequence[int], null: int) -> None:
    """Gives every class table of a diffusers DiT these rows of its own, and its null row behind them."""
    picked = torch.tensor([*rows, null])
    for name, module in list(net.named_modules()):
        if name.endswith(TABLE):
            embedder = net.get_submodule(name.rpartition(".")[0])
            embedder.embedding_table = nn.Embedding.from_pretrained(
                module.weight.detach()[picked].clone(), freeze=False
            )
            embedder.num_classes = len(rows)
    net.register_to_config(num_embeds_ada_norm=len(rows))

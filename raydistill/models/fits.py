"""Whether weights fit their network, from the names, shapes and types in the file's header: no weight is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydistill.errors import BadInput, first_of, one_line
from raydistill.models.checkpoint import tensors

PREFIXES = ("module.", "model.", "_orig_mod.", "ema.", "ema_model.", "network.", "net.", "state_dict.")
SHOWN = 3
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of diffusers' VAEs before 2023
FLOATS, WHOLE = ("F32", "F16", "BF16"), ("I64", "I32", "I16", "I8", "U8")


@dataclass(frozen=True)
class Misfit:
    """What a file lacks, has too many, and has of another shape (name -> shape in the file, shape in the network)."""

    lacking: tuple[str, ...]
    surplus: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __bool__(self) -> bool:
        return bool(self.lacking or self.surplus or self.shapes)

    def __str__(self) -> str:
        said = [f"it has no {first_of(self.lacking, SHOWN)}"] if self.lacking else []
        said += [f"it has {first_of(self.surplus, SHOWN)} too many"] if self.surplus else []
        wrong = [f"{n} has shape {list(got)} instead of {list(wanted)}" for n, (got, wanted) in self.shapes.items()]
        return "; ".join(said + ([first_of(wrong, SHOWN)] if wrong else []))


def check(
    build: Callable[[], nn.Module], weights: Path, key: str, by: str, optional: Callable[[nn.Module], Collection[str]]
) -> Misfit:
    """Compares a file with the network that `build` makes, here without memory, and `by` describes.

    `optional` names what the file may leave out. Raises BadInput for a network that cannot be built, for weights of
    odd types, and for names that would fit without a prefix; what else does not fit is returned.
    """
    try:
        with torch.device("meta"):
            network = build()
    except BadInput:
        raise
    except Exception as e:  # libraries raise many kinds for a description that contradicts itself
        raise BadInput(f"{key}: {weights.parent} cannot be built as {by} says: {one_line(e)}") from None
    file, wanted, free = tensors(weights, key), network.state_dict(), optional(network)
    have = {_today(name): t.shape for name, t in file.items()}
    lacking = [n for n in wanted if n not in have and n not in free]
    if lacking and (prefix := _prefix(have, lacking)):
        raise BadInput(
            f"{key}: {weights} does not fit {by}: {_counted(have, prefix)} with {prefix!r}; save the inner model, or "
            "write the file again with these tensors only, named without it"
        )
    odd = [f"{n} is {t.dtype}" for n, t in file.items() if not _typed(t.dtype, wanted.get(_today(n)))]
    if odd:
        raise BadInput(
            f"{key}: {weights}: {first_of(odd, SHOWN)}; write its weights as float32, float16 or bfloat16 "
            "(F32, F16, BF16)"
        )
    shapes = {n: (have[n], tuple(t.shape)) for n, t in wanted.items() if n in have and have[n] != tuple(t.shape)}
    surplus = [n for n in have if n not in wanted and n not in free]
    return Misfit(tuple(sorted(lacking)), tuple(sorted(surplus)), shapes)


def check_diffusers(kind: Any, config: Mapping[str, Any], weights: Path, key: str) -> None:
    """Raises BadInput if the weights of a diffusers network do not fit the config.json beside them."""
    by = "its config.json"
    tables = lambda net: {name for name, _ in net.named_buffers()}  # noqa: E731 (recomputed, in the file or not)
    misfit = check(lambda: kind.from_config(dict(config)), weights, key, by, tables)
    if misfit:
        raise BadInput(f"{key}: {weights} does not fit {by}: {misfit}; mend one of the two")


def _today(name: str) -> str:
    return re.sub(r"(?<=attentions\.\d\.)(query|key|value|proj_attn)(?=\.)", lambda m: OLDER[m[0]], name)


def _typed(dtype: str, wanted: torch.Tensor | None) -> bool:
    return wanted is None or dtype in (FLOATS if wanted.is_floating_point() else WHOLE)


def _prefix(have: Collection[str], lacking: Collection[str]) -> str:
    """What stands before all that is lacking, made of PREFIXES; "" if nothing does."""
    first, names = min(lacking), set(have)
    known = re.compile(f"({'|'.join(map(re.escape, PREFIXES))})+")
    prefixes = [n.removesuffix(first) for n in names if n.endswith(first)]
    return next((p for p in sorted(prefixes) if known.fullmatch(p) and all(p + n in names for n in lacking)), "")


def _counted(have: Collection[str], prefix: str) -> str:
    count = sum(n.startswith(prefix) for n in have)
    return "all names begin" if count == len(have) else f"the names of {count} of its {len(have)} tensors begin"

"""What every section of the configuration is made of: strictness, ranges, a pool's resources, the lists of classes."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from importlib import resources
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


def _reservable(value: float) -> float:
    if 0 < value < 1e-4:
        raise ValueError("Ray reserves no less than 0.0001; raise it")
    return value


def _whole_gpus(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError("several GPUs are reserved whole; round it, or share one with a fraction below 1")
    return value


Cpus = Annotated[float, Field(le=256), AfterValidator(_reservable)]
Gpus = Annotated[float, Field(ge=0, le=16), AfterValidator(_reservable), AfterValidator(_whole_gpus)]
Deadline = Annotated[float, Field(gt=0, le=1e9)]  # seconds; of more an actor's alarm clock knows nothing
SEED_LIMIT = 2**63
Seed = Annotated[int, Field(ge=0, lt=SEED_LIMIT)]


def class_lists() -> list[str]:
    """Names of the class lists that ship with the package."""
    files = (resources.files("raydistill") / "classlists").iterdir()
    return sorted(f.name.removesuffix(".txt") for f in files if f.name.endswith(".txt"))


def class_list(name: str) -> list[str]:
    """The class ids of a list, in its order."""
    return (resources.files("raydistill") / "classlists" / f"{name}.txt").read_text("utf-8").split()


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    later: ClassVar[frozenset[str]] = frozenset()  # keys that came after its release

    def read(self, exclude: AbstractSet[str] = frozenset()) -> dict[str, Any]:
        """Its keys as an identity; of those that came later only what is no longer at its default."""
        fields = type(self).model_fields
        values = self.model_dump(exclude=set(exclude))
        return {k: v for k, v in values.items() if k not in self.later or v != fields[k].default}


class Pool(Section):
    """Resources of a pool of actors."""

    actors: Annotated[int, Field(ge=0, le=4096, description="actors in the pool; 0 = as many as the cluster holds")] = 0
    num_cpus: Annotated[Cpus, Field(ge=0, description="CPUs each actor reserves")] = 0.5
    num_gpus: Annotated[Gpus, Field(description="GPUs each actor reserves; fractions share one")] = 0.0
    threads: Annotated[int, Field(ge=1, le=256, description="torch threads; part of the identity of the bytes")] = 1
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="auto = the GPU that was reserved, otherwise the CPU")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], Field(description="auto = bfloat16 on a GPU, float32 on the CPU")
    ] = "auto"
    deadline_s: Annotated[Deadline, Field(description="longest wait for one unit of work before it is given up")] = (
        900.0
    )

"""The configuration: one strict typed tree, filled from a preset or YAML file and dotted overrides.

Every value is checked before any work: an unknown key names the nearest one, a wrong type or range says what is
allowed. `resolve` returns the canonical tree that is written to run_dir/config.yaml and that fingerprints are made of.
"""

from __future__ import annotations

import copy
import difflib
import reprlib
import types
import typing
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from raydistill.errors import BadInput, one_line

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def class_lists() -> list[str]:
    """Names of the class lists that ship with the package."""
    files = (resources.files("raydistill") / "classlists").iterdir()
    return sorted(f.name.removesuffix(".txt") for f in files if f.name.endswith(".txt"))


def class_list(name: str) -> list[str]:
    """The class ids of a list, in its order."""
    return (resources.files("raydistill") / "classlists" / f"{name}.txt").read_text("utf-8").split()


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Pool(Section):
    """Resources of a pool of actors."""

    actors: Annotated[int, Field(ge=0, le=4096, description="actors in the pool; 0 = as many as the cluster holds")] = 0
    num_cpus: Annotated[float, Field(ge=0, le=256, description="CPUs each actor reserves")] = 0.5
    num_gpus: Annotated[float, Field(ge=0, le=16, description="GPUs each actor reserves; fractions share one")] = 0.0
    threads: Annotated[int, Field(ge=1, le=256, description="torch threads; part of the identity of the bytes")] = 1
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="auto = the GPU that was reserved, otherwise the CPU")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], Field(description="auto = bfloat16 on a GPU, float32 on the CPU")
    ] = "auto"
    deadline_s: Annotated[float, Field(gt=0, description="longest wait for one unit of work before it is given up")] = (
        900.0
    )


class SourceConfig(Section):
    """Where the images come from."""

    kind: Annotated[str, Field(description="digits | imagefolder | parquet | webdataset")] = "digits"
    path: Annotated[str | None, Field(description="folder that holds the splits")] = None
    train: Annotated[str, Field(description="name of the training split")] = "train"
    val: Annotated[str, Field(description="name of the validation split")] = "val"
    image_size: Annotated[int, Field(ge=8, le=1024, description="pixels a side; centre crop, bicubic")] = 32
    classes: Annotated[
        list[str] | None,
        Field(description="class ids to use, in this order, or the name of a list that ships; null = all"),
    ] = None
    search_split: Annotated[
        float,
        Field(
            ge=0,
            le=0.5,
            description=(
                "share of training images held out by id; above 0 it replaces the validation split, to choose settings"
            ),
        ),
    ] = 0.0
    max_broken: Annotated[Fraction, Field(description="largest fraction of unreadable images that is skipped")] = 0.01
    max_pixels: Annotated[
        int, Field(ge=64, description="an image of more pixels is refused as a decompression bomb")
    ] = 50_000_000

    @field_validator("classes", mode="before")
    @classmethod
    def _named_list(cls, value: Any) -> Any:
        """`imagewoof` stands for the ids in classlists/imagewoof.txt; any other text is a class."""
        alone = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(alone, str):
            return value
        return class_list(alone) if alone in class_lists() else [alone]


class VaeConfig(Section):
    path: Annotated[str | None, Field(description="diffusers directory of the VAE")] = None


class EncodeConfig(Pool):
    chunk: Annotated[int, Field(ge=1, le=4096, description="images a chunk, the unit of commit")] = 256
    batch: Annotated[int, Field(ge=1, le=1024, description="images a micro-batch; the last one is padded")] = 32


class GroupConfig(Section):
    buckets: Annotated[int, Field(ge=1, le=256, description="class buckets (at most one a class)")] = 32


class ClusterConfig(Section):
    iterations: Annotated[int, Field(ge=1, le=1000, description="largest number of Lloyd iterations")] = 100
    restarts: Annotated[int, Field(ge=1, le=100, description="k-means++ starts; the lowest SSE is kept")] = 3
    num_cpus: Annotated[float, Field(gt=0, le=256, description="CPUs each clustering task reserves")] = 1.0


class GeneratorConfig(Section):
    path: Annotated[str | None, Field(description="diffusers directory holding transformer/ and scheduler/")] = None


class SamplerConfig(Section):
    """null = what the method prescribes."""

    name: Annotated[str | None, Field(description="ddpm | ddim")] = None
    steps: Annotated[int, Field(ge=1, le=1000, description="denoising steps")] = 50
    grid: Annotated[
        Literal["released", "linspace", "leading"],
        Field(description="how steps are spread over training time: DiT's release, or diffusers' two"),
    ] = "released"
    cfg_scale: Annotated[float, Field(ge=1, le=100, description="classifier-free guidance; 1 = off")] = 4.0
    cfg_channels: Annotated[
        Literal["all", "first3"],
        Field(description="channels that CFG acts on: all, or the first three as DiT's release does"),
    ] = "all"


class GuidanceConfig(Section):
    """Used by guided methods only."""

    scale: Annotated[float, Field(ge=0, le=1000, description="guidance_scale; 0 = unguided")] = 0.1
    form: Annotated[
        Literal["mean", "epsilon"] | None,
        Field(
            description="mean: DDPM form, shifts the posterior mean; epsilon: DDIM form, shifts the noise; null = own"
        ),
    ] = None
    start: Annotated[Fraction, Field(description="window start as a fraction of the noise path, 1 = pure noise")] = 1.0
    stop: Annotated[Fraction, Field(description="window stop; guidance acts while stop < fraction <= start")] = 0.5


class SampleConfig(Pool):
    batch: Annotated[int, Field(ge=1, le=4096, description="slots a batch, the unit of commit")] = 20


class ProtocolConfig(Section):
    """How a student is trained. The budget is counted in image visits, so every set costs the same."""

    visits: Annotated[int, Field(ge=1, description="images seen in training, augmented ones")] = 20_000
    batch: Annotated[int, Field(ge=1, le=4096)] = 64
    lr: Annotated[float, Field(gt=0, le=100)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    image_size: Annotated[int, Field(ge=8, le=512, description="pixels a side that the student sees")] = 32
    crop_scale: Annotated[float, Field(gt=0, le=1, description="smallest area of a random resized crop; 1 = none")] = (
        0.5
    )
    flip: Annotated[bool, Field(description="random horizontal flips")] = True
    cutmix: Annotated[Fraction, Field(description="probability of CutMix for a batch")] = 1.0
    evaluations: Annotated[
        int, Field(ge=1, le=1000, description="times the student is tested; best and last are reported")
    ] = 10


class EvaluateConfig(Section):
    students: Annotated[list[str], Field(min_length=1, description="students to train")] = ["convnet"]
    width: Annotated[int, Field(ge=8, le=1024, description="channels of the convnet student")] = 64
    seeds: Annotated[int, Field(ge=1, le=100, description="training seeds a student")] = 3
    baselines: Annotated[list[str], Field(description="methods evaluated beside, at the same IPC")] = ["random"]
    full: Annotated[bool, Field(description="also train on the whole training split: the bound")] = False
    workers: Annotated[int, Field(ge=0, le=1024, description="Ray Train workers; 0 = one a CPU core or GPU")] = 0
    num_cpus: Annotated[float, Field(gt=0, le=256, description="CPUs each worker reserves")] = 1.0
    num_gpus: Annotated[float, Field(ge=0, le=16, description="GPUs each worker reserves")] = 0.0
    threads: Annotated[int, Field(ge=1, le=256, description="torch threads a worker")] = 1
    deadline_s: Annotated[float, Field(gt=0, description="longest time without a finished training")] = 7200.0
    protocol: ProtocolConfig = ProtocolConfig()


class PretrainConfig(Section):
    """`jobs/pretrain.py`: trains a small VAE, then a class-conditional generator on its latents."""

    target: Annotated[Literal["vae", "generator"], Field(description="what to train")] = "generator"
    out: Annotated[str | None, Field(description="directory to write, in diffusers layout")] = None
    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 2000
    batch: Annotated[int, Field(ge=1, le=65536)] = 128
    lr: Annotated[float, Field(gt=0, le=10)] = 3e-4
    checkpoint_every: Annotated[int, Field(ge=1, description="steps between checkpoints")] = 250
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    label_dropout: Annotated[Fraction, Field(description="share of labels replaced by the null class")] = 0.1
    kl_weight: Annotated[float, Field(ge=0, description="VAE: weight of the KL term")] = 1e-4
    latent_channels: Annotated[int, Field(ge=1, le=64)] = 4
    vae_channels: Annotated[
        list[int], Field(min_length=1, description="VAE width a level; each but the last halves the size")
    ] = [16, 32, 48]
    layers: Annotated[int, Field(ge=1, le=64, description="generator depth")] = 6
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    head_dim: Annotated[int, Field(ge=4, le=256)] = 32
    patch: Annotated[int, Field(ge=1, le=16)] = 2
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class RayConfig(Section):
    address: Annotated[str | None, Field(description="cluster to join; null = RAY_ADDRESS, otherwise a local one")] = (
        None
    )
    num_cpus: Annotated[
        int, Field(ge=0, le=4096, description="logical CPUs of a local cluster; 0 = cores, at least 4")
    ] = 0
    object_store_mb: Annotated[int, Field(ge=80, description="object store of a local cluster")] = 512


class Config(Section):
    method: Annotated[str, Field(description="what makes the images (listed above)")] = "mgd3"
    ipc: Annotated[int, Field(ge=1, le=100_000, description="images per class")] = 10
    seed: Annotated[Seed, Field(description="generation seed")] = 0
    run_dir: Annotated[
        str | None, Field(description="where everything goes; null = runs/NAME; path, s3:// or gs://")
    ] = None
    artifact_dir: Annotated[str | None, Field(description="stage outputs shared by several runs; null = run_dir")] = (
        None
    )
    source: SourceConfig = SourceConfig()
    vae: VaeConfig = VaeConfig()
    encode: EncodeConfig = EncodeConfig()
    group: GroupConfig = GroupConfig()
    cluster: ClusterConfig = ClusterConfig()
    generator: GeneratorConfig = GeneratorConfig()
    sampler: SamplerConfig = SamplerConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    sample: SampleConfig = SampleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    pretrain: PretrainConfig = PretrainConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _window_is_a_window(self) -> Config:
        if self.guidance.start <= self.guidance.stop:
            raise ValueError(
                f"guidance.start={self.guidance.start} must be above guidance.stop={self.guidance.stop} "
                "(1 = pure noise, 0 = image)"
            )
        return self

    def tree(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def yaml(self) -> str:
        """Canonical text: sorted keys."""
        return yaml.safe_dump(self.tree(), sort_keys=True, allow_unicode=True)


# ---- loading -------------------------------------------------------------------------------------------------------


def presets() -> list[str]:
    """Names of the presets that ship with the package."""
    return sorted(
        p.name.removesuffix(".yaml")
        for p in resources.files("raydistill.presets").iterdir()
        if p.name.endswith(".yaml")
    )


def load(config: str = "quickstart", overrides: Sequence[str] = ()) -> Config:
    """A preset's name or a YAML file, then `key=value` overrides. Raises BadInput with one line."""
    tree = _read(config)
    for item in overrides:
        key, sep, text = item.partition("=")
        if not sep or not key:
            raise BadInput(f"override {item!r} is not key=value (for example ipc=10 or guidance.scale=0.1)")
        _put(tree, key, _value(key, text))
    name = config if config in presets() else Path(config).stem
    return build(tree, default_run=f"runs/{name}")


def build(tree: dict[str, Any], default_run: str = "runs/run") -> Config:
    """Validates a tree. Raises BadInput for the first thing wrong with it."""
    for key in _unknown(tree, Config):
        near = nearest_key(key)
        raise BadInput(f"unknown configuration key {key!r}" + (f"; did you mean {near!r}?" if near else ""))
    try:
        config = Config.model_validate(tree)
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        what = one_line(first["msg"]).removeprefix("Value error, ")
        got = first.get("input")
        shown = (
            ""
            if not key or isinstance(got, dict)
            else f" (got {got[:60] if isinstance(got, str) else reprlib.repr(got)!r})"
        )
        raise BadInput(f"configuration{' key ' + key if key else ''}: {what}{shown}") from None
    for key, _ in leaves(Config):
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        if any("\0" in v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)):
            raise BadInput(f"configuration key {key}: holds a null character")
    return config if config.run_dir else config.model_copy(update={"run_dir": default_run})


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key with its field, depth first."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def nearest_key(key: str) -> str | None:
    """The known key most like `key`, by its whole path or by its last part."""
    known = [k for k, _ in leaves(Config)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return near[0]
    tails = {k.rsplit(".", 1)[-1]: k for k in known}
    near = difflib.get_close_matches(key.rsplit(".", 1)[-1], list(tails), n=1, cutoff=0.6)
    return tails[near[0]] if near else None


def _read(config: str) -> dict[str, Any]:
    if config in presets():
        text = (resources.files("raydistill.presets") / f"{config}.yaml").read_text("utf-8")
    elif _is_file(config):
        try:
            text = Path(config).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise BadInput(f"--config {config}: cannot be read: {one_line(e)}") from None
    else:
        near = difflib.get_close_matches(config, presets(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise BadInput(f"--config {config}: neither a preset nor a file{hint} (presets: {', '.join(presets())})")
    try:
        tree = yaml.safe_load(text)
    except Exception as e:  # PyYAML raises many kinds on odd scalars (!!int "" is an IndexError); all mean: not YAML
        raise BadInput(f"--config {config}: not YAML: {one_line(e)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise BadInput(f"--config {config}: must hold keys and values, not a {type(tree).__name__}")
    return copy.deepcopy(tree)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a name too long, for example
        return False


def _unknown(tree: dict[Any, Any], model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of the tree that the model does not have. Looks only into sections, so no value can be too deep."""
    for name, value in tree.items():
        field = model.model_fields.get(name) if isinstance(name, str) else None
        if field is None:
            yield f"{prefix}{name}" + (f".{next(iter(value))}" if isinstance(value, dict) and value else "")
        elif isinstance(value, dict) and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _unknown(value, field.annotation, f"{prefix}{name}.")


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    node, parts = tree, key.split(".")
    for part in parts[:-1]:
        child = node.get(part, {})
        if not isinstance(child, dict):
            raise BadInput(f"configuration key {key!r}: {part!r} is a value, not a section")
        node[part] = node = dict(child)  # a copy: YAML aliases share one object
    node[parts[-1]] = value


def _value(key: str, text: str) -> Any:
    """Text to value. A text field takes the text as it is (a folder named 2024 stays a name)."""
    field = dict(leaves(Config)).get(key)
    kinds = _flat(field.annotation) if field is not None else set()
    if str in kinds and not text.startswith("["):
        return None if text in ("null", "none", "") and type(None) in kinds else text
    try:
        value = yaml.safe_load(text)
    except Exception:  # PyYAML's constructors raise ValueError, TypeError, IndexError... on odd scalars
        raise BadInput(f"configuration key {key!r}: cannot read the value {text[:60]!r}") from None
    if isinstance(value, str) and float in kinds:
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as text
        except ValueError:
            return value
    if any(typing.get_origin(k) is list for k in kinds) and isinstance(value, str | int | float):
        value = [value]
    if any(typing.get_origin(k) is list and str in typing.get_args(k) for k in kinds) and isinstance(value, list):
        return [str(v) if isinstance(v, int | float) else v for v in value]
    return value


def _flat(kind: Any) -> set[Any]:
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _flat(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_flat(a) for a in typing.get_args(kind)))
    if origin is Literal:
        return {type(a) for a in typing.get_args(kind)}
    return {kind}


def describe() -> str:
    """The keys with defaults and meanings, for --help."""
    lines = []
    for key, field in leaves(Config):
        default = field.default
        shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        lines.append(f"  {key + '=' + shown:<44} {field.description or ''}".rstrip())
    return "\n".join(lines)

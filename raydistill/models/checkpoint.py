"""Checkpoint directories: diffusers layout, safetensors only. What a file does not say is refused, never guessed."""

from __future__ import annotations

import math
import re
import reprlib
import shlex
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from raydistill import strict_json
from raydistill.errors import BadInput, one_line
from raydistill.identity import directory_digest, file_digest

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA = "pytorch_lora_weights.safetensors"
WORK = ".train"  # where a training keeps its state until it is finished
PIPELINE = "pipeline"  # the copy of a generator for diffusers, which no run reads


def packaged(name: str) -> str:
    """Directory of a model that ships inside the package (`vae`, `generator` or `flow` of the quickstart)."""
    return str(resources.files("raydistill.presets") / "quickstart" / name)


def check_finished(directory: Path, key: str) -> None:
    """Raises BadInput for the folder of a training that has not come to its end."""
    if (directory / WORK).is_dir() and not (directory / "training.json").exists():
        raise BadInput(
            f"{key}: the training in {directory} was not finished; run its command again, which goes on, or remove it "
            f"with `python jobs/pretrain.py --clean {shlex.quote(str(directory))}`"
        )


def check_weights(directory: Path, key: str, name: str = WEIGHTS) -> Path:
    """The safetensors file of a model directory. Raises BadInput, refusing pickles without opening them."""
    if not directory.is_dir():
        raise BadInput(f"{key}: {directory} is not a folder; give a diffusers directory with config.json and {name}")
    path = directory / weights_name(directory, name)
    if not path.is_file():
        odd = odd_weights((str(p) for p in directory.iterdir()), name)
        raise BadInput(f"{key}: {odd}" if odd else f"{key}: {directory} holds no {name}")
    tensors(path, key)
    return path


def weights_name(directory: Path, name: str = WEIGHTS) -> str:
    """`name`, or where that is not there the one variant of it that is: `diffusion_pytorch_model.fp16.safetensors`."""
    variants = [] if (directory / name).is_file() else variants_of(name, (p.name for p in directory.glob("*")))
    return variants[0] if len(variants) == 1 else name


def variant(directory: Path, name: str = WEIGHTS) -> str | None:
    """What diffusers calls the variant that `weights_name` names, `fp16`; None for the plain file."""
    stem, _, ending = name.rpartition(".")
    return weights_name(directory, name)[len(stem) + 1 : -len(ending) - 1] or None


def variants_of(name: str, files: Iterable[str]) -> list[str]:
    """The names among `files` that are variants of `name`."""
    stem, _, ending = name.rpartition(".")
    return sorted(f for f in files if re.fullmatch(rf"{re.escape(stem)}\.[A-Za-z][\w]*\.{ending}", f))


def odd_weights(files: Iterable[str], name: str = WEIGHTS) -> str | None:
    """What is wrong with weights that are not the one file `name`, by the names of the files that are there."""
    files = sorted(files)
    if len(variants := variants_of(name, (Path(f).name for f in files))) > 1:
        return f"{', '.join(variants)} lie there and no {name}; take away all but the one that is meant"
    for file in files:
        if file.endswith(PICKLES):
            return pickled(file, name)
        if file.endswith(f"{name}.index.json"):
            return f"{file} says that the weights are in several files; write them as one {name}"
    return None


def refuse_changes(directory: Path, key: str) -> None:
    """Raises BadInput for a folder that holds a LoRA alone."""
    if (
        (directory / LORA).is_file()
        and not any(directory.glob("*/config.json"))
        and not any(directory.glob("config.json"))
    ):
        raise BadInput(
            f"{key}: {directory / LORA} holds changes to a model and no model; merge it into the one that it was made "
            "for (pipeline.load_lora_weights, fuse_lora, save_pretrained) and give that folder"
        )


def pickled(file: str | Path, name: str) -> str:
    """Why a pickle is refused, and what to do."""
    return (
        f"{file} is a pickle, which can run code when it is opened; convert it to {name} "
        "(docs/bring-your-own.md shows how)"
    )


class Stored(NamedTuple):
    """A tensor of a safetensors file, unread; its type by the file's name for it."""

    shape: tuple[int, ...]
    dtype: str


def tensors(path: Path, key: str) -> dict[str, Stored]:
    """What a safetensors file holds, by name, from its header. Raises BadInput if the file is torn."""
    try:
        with safe_open(path, framework="np") as f:
            slices = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118 (not a mapping)
            return {name: Stored(tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError) as e:
        raise BadInput(f"{key}: {path} is not a whole safetensors file ({one_line(e)}); fetch it again") from None


def read_header(path: Path, name: str, key: str) -> dict[str, Any]:
    """The JSON object that a safetensors file's header holds under `name`, empty if none. Raises BadInput."""
    tensors(path, key)
    with safe_open(path, framework="np") as f:
        text = (f.metadata() or {}).get(name, "{}")
    try:
        return strict_json.mapping(text.encode(), finite=False)
    except ValueError as e:
        raise BadInput(f"{key}: what the header of {path} says of it is no JSON ({one_line(e)}); mend it") from None


def read_config(path: Path, key: str) -> dict[str, Any]:
    """A JSON object from a file; raises BadInput naming it."""
    try:
        return strict_json.mapping(path.read_bytes(), finite=False)  # `number` names what is not
    except FileNotFoundError:
        raise BadInput(f"{key}: {path} is missing") from None
    except (ValueError, OSError) as e:
        raise BadInput(f"{key}: {path} is not JSON, or no object of it ({one_line(e)}); mend it") from None


def licence(directory: Path) -> str | None:
    """The terms of the weights as their maker states them: "licence" or "license" in training.json, None if nowhere."""
    try:
        stated = strict_json.mapping((directory / "training.json").read_bytes())
        return next((str(stated[k]) for k in ("licence", "license") if stated.get(k)), None)
    except (OSError, ValueError):
        return None


def number(config: dict[str, Any], name: str, path: Path, key: str) -> float:
    """A finite number that the file gives. Raises BadInput if it is something else."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
        raise BadInput(f"{key}: {path} gives {name}={reprlib.repr(value)}, which is not a number")
    return float(value)


def is_finite(value: int | float) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def integer(config: dict[str, Any], name: str, path: Path, key: str) -> int:
    """A positive whole number that the file gives. Raises BadInput if it is something else."""
    value = number(config, name, path, key)
    if value < 1 or value != int(value):
        raise BadInput(f"{key}: {path} gives {name}={value:g}, which is not a positive whole number")
    return int(value)


def load_network(kind: Any, directory: Path, key: str) -> Any:
    """A diffusers network with exactly the weights that a directory holds. Raises BadInput naming what does not fit.

    diffusers alone would fill what the file lacks with random numbers, and leave out what the network has no place for.
    """
    try:
        net, info = kind.from_pretrained(
            str(directory),
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            variant=variant(directory),
        )
    except Exception as e:  # diffusers raises many kinds for weights that do not fit their config
        raise BadInput(f"{key}: {directory} cannot be loaded: {one_line(e)}") from None
    tables = {name for name, _ in net.named_buffers()}  # recomputed, whether a file holds them or not
    lacking, surplus = (sorted(set(info[k]) - tables) for k in ("missing_keys", "unexpected_keys"))
    if lacking or surplus:
        odd = f"has no weight {lacking[0]}" if lacking else f"has a weight {surplus[0]} too many"
        file = weights_name(directory)
        raise BadInput(f"{key}: {directory} cannot be loaded: by its config.json, {file} {odd}; mend one of the two")
    return net


def in_its_variant(directory: Path, name: str) -> str:
    """The path in `directory` of a file, or of what `weights_name` has in its place."""
    path = Path(name)
    if path.suffix != ".safetensors":
        return name
    return (path.parent / weights_name(directory / path.parent, path.name)).as_posix()


def weights_digest(directory: Path, names: list[str], texts: Mapping[str, str], key: str) -> str:
    """Digest of the named files that are there, by content; `texts` stand for files that lack what is published.

    A variant of the weights stands under its own name. Raises BadInput for a file that is not what its training wrote.
    """
    names = [in_its_variant(directory, n) for n in names]
    present = [n for n in names if n in texts or (directory / n).is_file()]
    _check_written(directory, [n for n in present if n not in texts], key)
    return directory_digest(directory, present, texts)


def _check_written(directory: Path, names: Iterable[str], key: str) -> None:
    """Raises BadInput for a file of a finished training that has another digest than its training.json says."""
    record = directory / "training.json"
    try:
        written = strict_json.mapping(record.read_bytes()).get("files")
    except (OSError, ValueError):  # whoever needs it says so
        return
    digests = written if isinstance(written, dict) else {}
    for name in names:
        if name in digests and digests[name] != file_digest(directory / name):
            raise BadInput(
                f"{key}: {directory / name} is not what its training wrote; copy the folder again, or train again; if "
                f'it was changed on purpose, take its line out of "files" in {record}'
            )

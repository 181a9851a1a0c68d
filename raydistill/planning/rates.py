"""How fast machines are, by kind of work: as a record of measurements says, or by bounds, and then it says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raydistill import strict_json
from raydistill.errors import BadInput, one_line
from raydistill.identity import canonical
from raydistill.planning.load import CPU, NETWORKS

# Dense FLOP/s of NVIDIA's data sheets: of bfloat16, which encoding and sampling compute in, and of float32, which
# students and classifiers do unless they are told otherwise. The T4 knows float16 only.
PEAKS = {
    "H200": (989e12, 67e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "A10G": (70e12, 35e12),
    "L40": (181e12, 90.5e12),
    "L4": (121e12, 30.3e12),
    "T4": (65e12, 8.1e12),
    "4090": (165e12, 82.6e12),
}
# Assumed shares of the peak, until somebody measures: transformers reach more of it than convolutions of a VAE, and a
# small student on batches of 128 least.
SHARES = {"encode": 0.25, "denoise": 0.35, "decode": 0.25, "train": 0.2, "test": 0.3, "teach": 0.3}
HALF = ("encode", "denoise", "decode")
# A core, by what `plan --config nette128 --cluster local` measured on one of an AMD EPYC, rounded down; images as if
# they were ImageNet's, which are larger.
CORE = {
    "encode": 150e9,
    "denoise": 100e9,
    "decode": 150e9,
    "train": 90e9,
    "test": 90e9,
    "teach": 90e9,
    "cluster": 25e9,
    "read": 100.0,
    "png": 80.0,
    "table": 60e6,
}
# CPU seconds: of Ray's own start, of a stage of tasks, of a worker with its libraries, of one that trains students and
# has fewer, of a fit.
OVERHEADS = {"ray": 8.0, "tasks": 2.0, "worker": 6.0, "student": 4.0, "fit": 6.0}
RECORD = "raydistill rates"


@dataclass(frozen=True)
class Rates:
    """What a core, or a GPU, does of each kind in a second (load.py), and `how` each is known. `overheads` in CPU
    seconds are a core's."""

    device: str
    per_s: Mapping[str, float]
    how: Mapping[str, str]
    overheads: Mapping[str, float] = field(default_factory=dict)

    def seconds(self, costs: Mapping[str, float]) -> float:
        return sum(amount / self.per_s[kind] for kind, amount in costs.items() if amount)

    def known_by(self) -> list[str]:
        """A line each for how its rates are known, with the kinds that it is so of."""
        lines: dict[str, list[str]] = {}
        for kind, how in self.how.items():
            lines.setdefault(how, []).append(kind)
        return [f"{self.device}: {', '.join(kinds)}: {how}" for how, kinds in lines.items()]


def of_core() -> Rates:
    """A core by bounds."""
    how = "assumed, by what was once measured on a core of an AMD EPYC"
    return Rates("CPU core", CORE, dict.fromkeys((*NETWORKS, *CPU), how), OVERHEADS)


def of_gpu(name: str) -> Rates:
    """A GPU by shares of its peak. Raises BadInput for one whose peak is not known."""
    half, single = peaks(name)
    per_s = {kind: SHARES[kind] * (half if kind in HALF else single) for kind in NETWORKS}
    how = {
        kind: f"assumed {100 * SHARES[kind]:g} % of its {'bfloat16' if kind in HALF else 'float32'} peak of "
        f"{(half if kind in HALF else single) / 1e12:g} TFLOP/s"
        for kind in NETWORKS
    }
    return Rates(name, per_s, how)


def peaks(name: str) -> tuple[float, float]:
    """FLOP/s of bfloat16 and of float32. Raises BadInput."""
    known = model(name)
    if known is None:
        raise BadInput(f"the peak of a GPU {name!r} is not known (known: {', '.join(PEAKS)}); write one of these names")
    return PEAKS[known]


def model(name: str) -> str | None:
    """By which its peak is known: L4 for an NVIDIA L4, and not for an L40S."""
    return next((known for known in PEAKS if known in name), None)


@dataclass(frozen=True)
class RateRecord:
    """A record: rates of one device by kind. `peak` is that of a GPU in bfloat16, None of a core."""

    device: str
    per_s: Mapping[str, float]
    peak: float | None
    source: str
    overheads: Mapping[str, float] = field(default_factory=dict)

    def on(self, rates: Rates) -> Rates:
        """The rates with what was measured: on the same device as it is, on another GPU by the share of its peak."""
        if self.peak is None:
            if rates.device != "CPU core":
                return rates
            how = dict(rates.how) | dict.fromkeys(self.per_s, f"measured ({self.source})")
            overheads = {**rates.overheads, **self.overheads}
            return replace(rates, per_s={**rates.per_s, **self.per_s}, how=how, overheads=overheads)
        if rates.device == "CPU core":
            return rates
        same = model(rates.device) == model(self.device)
        factor = 1.0 if same else peaks(rates.device)[0] / self.peak
        source = f"measured ({self.source})" if same else f"by the share of the peak measured on {self.device}"
        measured = {kind: rate * factor for kind, rate in self.per_s.items()}
        return replace(rates, per_s={**rates.per_s, **measured}, how=dict(rates.how) | dict.fromkeys(measured, source))


def read(path: str, option: str = "--rates ") -> RateRecord:
    """A record that `plan --write-rates` or benchmarks/gpu.py wrote. Raises BadInput, which names the option."""
    try:
        return of_text(Path(path).read_text(), path)
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise BadInput(
            f"{option}{path}: {one_line(e)}; give a file that `plan --write-rates FILE` or "
            "`benchmarks/gpu.py --out FILE` wrote"
        ) from None


def of_text(body: str, path: str) -> RateRecord:
    """Raises ValueError, TypeError or KeyError for what is no record."""
    tree = strict_json.mapping(body.encode())
    return _of_benchmark(tree, path) if "rows" in tree else _of_probe(tree, path)


def text(measured: RateRecord) -> str:
    """The record as a file."""
    body = {"kind": RECORD, "device": measured.device, "per_s": measured.per_s, "overheads": measured.overheads}
    return canonical({**body, "source": measured.source}) + "\n"


def _of_probe(tree: Mapping[str, Any], path: str) -> RateRecord:
    if tree.get("kind") != RECORD:
        raise ValueError("it is no record of rates")
    per_s, overheads = (_positive(tree[key], known) for key, known in (("per_s", CORE), ("overheads", OVERHEADS)))
    return RateRecord(str(tree["device"]), per_s, None, str(tree.get("source", path)), overheads)


def _of_benchmark(tree: Mapping[str, Any], path: str) -> RateRecord:
    """Of the networks as the package runs them, which is not compiled."""
    rows: Sequence[Mapping[str, Any]] = [row for row in tree["rows"] if row["mode"] == "as it is"]
    rates = {str(row["what"]): float(row["rate"]) * float(row["flop_an_image"]) for row in rows}
    per_s = {"encode": rates["VAE encode"], "decode": rates["VAE encode"], "denoise": rates["DiT sample"]}
    if tree["peak"] is None:
        raise ValueError("it is of no GPU whose peak is known")
    return RateRecord(str(tree["device"]), _positive(per_s, CORE), float(tree["peak"]), Path(path).name)


def _positive(tree: Mapping[str, Any], known: Mapping[str, float]) -> dict[str, float]:
    for kind, value in tree.items():
        if kind not in known or isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{kind}={value!r} is no rate")
    return {kind: float(value) for kind, value in tree.items()}

"""measure: how each distilled set stands beside the real images, apart from accuracy. A set is a unit.

Vectors are the features of `features.path`, or the latents themselves. The space belongs to a value's name: fid/latent
and fid/squeezenet1_0 cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa

from raydistill import registry, strict_json
from raydistill.config import Config, EmbedConfig, MetricsConfig, SourceConfig
from raydistill.declared import Aside, Keys, Spread
from raydistill.errors import BadInput, StageFailed
from raydistill.identity import canonical
from raydistill.metrics.base import Metric
from raydistill.models import loaded
from raydistill.models.classifier import Classifier, ClassifierSpec
from raydistill.models.device import placement
from raydistill.sources.images import decode
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.latents.embed import embed_all
from raydistill.stages.runner import Stage
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

KEY = "metrics"
LATENT = "latent"


def real_vectors(real: Sealed, space: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """x (n, D) float32 and labels (n,) of one class of real images after the other, of group's latents or embed's
    features."""
    column = "latent" if space == LATENT else "feature"
    for class_index, table in real.classes([column]):
        yield vectors(table[column]), np.full(len(table), class_index)


def vectors(column: pa.ChunkedArray) -> np.ndarray:
    """A tensor column -> (n, D) float32."""
    return schemas.tensor_numpy(column).reshape(len(column), -1).astype(np.float32)


def requested_spaces(config: MetricsConfig, network: ClassifierSpec | None) -> dict[str, str]:
    """Metric -> the space in which it is computed. Raises BadInput for a name that is unknown or comes twice."""
    if len(set(config.names)) != len(config.names):
        raise BadInput(f"metrics.names: {config.names} names a metric twice")
    feature_space = network.architecture if network else LATENT
    return {name: LATENT if registry.get("metric", name).space == "latent" else feature_space for name in config.names}


@dataclass(frozen=True)
class MeasureWork(StageWork):
    name, folder = "measure", "metrics"

    set: Annotated[SetRef, Keys("digest")]
    spaces: Mapping[str, str]  # metric -> space
    points: Annotated[Mapping[str, Sealed], lambda points, _: [{s: p.digest for s, p in points.items()}]]
    network: Annotated[ClassifierSpec | None, lambda network, work: [work.seen(network) if network else None]]
    code: Spread[list[Any]]  # registry.identity of the metrics
    source: Aside[SourceConfig]  # in `seen`, as is the next
    embed: Aside[EmbedConfig]
    classes: Aside[int]

    def seen(self, network: ClassifierSpec) -> list[Any]:
        """What the network is, and how it is shown the images."""
        e, s = self.embed, self.source
        return [network.identity(), e.batch, e.dtype, e.threads, s.image_size, s.max_pixels]

    def load(self, item: str) -> str:
        return item

    def open(self) -> Callable[[str], Record]:
        at = placement(self.embed)
        network = loaded.classifier(self.network, at) if self.network else None

        def finish(key: str) -> Record:
            try:
                values = self._values(*self._set(network))
            except ValueError as e:  # a metric's own line
                raise StageFailed(f"measure: {self.set.name}: {e}; leave it out of metrics.names") from None
            return self.artifact.commit(key, canonical(values).encode(), rows=1, device=at.kind, ext="json")

        return finish

    def _values(self, x: Mapping[str, np.ndarray], y: np.ndarray, w: np.ndarray) -> dict[str, float]:
        """VALUE/SPACE -> number."""
        values: dict[str, float] = {}
        for name, seen in self._real().items():
            space, metric = self.spaces[name], self._empty(name)
            metric.merge(seen)
            metric.update_synthetic(x[space], y, w)
            values |= {f"{value}/{space}": number for value, number in metric.compute().items()}
        return values

    def _set(self, network: Classifier | None) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """The distilled images in every space, their labels and weights."""
        assert self.set.distilled is not None
        table = self.set.distilled.read(["class_index", "weight", "latent", *(["image"] if network else [])])
        x = {LATENT: vectors(table["latent"])}
        if network is not None:
            s = self.source
            pixels = (decode(data, s.image_size, s.max_pixels) for data in table["image"].to_pylist())
            x[network.spec.architecture] = embed_all(network, pixels, self.embed.batch)
        return x, table["class_index"].to_numpy(), table["weight"].to_numpy()

    def _real(self) -> dict[str, Metric]:
        """The metrics with their real side filled: once a process, whatever the number of sets."""
        places = [(str(p.artifact.location), p.digest) for p in self.points.values()]
        key = canonical([places, self.spaces, self.classes])
        if key not in _real:
            _real.clear()
            metrics = {name: self._empty(name) for name in self.spaces}
            for space, points in self.points.items():
                mine = [metrics[name] for name, where in self.spaces.items() if where == space]
                for x, y in real_vectors(points, space):
                    for metric in mine:
                        metric.update_real(x, y)
            _real[key] = metrics
        return _real[key]

    def _empty(self, name: str) -> Metric:
        return registry.get("metric", name)(self.classes)


_real: dict[str, dict[str, Metric]] = {}  # of the last run that this process measured


def stage(
    config: Config,
    run: RunDir,
    ref: SetRef,
    points: Mapping[str, Sealed],
    network: ClassifierSpec | None,
    classes: int,
) -> Stage:
    """The metrics of one set. `points` are the real images by space: latent, and the network's if there is one."""
    spaces = requested_spaces(config.metrics, network)
    used = {space: p for space, p in points.items() if space in spaces.values()}
    network = network if network and network.architecture in used else None
    code = [part for name in spaces for part in registry.identity("metric", name)]
    work = MeasureWork(ref, spaces, used, network, code, config.source, config.embed, classes).within(run)
    return Stage("measure", "sets", work.artifact, [KEY], lambda k: k, work, 1, "actors", config.embed)


def values(measured: Sealed) -> dict[str, float]:
    """VALUE/SPACE -> number."""
    return strict_json.numbers(measured.body())


def better(names: Sequence[str]) -> dict[str, Literal["lower", "higher"] | None]:
    """Value -> which way is better, for the metrics of these names."""
    return {value.name: value.better for name in names for value in registry.get("metric", name).values}

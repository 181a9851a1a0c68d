"""Another version of any entry is another artifact of whatever stage uses it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from changes import Changed, changed, finished
from libraries import stand_ins
from tiny_run import GENERATED, REAL

from raydistill import registry
from raydistill.config import Config
from raydistill.errors import BadInput
from raydistill.methods.resolve import resolve
from raydistill.models.classifier import ClassifierSpec
from raydistill.pipeline.features import by_features
from raydistill.stages.evaluation import measure, trainings
from raydistill.stages.prototypes import cluster
from raydistill.stages.syntheses import plan, sample

NO_ARTIFACT = {"source", "exporter"}  # what a source gives is known by its listing; a folder of exports has no name


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Changed:
    return finished(tmp_path_factory.mktemp("fingerprints") / "run")


def section(config: Config, key: str, /, **values: Any) -> Config:
    return config.model_copy(update={key: getattr(config, key).model_copy(update=values)})


def of_plan(tiny: Changed, name: str) -> str:
    v = resolve(section(tiny.config, "cluster", leaves=16).model_copy(update={"method": name}))
    anchors = tiny.sealed("cluster") if v.method.uses_prototypes else None
    features = tiny.sealed("embed") if by_features(v) else None
    stage = plan.stage(v, tiny.run, tiny.sealed("group"), anchors, tiny.train.classes, tiny.shape, features)
    return stage.artifact.fingerprint


def of_sample(tiny: Changed, method: str, sampler: str | None) -> str:
    v = resolve(section(tiny.config, "sampler", name=sampler).model_copy(update={"method": method}))
    real, above = tiny.sealed("group"), tiny.sealed(f"plan {GENERATED}")
    if v.sampling is not None:
        v = v.with_networks(dict.fromkeys(v.sampling.roles, tiny.network))
    return sample.stage(v, tiny.run, above, real, tiny.train, tiny.vae, tiny.generator).artifact.fingerprint


def of_clustering(tiny: Changed, name: str) -> str:
    config = section(tiny.config, "cluster", algorithm=name, leaves=16)
    stage = cluster.stage(config, tiny.run, tiny.sealed("group"), tiny.train.classes, tiny.shape)
    return stage.artifact.fingerprint


def of_guidance(tiny: Changed, name: str) -> str:
    """By the first method that is guided by it, or has it as a term beside its own."""
    methods = [(m, registry.get("method", m)) for m in registry.names("method")]
    return of_sample(tiny, next(m for m, kind in methods if name in (kind.guidance, *kind.terms)), None)


def of_sampler(tiny: Changed, name: str) -> str:
    """By the first method that goes with it."""
    for method in (m for m in registry.names("method") if registry.get("method", m).generates):
        with contextlib.suppress(BadInput):
            return of_sample(tiny, method, name)
    raise AssertionError(f"no method goes with sampler {name}")


def of_metric(tiny: Changed, name: str) -> str:
    config = section(tiny.config, "metrics", names=[name])
    points = {measure.LATENT: tiny.sealed("group")}
    return measure.stage(config, tiny.run, tiny.ref(REAL), points, None, 2).artifact.fingerprint


def of_training(config: Config, tiny: Changed) -> str:
    return trainings.trainings(config, tiny.run, [tiny.ref(REAL)], tiny.test)[0].artifact.fingerprint


def of_classifier(tiny: Changed, name: str) -> str:
    """By what it labels, embeds and examines: each knows its network by what that says of itself."""
    network = ClassifierSpec.__new__(ClassifierSpec)
    vars(network).update(vars(tiny.network) | {"architecture": name, "width": None})
    other = changed(tiny, tiny.config)
    other.network = network
    return "".join(other.stage(stage).artifact.fingerprint for stage in ("embed", "teacher", f"label {GENERATED}"))


USERS: dict[str, Callable[[Changed, str], str]] = {
    "method": of_plan,
    "clustering": of_clustering,
    "guidance": of_guidance,
    "sampler": of_sampler,
    "metric": of_metric,
    "student": lambda tiny, name: of_training(section(tiny.config, "evaluate", students=[name]), tiny),
    "protocol": lambda tiny, name: of_training(
        section(tiny.config, "evaluate", protocol=tiny.config.evaluate.protocol.model_copy(update={"name": name})), tiny
    ),
    "classifier": of_classifier,
}


def test_every_kind_is_used_by_a_stage_or_makes_no_artifact() -> None:
    assert set(USERS) | NO_ARTIFACT == set(registry.PACKAGES)


def entries(kind: str) -> list[str]:
    """All of a kind, and of a family one member."""
    return [*registry.names(kind), *(f"{family}resnet18" for family in registry.families(kind))]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in USERS for name in entries(kind)])
def test_another_version_of_an_entry_is_another_artifact(
    kind: str, name: str, tiny: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, colon, _ = name.partition(":")
    with stand_ins() if colon else contextlib.nullcontext():
        before = USERS[kind](tiny, name)
        assert USERS[kind](tiny, name) == before
        monkeypatch.setattr(registry.entry(kind, family + colon), "version", 99, raising=False)
        assert USERS[kind](tiny, name) != before

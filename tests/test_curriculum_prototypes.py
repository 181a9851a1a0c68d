"""Increments whose base has prototypes share them out: nobody is led twice to the same one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curricula import begun as begun  # the fixture
from curricula import grown, prepared, rows
from curricula import root as root  # the fixture

from raydistill.pipeline import job
from raydistill.pipeline.steps import Steps
from raydistill.results import reporting
from raydistill.stages.prototypes.selection import untaken
from raydistill.stages.runner import serial
from raydistill.state import Prepared
from raydistill.store import schemas
from raydistill.store.artifact import Artifact

PLAIN = {"scale": 0.0, "repulsion": 0.0}  # nothing leads them, and nothing is trained


def of_base(root: Path, ipc: int, base: str = "mgd3", seed_method: str = "mgd3", **more: Any) -> Prepared:
    own = {"base": base, "seed_method": seed_method, "candidates": 1, "increment": 2}
    return prepared(root, ipc=ipc, lgd=own, learnability=PLAIN, **more)


def prototypes(p: Prepared) -> list[np.ndarray]:
    """Of the first class by increment, (2, D) each."""
    steps, v = Steps(p, serial), p.variants[0]
    assert v.growth is not None
    plans = [steps.plan(v.growth.first), *(steps.plan_of(v, i) for i in range(1, v.growth.count(p.config.ipc)))]
    tables = [plan.read(["class_index", "prototype"]) for plan in plans]
    of = [schemas.tensor_numpy(t["prototype"])[t["class_index"].to_numpy() == 0] for t in tables]
    return [x.reshape(len(x), -1) for x in of]


@pytest.mark.parametrize("base", ["mgd3", "manifoldgd", "pgfm", "ddoq"])
def test_no_two_slots_of_a_class_are_led_to_the_same_prototype(base: str, root: Path) -> None:
    more = {"hierarchy": {"selection": "leaves"}, "path": {"t0": 0.0}, "sampler": {"steps": 4}}
    every = np.concatenate(prototypes(of_base(root, 6, base, base, **more)))
    apart = np.linalg.norm(every[:, None] - every[None], axis=2)
    assert every.shape == (6, 256) and apart[~np.eye(6, dtype=bool)].min() > 0.1


def test_an_increment_has_what_is_new_where_as_many_are_made_as_the_set_then_has(root: Path) -> None:
    """Together they cover a class nearly as well as the prototypes that its base alone would have."""
    p = of_base(root, 6)
    steps, (first, second, third) = Steps(p, serial), prototypes(p)
    growth = p.variants[0].growth
    assert growth is not None
    made = steps.prototypes(growth.among(2)).read()
    centroids = schemas.tensor_numpy(made["centroid"])[made["class_index"].to_numpy() == 0].reshape(6, -1)
    assert all((np.abs(centroids - new).sum(1) == 0).any() for new in third)
    latents = next(schemas.tensor_numpy(t["latent"]) for _, t in steps.classes().classes(["latent"]))
    points = latents.reshape(len(latents), -1).astype(np.float64)

    def error(*parts: np.ndarray) -> float:
        return float(np.linalg.norm(points[:, None] - np.concatenate(parts)[None], axis=2).min(1).mean())

    assert error(first, second, third) < error(first, second) < error(first)
    assert error(first, second, third) < 1.15 * error(centroids)


def test_more_increments_go_on_behind_the_prototypes_that_are_there(root: Path) -> None:
    few, many = prototypes(of_base(root, 4)), prototypes(of_base(root, 8))
    assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
    digests = [grown(of_base(root, ipc))[0].parts for ipc in (4, 6)]
    assert [part.digest for part in digests[0]] == [part.digest for part in digests[1][:2]]


def test_behind_a_seed_without_prototypes_they_begin_with_the_first_increment(root: Path) -> None:
    p = of_base(root, 4, seed_method="dit")
    nobody, first = prototypes(p)
    assert not nobody.any()
    assert np.array_equal(first, prototypes(of_base(root, 4))[0])


def test_the_page_links_the_slots_of_the_seed_to_its_prototypes_and_no_others(root: Path) -> None:
    """Each increment numbers its own: a later one's number is no prototype of the seed's."""
    done = job.run(of_base(root, 4), "sample", execute=serial)
    led = {item.slot: item.prototype_id for item in reporting.panels(done)[0].items}
    assert sorted(led) == [0, 1, 2, 3] and {led[0], led[1]} == {0, 1} and led[2] == led[3] == -1


def test_the_page_reads_each_file_of_the_plan_and_of_the_set_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand classes both are gigabytes."""
    done = job.run(of_base(root, 4), "sample", execute=serial)
    reads: Counter[str] = Counter()
    whole = Artifact.read
    monkeypatch.setattr(Artifact, "read", lambda a, record: (reads.update([record.file]), whole(a, record))[1])
    assert len(reporting.panels(done)) > 1
    method = done.prepared.config.method
    files = [r.file for s in (done.plans[method], *done.syntheses[method].parts) for r in s.records]
    assert [reads[file] for file in files] == [1] * len(files)


def test_they_weigh_what_their_own_cells_weigh(root: Path) -> None:
    p = of_base(root, 4, weights={"mode": "density"}, sampler={"steps": 2, "cfg_scale": 1.0})
    made, _ = grown(p)
    mine = [row for row in rows(made) if row["class_index"] == 0 and row["slot"] > 1]
    growth = p.variants[0].growth
    assert growth is not None
    cells = Steps(p, serial).prototypes(growth.among(1)).read(["class_index", "size"])
    sizes = cells["size"].to_numpy()[cells["class_index"].to_numpy() == 0]
    mass = sizes[[row["prototype_id"] for row in mine]]
    assert [row["weight"] for row in mine] == pytest.approx(list(mass / mass.mean()))


def test_what_is_left_is_what_nobody_before_stands_for() -> None:
    offered = np.array([[0.0], [1.0], [5.0], [9.0]])
    assert untaken(offered, np.array([[0.4], [8.0]])).tolist() == [1, 2]
    assert untaken(offered, np.array([[5.1], [5.1]])).tolist() == [0, 1, 3], "one that was used twice is one"
    assert untaken(offered[:2], np.array([[0.0], [1.0]])).tolist() == [0, 1], "too few are used again"

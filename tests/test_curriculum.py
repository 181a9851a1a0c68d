"""A curriculum without Ray: how a set grows out of increments, what it finds again, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from curricula import EVALUATE, LEARNS, fitted_here, grown, prepared, rows
from curricula import begun as begun  # the fixture
from curricula import root as root  # the fixture
from samples import write_student
from tiny_run import config

from raydistill import registry
from raydistill.config import ProtocolConfig, load
from raydistill.errors import BadInput, StageFailed
from raydistill.evaluation.recipe import Recipe, Setting
from raydistill.guidance.learnability import CURRENT, REFERENCE
from raydistill.methods.resolve import resolve
from raydistill.models.checkpoint import packaged
from raydistill.models.classifier import Classifier, ClassifierSpec
from raydistill.models.device import Placement
from raydistill.pipeline import curriculum
from raydistill.pipeline.beforehand import first_unfinished
from raydistill.pipeline.preflight import prepare
from raydistill.pipeline.steps import Steps
from raydistill.sources.images import decode
from raydistill.stages.evaluation import trainer
from raydistill.stages.evaluation.trainings import recipe
from raydistill.stages.runner import serial
from raydistill.stages.syntheses import increment
from raydistill.stages.syntheses.increment import CHOSEN, REJECTED, Judge
from raydistill.state import Prepared
from raydistill.store import faults, schemas

CPU = Placement(torch.device("cpu"), torch.float32, "cpu")


@pytest.fixture(scope="module", autouse=True)
def trained() -> Iterator[list[str]]:
    with fitted_here() as labels:
        yield labels


@pytest.fixture
def fitted(trained: list[str]) -> list[str]:
    """Of this test."""
    trained.clear()
    return trained


def traced(row: dict[str, Any], name: str) -> float | None:
    return next((t["value"] for t in row["trace"] if t["name"] == name), None)


def test_more_images_go_on_from_what_is_there(root: Path, begun: Path, tmp_path: Path, fitted: list[str]) -> None:
    """Two increments after the seed in one run are one increment twice."""
    two, _ = grown(prepared(root))
    assert fitted == ["full data/convnet/seed0", "lgd 1/convnet/seed0"]
    assert first_unfinished(prepared(root, ipc=3), "sample") and len(fitted) == 2, "what looks ahead trains nothing"
    three, began = grown(prepared(root, ipc=3))
    assert began == ["plan lgd 2", "increment lgd 2"] and fitted[2:] == ["lgd 2/convnet/seed0"]
    assert [p.digest for p in three.parts[:2]] == [p.digest for p in two.parts]
    assert [r["slot"] for r in rows(three)] == [0, 1, 2, 0, 1, 2]
    at_once, _ = grown(prepared(shutil.copytree(begun, tmp_path / "other"), ipc=3))
    assert at_once.digest == three.digest
    again, began = grown(prepared(root, ipc=3))
    assert again.digest == three.digest and not began and len(fitted) == 6


class TestKilled:
    """Whatever was going on, run again it is the same set."""

    @pytest.fixture(scope="class")
    def undisturbed(self, begun: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
        root = shutil.copytree(begun, tmp_path_factory.mktemp("undisturbed") / "run")
        return root, grown(prepared(root, ipc=3, sample={"batch": 2, "device": "cpu"}))[0].digest

    @pytest.mark.parametrize(
        ("stage", "point", "key"),
        [
            ("syntheses", "before_commit", "classes-00001"),
            ("syntheses", "before_manifest", ""),
            ("classifiers", "after_commit", "model"),
            ("evaluations", "before_write", "training"),
        ],
    )
    def test_inside_an_increment(
        self, stage: str, point: str, key: str, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second after the seed, whose artifacts are taken away."""
        whole, digest = undisturbed
        shutil.copytree(whole, tmp_path / "run")
        p = prepared(tmp_path / "run", ipc=3, sample={"batch": 2, "device": "cpu"})
        synthesis, trained = curriculum.grow(Steps(p, serial), p.variants[0])
        for artifact in (synthesis.parts[2].artifact, trained[1].artifact, trained[1].classifier):
            shutil.rmtree(artifact.location.uri)

        def hook(*here: str) -> None:
            if here[:2] == (stage, point) and key in ("", here[2]):
                monkeypatch.setattr(faults, "hook", None)
                raise Death

        monkeypatch.setattr(faults, "hook", hook)
        with pytest.raises(Death):
            grown(p)
        assert first_unfinished(p, "sample") in ("sample", "increment")
        again, _ = grown(p)
        assert again.digest == digest and first_unfinished(p, "sample") is None


class Death(BaseException):
    """Stands for SIGKILL: nothing that handles exceptions handles it."""


def test_without_push_and_choice_it_is_its_base_and_trains_nothing(root: Path, fitted: list[str]) -> None:
    alone = {"batch": 1, "device": "cpu"}  # last bits depend on how many images are computed together
    p = prepared(root, lgd={"candidates": 1}, learnability={"scale": 0.0, "repulsion": 0.0}, sample=alone)
    synthesis, _ = grown(p)
    dit = resolve(p.config.model_copy(update={"method": "dit", "ipc": 1}))
    steps = Steps(p, serial)
    for i, part in enumerate(synthesis.parts):
        plain = steps.syntheses(dit, i).read(["image", "latent", "seed_key", "nfe"])
        assert part.read(["image", "latent", "seed_key", "nfe"]).equals(plain)
    assert fitted == []


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("network", ["generator", "flow"])
def test_with_nobody_to_be_pushed_from_it_is_its_base(network: str, sampler: str, root: Path) -> None:
    """Guidance acts, and its push is zero: also of a flow, which does not predict the noise estimate that is pushed."""
    more = {"generator": {"path": packaged(network)}, "sampler": {"name": sampler, "steps": 4, "cfg_scale": 1.0}}
    alone = {"batch": 1, "device": "cpu"}
    p = prepared(root, lgd={"candidates": 1}, learnability={"scale": 0.0, "repulsion": 0.3}, sample=alone, **more)
    led = grown(p)[0].parts[1].read(["image", "latent"])
    dit = resolve(p.config.model_copy(update={"method": "dit", "ipc": 1}))
    assert led.equals(Steps(p, serial).syntheses(dit, 1).read(["image", "latent"]))


def test_without_a_choice_the_first_is_taken_and_nothing_is_judged(root: Path) -> None:
    synthesis, _ = grown(prepared(root, lgd={"candidates": 1}))
    for row in synthesis.parts[1].read().to_pylist():
        assert row["seed_key"].endswith("/0/1/0") and traced(row, CHOSEN) is None and row["nfe"] == 2
        assert traced(row, "score") is not None, "what it was led by is told step by step"


def test_the_best_candidate_is_kept_and_pays_for_all(root: Path) -> None:
    """Also where nothing leads them: the cheap variant."""
    p = prepared(root, lgd={"candidates": 3}, learnability={"scale": 0.0, "repulsion": 0.0})
    steps, v = Steps(p, serial), p.variants[0]
    synthesis, (trained,) = curriculum.grow(steps, v)
    assert v.growth is not None
    specs = {REFERENCE: curriculum.reference(steps, v.growth), CURRENT: ClassifierSpec(kept(p, trained))}
    judge = Judge({role: Classifier(spec, CPU) for role, spec in specs.items()}, v.growth.how.omega, CPU)
    table = synthesis.parts[1].read().to_pylist()
    for row in table:
        chosen, rejected = traced(row, CHOSEN), traced(row, REJECTED)
        judged = judge(decode(row["image"], 32, 10**6)[None].copy(), [["3", "7"][row["class_index"]]])[0]
        assert chosen == pytest.approx(judged, abs=1e-5) and chosen >= rejected and row["nfe"] == 3 * 2
    assert {row["seed_key"][-1] for row in table} != {"0"}, "somebody else than the first was best"


def test_memory_is_frozen_for_a_round_and_may_reach_back(root: Path) -> None:
    """Two slots an increment: the first of a class knows nobody, but with `all` the seed."""
    strong = {"scale": 0.0, "repulsion": 0.3}

    def latents(**lgd: Any) -> list[np.ndarray]:
        lgd = {"increment": 2, "candidates": 1} | lgd
        synthesis, _ = grown(prepared(root, ipc=4, lgd=lgd, learnability=strong))
        table = synthesis.parts[1].read(["class_index", "slot", "latent"])
        z = schemas.tensor_numpy(table["latent"])
        order = np.lexsort((table["slot"].to_numpy(), table["class_index"].to_numpy()))
        return list(z[order])

    sequential, frozen, back = latents(), latents(round=2), latents(memory_scope="all")
    for first, second in ((0, 1), (2, 3)):
        assert np.allclose(sequential[first], frozen[first], atol=5e-4)
        assert not np.allclose(sequential[second], frozen[second], atol=1e-3)
        assert not np.allclose(sequential[first], back[first], atol=1e-3)


def test_units_depend_on_the_plan_alone_and_few_classes_are_shared_too() -> None:
    """As many classes as fill a batch; of ten, which fill one, four units. Actors are not asked."""
    how = resolve(config(method="lgd", ipc=3)).growth.how  # type: ignore[union-attr]
    cut = [[len(unit) for unit in increment.shared(n, 64, how)] for n in (1, 3, 10, 100, 1000)]
    assert cut == [[1], [1] * 3, [2, 3, 2, 3], [21] * 4 + [16], [21] * 47 + [13]]
    assert sorted(c for unit in increment.shared(10, 64, how) for c in unit) == list(range(10))


def test_a_student_that_learns_nothing_stops_it(root: Path) -> None:
    evaluate = EVALUATE | {"protocol": LEARNS | {"lr": 1e-9}}
    with pytest.raises(StageFailed, match=r"^reference: convnet on all real images is right on .* learned nothing"):
        grown(prepared(root, evaluate=evaluate))


def test_what_a_student_that_learns_nothing_is_said_to_need_helps(root: Path) -> None:
    """The key that says how long it is trained, of the set so far and of all real images."""

    def grow(**protocol: int | float) -> None:
        alone = {"omega": 0.0, "candidates": 1}  # the reference is asked for nothing
        evaluate = EVALUATE | {"protocol": LEARNS | protocol}
        grown(prepared(root, evaluate=evaluate, lgd=alone, learnability={"omega": 0.0}))

    with pytest.raises(StageFailed, match=r"^current: .* learned nothing .*\(evaluate\.protocol\.visits\), or"):
        grow(visits=2)
    grow(visits=400)
    assert curriculum.longer(ProtocolConfig(epochs=3)).startswith("train longer (evaluate.protocol.epochs)")
    assert curriculum.longer(ProtocolConfig()).startswith("train longer (evaluate.protocol.budget)")


def test_a_given_teacher_is_examined_before_it_judges(root: Path, tmp_path: Path) -> None:
    teacher = {"path": write_student(tmp_path / "teacher")}
    with pytest.raises(StageFailed, match=r"^teacher: .* recognises .* less than the 75\.0 %"):
        grown(prepared(root, lgd={"reference": "teacher"}, teacher=teacher))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"lgd": {"candidates": 0}}, "lgd.candidates: Input should be greater than or equal to 1"),
        ({"ipc": 4, "lgd": {"increment": 3}}, "lgd.increment=3 does not divide ipc=4"),
        ({"ipc": 2, "lgd": {"increment": 2}}, "ipc=2 is a single increment of 2, which is its seed alone"),
        ({"lgd": {"base": "random"}}, "lgd.base=random generates no images of its own"),
        ({"lgd": {"base": "lgd"}}, r"lgd.base=lgd fills no increment itself; choose another \(dit, mgd3\)$"),
        ({"ipc": 1}, "which is its seed alone; raise ipc$"),
        ({"lgd": {"seed_method": "lgd"}}, "lgd.seed_method=lgd begins nowhere"),
        ({"lgd": {"student": "convnt"}}, "unknown student 'convnt'; did you mean 'convnet'"),
        ({"lgd": {"reference": "teacher"}}, "lgd.reference=teacher judges by a teacher: give teacher.path=FILE"),
        (
            {"learnability": {"start": 0.4, "stop": 0.3}},
            r"learnability.start=0.4\) holds none of the 2 steps",
        ),
        ({"learnability": {"start": 0.1}}, "learnability.start=0.1 must be above learnability.stop=0.18"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, more: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why) as said:
        prepared(tmp_path / "run", **more)
    assert "\n" not in str(said.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("soft", [{"name": "rded"}, {"name": "rd3", "soft_labels": 4}])
def test_under_soft_labels_it_is_trained_by_hard_ones_of_any_number_of_images(
    soft: dict[str, Any], tmp_path: Path
) -> None:
    """RDED knows batches of 1, 10 and 50 images a class alone, and increments are of others."""
    teacher = {"path": write_student(tmp_path / "teacher")}
    evaluate = EVALUATE | {"protocol": LEARNS | soft, "redundancy_parts": 0}
    p = prepared(tmp_path / "run", ipc=10, lgd={"increment": 5}, evaluate=evaluate, teacher=teacher)
    v = p.variants[0]
    assert v.growth is not None
    for one in (curriculum.of_current(v, 1), curriculum.of_reference(v.growth)):
        assert not recipe(one, 2, "convnet").soft


def test_increments_that_a_protocol_has_no_numbers_for_are_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = registry.get
    build = get("protocol", "hard")

    def some(setting: Setting) -> Recipe:
        if setting.ipc == 1:
            raise BadInput("protocol hard has nothing for ipc=1")
        return build(setting)

    monkeypatch.setattr(registry, "get", lambda kind, name: some if kind == "protocol" else get(kind, name))
    with pytest.raises(BadInput, match="has nothing for ipc=1"):
        prepared(tmp_path / "run", ipc=2)
    assert not (tmp_path / "run").exists()
    assert prepared(tmp_path / "run", ipc=4, lgd={"increment": 2}).variants[0].growth is not None


def test_a_reference_of_other_classes_is_refused(tmp_path: Path) -> None:
    teacher = {"path": write_student(tmp_path / "teacher", classes=["3", "5"])}
    with pytest.raises(BadInput, match="class '7' is not one of the 2 classes of the teacher"):
        prepared(tmp_path / "run", lgd={"reference": "teacher"}, teacher=teacher)


def test_the_quickstart_has_increments_out_of_the_box(tmp_path: Path) -> None:
    p = prepare(load("quickstart", ["method=lgd", f"run_dir={tmp_path / 'run'}"]))
    growth = p.variants[0].growth
    assert growth is not None and growth.count(p.config.ipc) == p.config.evaluate.redundancy_parts == 3


def test_how_many_increments_there_are_unless_it_is_said() -> None:
    sizes = {ipc: curriculum_of(ipc) for ipc in (3, 10, 12, 50, 100)}
    assert sizes == {3: 1, 10: 2, 12: 3, 50: 10, 100: 20}


def curriculum_of(ipc: int) -> int:
    growth = resolve(config(method="lgd", ipc=ipc)).growth
    assert growth is not None
    return growth.how.increment


def kept(p: Prepared, training: trainer.Training) -> str:
    return training.checkpoint(p.run.root / "checkpoints").path


@pytest.mark.parametrize(
    ("base", "led_by"), [("mgd3", "mode"), ("manifoldgd", "manifold"), ("pgfm", "path"), ("ddoq", "")]
)
def test_it_adds_to_what_leads_its_base(base: str, led_by: str, root: Path) -> None:
    """Its prototypes, its sampler and its start are kept, and each guidance tells its own push."""
    more = {"path": {"t0": 0.0, "t_stop": 0.9}, "sampler": {"steps": 4, "cfg_scale": 1.0}, "guidance": {"stop": 0.0}}
    synthesis, _ = grown(prepared(root, lgd={"base": base, "candidates": 1}, **more))
    table = synthesis.parts[1].read().to_pylist()
    names = {t["name"] for row in table for t in row["trace"]}
    assert all(row["prototype_id"] == 0 and row["landing"] is not None for row in table)
    pushes = {"push", *((f"push {led_by}", "push learnability") if led_by else ())}
    assert {name for name in names if name.startswith("push")} == pushes and "score" in names


def test_weights_and_a_start_go_with_it(root: Path) -> None:
    """Of its increments; the seed has those of its own method."""
    more = {"sampler": {"steps": 4, "cfg_scale": 1.0}, "guidance": {"stop": 0.0}, "start": {"strength": 0.5}}
    led = {"base": "mgd3", "increment": 2, "candidates": 1}
    synthesis, _ = grown(prepared(root, ipc=4, lgd=led, weights={"mode": "density"}, **more))
    table = synthesis.parts[1].read(["class_index", "nfe", "trace"]).to_pylist()
    assert {row["nfe"] for row in table} == {2}, "half of the steps run"
    assert all(traced(row, "score") is not None for row in table), "and one of them is led"
    weights = np.array([row["weight"] for row in rows(synthesis)]).reshape(2, 4)  # by class and slot
    seed, grew = weights[:, :2], weights[:, 2:]
    assert (seed == 1).all() and grew.mean(1) == pytest.approx(1.0) and np.ptp(grew) > 0

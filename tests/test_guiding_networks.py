"""Guidance by networks: gradients through VAE and classifier, and how a classifier comes to its guidance."""

from __future__ import annotations

import pickle
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import analytic
import numpy as np
import pytest
import torch
from samples import write_student
from test_docs_examples import EXAMPLES
from tiny_run import TinyRun, config

from raydistill import registry
from raydistill.errors import BadInput
from raydistill.guidance.gradient import gradient
from raydistill.guidance.networks import Networks
from raydistill.methods.resolve import resolve
from raydistill.models import loaded
from raydistill.models.classifier import Classifier, ClassifierSpec, unit_images
from raydistill.models.device import Placement
from raydistill.models.vae import Vae, VaeSpec
from raydistill.pipeline import preflight, product, spreading, unread
from raydistill.sources.images import decode
from raydistill.stages import runner
from raydistill.stages.runner import serial
from raydistill.state import Prepared

EXACT = Placement(torch.device("cpu"), torch.float64, "cpu/float64")
PLAIN = Placement(torch.device("cpu"), torch.float32, "cpu/float32")
METHOD = "mgd3_classified"


@pytest.fixture
def classified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/extend.md, registered."""
    for kind in registry.PACKAGES:
        registry.names(kind)
    monkeypatch.setattr(registry, "_entries", {kind: dict(entries) for kind, entries in registry._entries.items()})
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    exec(EXAMPLES[f"guidance classified, method {METHOD}"], module.__dict__)


def networks(folder: Path, placement: Placement, latent_scale: float = 1.0) -> Networks:
    """The VAE of the quickstart, and a convnet that resizes its 32 pixels a side to 16."""
    student = Classifier(ClassifierSpec(write_student(folder)), placement)
    return Networks(latent_scale, ["7", "3"], Vae(VaeSpec(None), placement), {"teacher": student})


def latents(count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return analytic.noise(3, count, (4, 8, 8)).to(dtype)


class TestGradients:
    def log_p(self, bound: Networks, checkpointed: bool = False) -> Any:
        def of(x0: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
            logits = bound.logits("teacher", bound.decode(x0, checkpointed), checkpointed)
            return logits.log_softmax(1).gather(1, column.view(-1, 1)).squeeze(1)

        return of

    def test_they_are_those_of_the_closed_form(self) -> None:
        """log p = log sigmoid(2 a), a the mean of z / 2 over the painted channels: dz = (1 - p) / (3 h w)."""
        bound, z = analytic.networks(["teacher"], 0.5), latents(2)
        value, slope = gradient(self.log_p(bound), z, torch.zeros(2, dtype=torch.long))
        expected = (z[:, :3] / 0.5).mean(dim=(1, 2, 3)).sigmoid()
        torch.testing.assert_close(value, expected.log())
        by_hand = ((1 - expected) / 0.5 / (3 * 64)).view(2, 1, 1, 1).expand(2, 3, 8, 8)
        torch.testing.assert_close(slope, torch.cat([by_hand, torch.zeros(2, 1, 8, 8)], 1))

    def test_they_are_finite_differences_through_the_real_networks(self, tmp_path: Path) -> None:
        bound, z = networks(tmp_path, EXACT, 1.3), latents(2)
        column = bound.columns("teacher", torch.tensor([0, 1]))
        of = self.log_p(bound)
        value, slope = gradient(of, z, column)
        assert slope.dtype == torch.float64 and value[0] != value[1]
        for seed in range(3):
            way = analytic.noise(seed, 2, (4, 8, 8)).double()
            with torch.no_grad():
                rise = (of(z + 1e-6 * way, column) - of(z - 1e-6 * way, column)) / 2e-6
            torch.testing.assert_close((slope * way).sum(dim=(1, 2, 3)), rise, rtol=1e-5, atol=1e-9)

    @pytest.mark.parametrize("micro_batch", [1, 2, None])
    @pytest.mark.parametrize("checkpointed", [False, True])
    def test_micro_batches_and_checkpointing_change_nothing(
        self, tmp_path: Path, micro_batch: int | None, checkpointed: bool
    ) -> None:
        bound, z, column = networks(tmp_path, EXACT), latents(3), torch.tensor([0, 1, 1])
        whole = gradient(self.log_p(bound), z, column)
        parts = gradient(self.log_p(bound, checkpointed), z, column, micro_batch=micro_batch)
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)

    def test_checkpointing_goes_through_the_networks_twice(self, tmp_path: Path) -> None:
        bound, calls = networks(tmp_path, PLAIN), Counter[str]()
        parts = {"vae": bound.vae.net.decoder.up_blocks[0].resnets, "student": bound.classifiers["teacher"].net}
        for name, part in parts.items():
            next(part.children()).register_forward_hook(lambda *_, name=name: calls.update([name]))
        for checkpointed, passes in ((False, 1), (True, 2), (False, 1)):
            before = calls.copy()
            gradient(self.log_p(bound, checkpointed), latents(1, torch.float32), torch.tensor([0]))
            assert calls - before == {"vae": passes, "student": passes}

    def test_the_loops_that_record_none_get_them_too(self, tmp_path: Path) -> None:
        bound, z, column = networks(tmp_path, PLAIN), latents(2, torch.float32), torch.tensor([0, 1])
        outside = gradient(self.log_p(bound), z, column)
        with torch.inference_mode():
            inside = gradient(self.log_p(bound), z + 0, column + 0)
            assert torch.is_inference_mode_enabled() and inside[1].add(z).is_inference()
        assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))

    def test_the_numbers_are_those_of_the_doors_without(self, tmp_path: Path) -> None:
        bound, z = networks(tmp_path, PLAIN), latents(2, torch.float32)
        pixels = bound.decode(z)
        shown = pixels.mul(255).round().clamp(0, 255).permute(0, 2, 3, 1)
        assert (shown - bound.vae.decode(z)).abs().max() <= 1  # a half rounds either way
        teacher = bound.classifiers["teacher"]
        assert torch.equal(bound.logits("teacher", pixels), teacher.logits(pixels))
        assert torch.equal(bound.features("teacher", pixels), teacher.features(pixels))
        leaf = pixels.clone().requires_grad_()
        assert teacher.logits_with_grad(leaf).requires_grad and teacher.features_with_grad(leaf).requires_grad
        assert not teacher.logits(leaf).requires_grad and not teacher.features(leaf).requires_grad

    def test_columns_are_found_by_class_id(self, tmp_path: Path) -> None:
        """The generator says 7, 3; the classifier 3, 7."""
        assert networks(tmp_path, PLAIN).columns("teacher", torch.tensor([0, 1, 0])).tolist() == [1, 0, 1]


def asked(teacher: str | None, **more: Any) -> Any:
    tree = {"method": METHOD, "teacher": {"path": teacher}, "classified": {"pull": 2.0, "micro_batch": 3}}
    return config(**tree | {"guidance": {"stop": 0.0, "scale": 0.5}} | more)


@pytest.mark.usefixtures("classified")
class TestOnTheWay:
    def images(self, tiny: TinyRun, name: str) -> tuple[np.ndarray, torch.Tensor]:
        rows = tiny.sealed(f"sample {name}").read().to_pylist()
        pixels = np.stack([decode(row["image"], 32, 10**6) for row in rows])
        return pixels, torch.tensor([row["class_index"] for row in rows])

    def test_a_run_is_led_to_what_the_teacher_takes_for_the_class(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its networks are loaded once for all batches and methods; another teacher makes other images."""
        teacher, loads = write_student(tmp_path / "teacher"), Counter[str]()
        monkeypatch.setattr(loaded, "_kept", {})
        classifier = loaded.Classifier
        monkeypatch.setattr(loaded, "Classifier", lambda *args: loads.update(["teacher"]) or classifier(*args))
        tiny = TinyRun(tmp_path / "run")
        tiny.config = asked(teacher)
        names = ["encode", "group", "cluster", *(f"{s} {m}" for m in ("mgd3", METHOD) for s in ("plan", "sample"))]
        tiny.finish(names)
        first = tiny.sealed(f"sample {METHOD}").artifact
        tiny.config = asked(teacher, classified={"pull": 1.0})
        tiny.finish([f"sample {METHOD}"])
        assert loads == {"teacher": 1}
        tiny.config = asked(teacher)
        judge = Classifier(ClassifierSpec(teacher), PLAIN)
        score = {}
        for name in ("mgd3", METHOD):
            pixels, labels = self.images(tiny, name)
            log_p = judge.logits(unit_images(pixels)).log_softmax(1)
            score[name] = log_p.gather(1, labels.view(-1, 1)).mean()
        assert score[METHOD] > score["mgd3"]
        tiny.config = asked(write_student(tmp_path / "other", mean=[0.4] * 3))
        other = tiny.stage(f"sample {METHOD}")
        assert other.artifact.fingerprint != first.fingerprint
        tiny.config = asked(write_student(tmp_path / "copy"))
        assert tiny.stage(f"sample {METHOD}").artifact.fingerprint == first.fingerprint
        runner.run(other, serial)

    def test_as_the_base_of_a_curriculum_it_asks_beside_learnability(self, tmp_path: Path) -> None:
        """Both lead an increment, each by its own classifiers."""
        tiny = TinyRun(tmp_path / "run")
        tiny.config = asked(write_student(tmp_path / "teacher"))
        names = ["encode", "group", "cluster", f"plan {METHOD}", f"sample {METHOD}", f"increment {METHOD}"]
        tiny.finish(names)
        rows = tiny.sealed(names[-1]).read().to_pylist()
        told = {t["name"] for row in rows for t in row["trace"]}
        assert {"push", "push classified", "push learnability", "score"} <= told

    def test_of_a_curriculum_the_network_of_its_base_is_found_and_read(self, tmp_path: Path) -> None:
        def grows(teacher: str | None) -> Prepared:
            own = {"base": METHOD, "increment": 1, "seed_method": "dit"}
            return preflight.prepare(asked(teacher, method="lgd", ipc=2, lgd=own, run_dir=str(tmp_path / "run")))

        with pytest.raises(BadInput, match=r"^guidance classified asks a classifier: give teacher\.path=FILE"):
            grows(None)
        p = grows(write_student(tmp_path / "teacher"))
        growth = p.variants[0].growth
        assert growth is not None and growth.first.sampling is not None and growth.next.sampling is not None
        assert list(growth.next.sampling.networks) == ["teacher"] and not growth.first.sampling.networks
        assert "teacher.path" in {f.what for f in spreading.nodes_of(p).needs().files}
        unread.check(p, ["teacher.path"])

    def test_one_that_does_not_act_asks_nobody(self) -> None:
        quiet = asked(None, guidance={"scale": 0.0})
        assert preflight.find_networks(resolve(quiet), ["3", "7"]).sampling.networks == {}

    def test_a_network_that_is_missing_is_named_with_the_key_to_set(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"^guidance classified asks a classifier: give teacher\.path=FILE") as said:
            preflight.prepare(asked(None, run_dir=str(tmp_path / "run")))
        assert "\n" not in str(said.value) and not (tmp_path / "run").exists()
        preflight.prepare(asked(write_student(tmp_path / "teacher"), run_dir=str(tmp_path / "run")))

    def test_a_teacher_that_lacks_a_class_is_refused(self, tmp_path: Path) -> None:
        teacher = write_student(tmp_path / "teacher", classes=["3", "5"])
        with pytest.raises(BadInput, match="class '7' is not one of the 2 classes of the teacher"):
            preflight.prepare(asked(teacher, run_dir=str(tmp_path / "run")))

    def prepared(self, tmp_path: Path) -> Prepared:
        return preflight.prepare(asked(write_student(tmp_path / "teacher"), run_dir=str(tmp_path / "run")))

    def test_its_key_is_read_and_those_of_labels_are_not(self, tmp_path: Path) -> None:
        p = self.prepared(tmp_path)
        unread.check(p, ["teacher.path", "teacher.architecture"])
        with pytest.raises(BadInput, match=r"label\.batch: .* trains on hard labels"):
            unread.check(p, ["label.batch"])

    def test_every_node_must_see_it_and_an_image_says_what_led_to_it(self, tmp_path: Path) -> None:
        p = self.prepared(tmp_path)
        assert {f.what for f in spreading.nodes_of(p).needs().files} >= {"teacher.path"}
        weights = p.variants[0].sampling.networks["teacher"].identity()["weights"]
        assert product.provenance(p, p.variants[0])["teacher"] == weights[:16]
        travelled = pickle.loads(pickle.dumps(p.variants[0].sampling))
        assert travelled.networks["teacher"].identity()["weights"] == weights, "as it comes to an actor"


def test_a_role_that_there_is_not_is_a_mistake_of_the_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = registry.get("guidance", "mode")
    monkeypatch.setattr(kind, "networks", classmethod(lambda cls, section: ["techer"]))
    with pytest.raises(ValueError, match="guidance mode asks for a network 'techer', and there are teacher, features"):
        preflight.find_networks(resolve(config()), ["3", "7"])


def test_latents_of_the_vae_are_read_in_its_own_scale(tmp_path: Path) -> None:
    bound = networks(tmp_path, PLAIN, latent_scale=2.0)
    z = latents(1, torch.float32)
    assert torch.equal(bound.decode(2 * z), bound.vae.decode_with_grad(z))

"""PGFM as a method: pairing in the plan, a run of it without Ray, refusals before any work, and the real weights."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from analytic import batch
from generators import write
from samples import coloured_png
from tiny_run import TinyRun, config

from raydistill import seeding
from raydistill.config import GuidanceConfig, PathConfig
from raydistill.diffusion import flow
from raydistill.diffusion.loop import Batch, sample
from raydistill.diffusion.samplers.ddim import Ddim
from raydistill.diffusion.samplers.euler import Euler
from raydistill.diffusion.samplers.heun import Heun
from raydistill.diffusion.schedule import path
from raydistill.errors import BadInput, StageFailed
from raydistill.guidance import path as guidance
from raydistill.methods.base import ClassView
from raydistill.methods.mgd3 import Mgd3
from raydistill.methods.pgfm import Pgfm, pair
from raydistill.methods.resolve import resolve
from raydistill.models.denoiser import Denoiser, GeneratorSpec
from raydistill.models.device import Placement
from raydistill.models.vae import Vae, VaeSpec
from raydistill.pipeline.preflight import prepare
from raydistill.pipeline.product import provenance
from raydistill.seeding import NoiseKey
from raydistill.stages import runner
from raydistill.stages.syntheses import plan
from raydistill.stages.syntheses import sample as sampling

CPU = Placement(torch.device("cpu"), torch.float32, "cpu/float32")
PGFM = ("encode", "group", "cluster")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def view(k: int, class_id: str = "n01", shape: tuple[int, ...] = (4, 2, 2)) -> ClassView:
    centroids = np.random.default_rng(k).standard_normal((k, *shape)).astype(np.float32)
    return ClassView(class_id, [str(i) for i in range(k)], centroids, np.arange(k, 0, -1), [str(i) for i in range(k)])


class TestPairing:
    @pytest.mark.parametrize("n", [1, 2, 5, 6])
    @pytest.mark.parametrize("scale", [0.2, 3.0])
    def test_no_other_pairing_is_shorter(self, n: int, scale: float) -> None:
        """Against all n! of them."""
        rng = np.random.default_rng(n)
        for _ in range(3):
            noise, p = rng.standard_normal((n, 2, 3)), scale * rng.standard_normal((n, 2, 3)) + 1
            far = np.square(noise[:, None] - p[None]).sum((2, 3))
            least = min(sum(far[j, k] for j, k in enumerate(order)) for order in itertools.permutations(range(n)))
            order = pair(noise, p)
            assert sorted(order) == list(range(n))
            assert sum(far[j, k] for j, k in enumerate(order)) == pytest.approx(least)

    def test_it_is_of_the_noise_that_the_slot_will_begin_with(self) -> None:
        seen = view(5)
        slots = Pgfm().slots(seen, 5, 3)
        noise = torch.from_numpy(
            np.stack([seeding.normal([NoiseKey(3, "n01", j).at("init", 0)], (4, 2, 2))[0] for j in range(5)])
        )
        noised = Batch(torch.zeros(5), torch.zeros(5, 4, 2, 2), [NoiseKey(3, "n01", j) for j in range(5)])
        assert torch.equal(noised.noise("init", 0), noise)
        assert [s.prototype_id for s in slots] == pair(noise.numpy(), seen.centroids).tolist()
        assert [s.prototype_id for s in slots] != list(range(5)), "or this test shows nothing"

    def test_random_leaves_them_in_their_order(self) -> None:
        drawn, order = Pgfm("random").slots(view(5), 5, 0), Mgd3().slots(view(5), 5, 0)
        assert [s.prototype_id for s in drawn] == [s.prototype_id for s in order]

    def test_prototypes_are_shared_out_evenly_either_way(self) -> None:
        for pairing in ("optimal", "random"):
            ids = [s.prototype_id for s in Pgfm(pairing).slots(view(3), 8, 0)]
            assert sorted(ids) == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    tiny = TinyRun(tmp_path_factory.mktemp("pgfm") / "run")
    tiny.finish(PGFM)
    return tiny


def finish(tiny: TinyRun, generator: str | None = None, **more):
    """Plans and samples pgfm; the rows of the syntheses and the two artifacts."""
    v = resolve(config(method="pgfm", **more))
    clustered = tiny.sealed("cluster")
    planned = plan.stage(v, tiny.run, tiny.sealed("group"), clustered, tiny.train.classes, tiny.shape)
    sampled = sampling.stage(
        v,
        tiny.run,
        runner.run(planned, runner.serial).sealed,
        tiny.sealed("group"),
        tiny.train,
        tiny.vae,
        GeneratorSpec(generator),
    )
    rows = runner.run(sampled, runner.serial).sealed.read().to_pylist()
    return sorted(rows, key=lambda r: (r["class_index"], r["slot"])), planned.artifact, sampled.artifact


class TestRun:
    """On the digits, with the quickstart's noise model as a flow and with an untrained flow."""

    @pytest.mark.parametrize(
        ("sampler", "calls"),
        [
            ({"name": "euler", "steps": 3}, 3),
            ({"name": "heun", "steps": 3}, 5),
            ({"name": "heun", "steps": 3, "cfg_scale": 2.0}, 10),
        ],
    )
    def test_calls_are_counted_and_steps_leave_a_trace(self, upstream: TinyRun, sampler: dict, calls: int) -> None:
        rows, *_ = finish(upstream, sampler={"cfg_scale": 1.0} | sampler)
        assert len(rows) == 6 and {r["nfe"] for r in rows} == {calls}
        for row in rows:
            steps = {e["step"] for e in row["trace"]}
            assert {e["name"] for e in row["trace"]} == {"push", "trusted", "ahead", "detour"} and steps == {0, 1, 2}
            assert {e["step"] for e in row["trace"] if e["name"] == "push"} <= {1, 2}, "guidance is over at the image"
            assert all(e["value"] >= 1 - 1e-5 for e in row["trace"] if e["name"] == "detour"), "no way is shorter"
            assert np.isfinite(row["landing"]) and row["landing"] > 0
            assert all(e["value"] <= 0.5 + 1e-5 for e in row["trace"] if e["name"] == "push"), "the trust region"

    def test_a_pull_of_1_ends_on_the_prototypes(self, upstream: TinyRun) -> None:
        """Through prototypes, plan, the generator's scale and back."""
        settings = {"w_max": 1.0, "t_stop": 1.0, "power": 0.0, "tau": None}
        rows, *_ = finish(upstream, path=settings)
        assert max(r["landing"] for r in rows) < 1e-4
        ways = [e["value"] for r in rows for e in r["trace"] if e["name"] == "detour" and e["step"] == 0]
        assert ways == pytest.approx([1.0] * 6, abs=1e-4), "and the way there is a straight line"

    def test_the_spread_of_a_class_is_measured_in_the_generators_space(self, upstream: TinyRun) -> None:
        """Of the class's own latents, times latent_scale; another rho is other samples, and slots come by class."""
        v = resolve(config(method="pgfm", path={"rho": 0.5}))
        clustered = upstream.sealed("cluster")
        planned = plan.stage(
            v, upstream.run, upstream.sealed("group"), clustered, upstream.train.classes, upstream.shape
        )
        real = upstream.sealed("group")
        stage = sampling.stage(
            v,
            upstream.run,
            runner.run(planned, runner.serial).sealed,
            real,
            upstream.train,
            upstream.vae,
            upstream.generator,
        )
        for key in stage.keys:
            loaded = stage.work.load(stage.items(key))
            index = loaded.table["class_index"].to_pylist()
            assert index == sorted(index) and set(loaded.context) == {"radius"}
            for wide, c in zip(loaded.context["radius"], index, strict=True):
                x = stage.work.latents_of(c).astype(np.float64)
                x = x.reshape(len(x), -1)
                assert wide == pytest.approx(np.median(np.linalg.norm(x - x.mean(0), axis=1)), rel=1e-4)
        seen: list[torch.Tensor] = []

        def watched(self, pred, batch):
            seen.append(batch.see("radius"))
            return torch.zeros_like(pred.x_t), {}

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(guidance.Path, "measured", watched)
            finish = stage.work.open()
            finish(stage.work.load(stage.items(stage.keys[0])))
        radius = torch.from_numpy(stage.work.load(stage.items(stage.keys[0])).context["radius"])
        torch.testing.assert_close(seen[0], radius * upstream.generator.latent_scale)

    def test_a_class_whose_images_are_all_alike_has_none(self, upstream: TinyRun, monkeypatch) -> None:
        alike = np.ones((3, *upstream.shape), np.float16)
        monkeypatch.setattr(sampling.GenerateWork, "latents_of", lambda self, class_index: alike)
        with pytest.raises(StageFailed, match=r"class '3' has 3 usable images, all alike: .* as path\.rho wants"):
            finish(upstream, path={"rho": 0.7})

    def test_a_narrow_end_holds_the_samples_back(self, upstream: TinyRun) -> None:
        settings = {"w_max": 1.0, "t_stop": 1.0, "power": 0.0, "tau": None, "t0": 0.0}
        far = [
            np.mean([r["landing"] for r in finish(upstream, path={**settings, "rho": rho})[0]]) for rho in (1e-4, 1e4)
        ]
        assert far[1] < 1e-4 < 0.1 < far[0]

    def test_adaptive_on_a_flow(self, upstream: TinyRun, tmp_path: Path) -> None:
        sampler = {"name": "adaptive", "steps": 1, "cfg_scale": 1.0}
        rows, *_ = finish(upstream, write(tmp_path / "g", "flow"), sampler=sampler)
        assert min(r["nfe"] for r in rows) >= 7 and np.isfinite(rows[0]["latent"]).all()

    def test_pairing_is_part_of_the_plan_and_numbers_of_the_samples(self, upstream: TinyRun) -> None:
        _, plan_a, made_a = finish(upstream)
        _, plan_b, made_b = finish(upstream, path={"pairing": "random"})
        _, plan_c, made_c = finish(upstream, path={"w_max": 0.4})
        _, plan_d, made_d = finish(upstream, guidance={"scale": 0.7, "stop": 0.3})
        assert plan_a.fingerprint != plan_b.fingerprint and plan_a.fingerprint == plan_c.fingerprint
        assert len({a.fingerprint for a in (made_a, made_b, made_c)}) == 3
        assert (plan_d.fingerprint, made_d.fingerprint) == (plan_a.fingerprint, made_a.fingerprint), "not read"

    def test_no_pull_and_no_warm_start_are_the_plain_flow(self, upstream: TinyRun) -> None:
        rows, *_ = finish(upstream, path={"w_max": 0.0, "t0": 0.0})
        spec = upstream.generator
        labels = torch.tensor([spec.class_ids.index(upstream.train.classes[r["class_index"]].class_id) for r in rows])
        keys = [NoiseKey(0, upstream.train.classes[r["class_index"]].class_id, r["slot"]) for r in rows]
        slots = Batch(labels, torch.zeros(6, *spec.latent_shape), keys)
        d = Denoiser(spec, CPU, 1.0, "all")
        z, _ = flow.sample(d.velocity, spec.times(2, 0.0, "released"), Euler(), None, slots)
        mine = np.stack([np.array(r["latent"]).reshape(spec.latent_shape) for r in rows])
        assert np.allclose(mine, (z / spec.latent_scale).numpy(), rtol=1e-4, atol=1e-4)
        assert all({e["name"] for e in r["trace"]} == {"detour"} for r in rows), "no guidance, but a way"


class TestBeforeAnyWork:
    def refused(self, tmp_path: Path, **more) -> str:
        with pytest.raises(BadInput) as caught:
            prepare(config(run_dir=str(tmp_path / "run"), **({"method": "pgfm"} | more)), evaluate=False)
        assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
        return str(caught.value)

    def test_a_noise_model_has_no_times_between_its_own(self, tmp_path: Path) -> None:
        said = self.refused(tmp_path, sampler={"name": "adaptive"}, generator={"objective": "epsilon"})
        assert "sampler.name=adaptive asks for velocities at any time" in said and "use euler or heun" in said

    def test_a_path_that_begins_after_guidance_ended(self, tmp_path: Path) -> None:
        said = self.refused(tmp_path, path={"t0": 0.0, "t_stop": 0.005}, generator={"objective": "epsilon"})
        assert "its window (t < path.t_stop=0.005) holds none of the 2 steps that run" in said
        assert said.endswith("set path.t_stop=0.01"), "which test_windows.py follows"

    def test_more_steps_than_times_after_a_warm_start(self, tmp_path: Path) -> None:
        more = {"sampler": {"steps": 900}, "generator": {"objective": "epsilon"}}
        said = self.refused(tmp_path, path={"t0": 0.95, "t_stop": 1.0}, **more)
        assert "sampler.steps=900 is more than the" in said

    def test_a_class_without_a_spread(self, tmp_path: Path) -> None:
        for first, split, name, count in (
            (0, "train", "3", 1),
            (10, "train", "7", 3),
            (20, "val", "3", 1),
            (30, "val", "7", 1),
        ):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(first, first + count):
                (folder / f"{i}.png").write_bytes(coloured_png((200, 60, 60), i))
        source = {"kind": "imagefolder", "path": str(tmp_path / "images"), "image_size": 32}
        said = self.refused(tmp_path, path={"rho": 1.0}, source=source, ipc=1)
        assert "path.rho needs 2 images of a class, and class '3' has 1; set it to null" in said

    def test_samplers_and_guidance_of_other_spaces(self, tmp_path: Path) -> None:
        assert "form=velocity does not go with sampler.name=ddpm" in self.refused(tmp_path, sampler={"name": "ddpm"})
        assert "form=mean does not go with sampler.name=heun" in self.refused(
            tmp_path, method="mgd3", sampler={"name": "heun"}
        )
        assert "form=epsilon does not go with guidance path" in self.refused(tmp_path, guidance={"form": "epsilon"})

    def test_a_class_or_a_latent_that_the_flow_does_not_know(self, tmp_path: Path) -> None:
        other = write(tmp_path / "g", "flow", class_ids=[f"n{i}" for i in range(10)])
        assert "class '3' is not one of the generator's 10 classes" in self.refused(tmp_path, generator={"path": other})
        source = {"kind": "digits", "image_size": 64, "classes": ["3", "7"]}
        assert "gives latents of shape (4, 16, 16) but the generator takes" in self.refused(tmp_path, source=source)

    @pytest.mark.parametrize(("method", "objective", "said"), [
        ("pgfm", None, "flow"), ("mgd3", None, "epsilon"), ("pgfm", "epsilon", "epsilon"), ("mgd3", "flow", "flow"),
    ])  # fmt: skip
    def test_a_method_of_flows_gets_the_flow_that_ships(
        self, tmp_path: Path, method: str, objective: str | None, said: str
    ) -> None:
        """Whatever the baselines are: a run has one generator."""
        asked = config(method=method, run_dir=str(tmp_path / "run"), generator={"objective": objective})
        evaluate = asked.evaluate.model_copy(update={"baselines": ["dit", "mgd3"]})
        p = prepare(asked.model_copy(update={"evaluate": evaluate}))
        assert p.generator is not None and p.generator.predicts.predicts == said

    def test_the_product_says_what_guided_it(self, tmp_path: Path) -> None:
        p = prepare(config(method="pgfm", run_dir=str(tmp_path / "run"), path={"w_max": 0.4}), evaluate=False)
        said = provenance(p, p.variants[0])
        assert said["guidance"] == {"name": "path", "form": "velocity", **PathConfig(w_max=0.4).model_dump()}
        assert said["sampler"]["name"] == "euler"

    @pytest.mark.parametrize(
        ("main", "sampler", "want"),
        [
            ("pgfm", {}, {"pgfm": ("euler", 8), "mgd3": ("ddpm", 50), "dit": ("ddpm", 50)}),
            ("pgfm", {"name": "heun", "steps": 4}, {"pgfm": ("heun", 4), "mgd3": ("ddpm", 50), "dit": ("ddpm", 50)}),
            ("mgd3", {"steps": 20}, {"mgd3": ("ddpm", 20), "pgfm": ("euler", 8), "dit": ("ddpm", 20)}),
            ("dit", {"name": "heun", "steps": 5}, {"dit": ("heun", 5), "pgfm": ("euler", 5), "mgd3": ("ddpm", 50)}),
        ],
    )
    def test_a_baseline_of_the_other_kind_takes_its_own_steps(
        self, tmp_path: Path, main: str, sampler: dict, want: dict
    ) -> None:
        others = [m for m in ("pgfm", "mgd3", "dit") if m != main]
        asked = config(method=main, run_dir=str(tmp_path / "run"), sampler=sampler, evaluate={"baselines": others})
        for again in (asked, prepare(asked).config):  # also from the configuration that a run keeps
            samplers = {v.config.method: v.config.sampler for v in prepare(again).variants}
            assert {name: (s.name, s.steps) for name, s in samplers.items()} == want


class TestRealWeights:
    """nette128-flow and nette128-dit through TAESD: two slots, few steps."""

    @pytest.fixture(scope="class")
    def weights(self, shared: Path) -> Path:
        if not (shared / "weights" / "nette128-flow").is_dir():
            pytest.skip("no generators of ImageNette in ../shared")
        return shared / "weights"

    @pytest.mark.parametrize("name", ["nette128-flow", "nette128-dit"])
    def test_pgfm_gives_photographs(self, weights: Path, name: str) -> None:
        spec = GeneratorSpec(str(weights / name))
        d, slots = Denoiser(spec, CPU, 2.0, "all"), batch(2, 0.0, spec.latent_shape)
        for sampler in (Euler(), Heun()):
            g, start = guidance.Path(GuidanceConfig(), "velocity", PathConfig()), guidance.Path.start(PathConfig())
            z, calls = flow.sample(d.velocity, spec.times(4, start.t0, "released"), sampler, g, slots, start=start)
            assert calls.tolist() == 2 * [4 if isinstance(sampler, Euler) else 7]
            assert torch.isfinite(z).all() and 0.3 < z.std() < 2, "about unit scale"
            pixels = Vae(VaeSpec(str(weights / "taesd")), CPU).decode(z / spec.latent_scale)
            assert pixels.shape == (2, 128, 128, 3) and pixels.float().std() > 10

    def test_flow_weights_denoise_under_ddim(self, weights: Path) -> None:
        """Along DiT's betas, and to about the image that the flow itself makes of the same noise."""
        spec = GeneratorSpec(str(weights / "nette128-flow"))
        d, slots = Denoiser(spec, CPU, 1.0, "all"), batch(2, 0.0, spec.latent_shape)
        x0 = sample(d, path(spec.alphas_bar, "released", 20), Ddim(), None, slots)
        x1, _ = flow.sample(d.velocity, spec.times(20, 0.0, "released"), Heun(), None, slots)
        assert 0.3 < x0.std() < 2 and torch.corrcoef(torch.stack([x0.flatten(), x1.flatten()]))[0, 1] > 0.95

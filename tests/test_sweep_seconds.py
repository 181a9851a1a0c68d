"""Seconds as an objective: planned by the work of a trial and rates that are taken once, the same after every start."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import tiny_sweep
from curricula import prepared

from raydistill import cli
from raydistill.config import Config, changed
from raydistill.errors import BadInput
from raydistill.pipeline.preflight import prepare
from raydistill.pipeline.varied import varied
from raydistill.planning import pace as paces
from raydistill.planning import probe, rates
from raydistill.planning.ahead import facts_of
from raydistill.planning.pace import Pace
from raydistill.planning.rates import RateRecord, Rates
from raydistill.state import Prepared
from raydistill.store import inspection
from raydistill.tune import sweep
from raydistill.tune.drawing import Candidate
from raydistill.tune.findings import TrialRow
from raydistill.tune.importance import importance
from raydistill.tune.space import Knob, Space
from raydistill.tune.trials import Measurement

KINDS = (*paces.NETWORKS, *paces.BESIDE)
FLAT = RateRecord("a core", dict.fromkeys(KINDS, 1e9), None, "a stand-in")
GRID: dict[str, Any] = {"search": "grid", "seeds": 1, "objectives": ["accuracy", "seconds"], "finalists": 1}
SPACE = {"sampler": {"steps": [4, 2, 3]}}
GPU: dict[str, Any] = {"sample.num_gpus": 1.0, "sample.device": "auto"}


def only(*kinds: str) -> Pace:
    """A core to which all other work is nothing."""
    return Pace(Rates("CPU core", {k: 1e9 if k in kinds else 1e30 for k in KINDS}, {}))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Two steps of mgd3 on two classes."""
    return prepare(tiny_run.config(run_dir=str(tmp_path_factory.mktemp("plain") / "run")))


def under(p: Prepared, **keys: Any) -> Prepared:
    config = tiny_run.config(run_dir=str(p.run.root))
    return varied(p, changed(config, {name.replace("__", "."): value for name, value in keys.items()}))


class TestClosedForms:
    def test_an_image_is_its_calls_and_one_decoding(self, plain: Prepared) -> None:
        facts, core = facts_of(plain), only("denoise", "decode")
        assert facts.denoise is not None
        flops = 2 * facts.denoise.flops + facts.decode.flops
        assert core.seconds(plain, 2) == pytest.approx(flops / 1e9, rel=1e-9)
        assert core.seconds(under(plain, ipc=1), 2) == pytest.approx(core.seconds(plain, 2)), "however many there are"

    def test_twice_the_steps_are_twice_the_seconds_of_the_network(self, plain: Prepared) -> None:
        few, many = under(plain, sampler__steps=10), under(plain, sampler__steps=20)
        networks, whole = only("denoise"), paces.of_record(plain.config, None)
        assert networks.seconds(many, 20) == pytest.approx(2 * networks.seconds(few, 10), rel=1e-9)
        assert 1 < whole.seconds(many, 20) / whole.seconds(few, 10) < 2, "an image is decoded once"

    def test_guidance_without_a_classifier_is_two_passes(self, plain: Prepared) -> None:
        guided, core = under(plain, sampler__cfg_scale=4.0), only("denoise")
        assert core.seconds(guided, 4) == pytest.approx(2 * core.seconds(plain, 2), rel=1e-9)

    def test_of_an_adaptive_sampler_the_calls_that_it_made_count(self, plain: Prepared) -> None:
        flowing = under(plain, method="pgfm", sampler__name="adaptive", sampler__steps=2)
        core, facts = only("denoise"), facts_of(flowing)
        assert facts.denoise is not None
        for calls in (50, 75):
            assert core.seconds(flowing, calls) == pytest.approx(calls * facts.denoise.flops / 1e9, rel=1e-9)

    def test_real_images_are_read_and_encoded(self, plain: Prepared) -> None:
        """A batch of the last of which not all is used costs a whole one, in the stage too."""
        real = under(plain, method="random")
        assert only("denoise", "decode").seconds(real, 0) < 1e-9
        assert only("read").seconds(real, 0) == pytest.approx(1 / 1e9)
        encoded = -(-6 // 4) * 4 * facts_of(real).encode.flops / 6
        assert only("encode").seconds(real, 0) == pytest.approx(encoded / 1e9, rel=1e-9)

    def test_threads_and_shares_of_a_gpu_are_those_of_the_worker(self, plain: Prepared) -> None:
        core, gpu = only().core, replace(only("denoise").core, device="L4")
        whole, half = (under(plain, **GPU | {"sample.num_gpus": share}) for share in (1.0, 0.5))
        once = Pace(core, gpu).seconds(whole, 2)
        assert Pace(core, gpu).seconds(half, 2) == pytest.approx(2 * once, rel=1e-9) and once > 1e-9
        threads = only("denoise").seconds(under(plain, sample__threads=2), 2)
        assert threads == pytest.approx(only("denoise").seconds(plain, 2) / 2)


def test_guidance_through_pixels_costs_more_than_none_and_by_what_it_passes(tmp_path: Path) -> None:
    """A call of one set costs as much as one of another but for what leads it: classifiers, and the decoder."""
    one = {"ipc": 2, "lgd": {"candidates": 1, "omega": 0.0}}
    none, latent, pixel, through = (
        prepared(tmp_path / str(i), **one, learnability={"omega": 0.0, **settings})
        for i, settings in enumerate(
            ({"scale": 0.0}, {"space": "latent"}, {"space": "pixel"}, {"space": "pixel", "through_denoiser": True})
        )
    )
    core = paces.of_record(none.config, FLAT)
    spent = [core.seconds(p, 2) for p in (none, latent, pixel, through)]
    assert spent == sorted(spent) and len(set(spent)) == 4
    decodes = [only("decode").seconds(p, 2) for p in (none, latent, pixel)]
    assert decodes[0] == decodes[1] < decodes[2]
    assert only("teach").seconds(none, 2) < 1e-9 < only("teach").seconds(latent, 2)


# ---- a sweep -------------------------------------------------------------------------------------------------------


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A sweep without Ray whose core is measured as so fast, and slower each time. Returns what was measured."""
    tiny_sweep.without_ray(monkeypatch)
    monkeypatch.setattr(inspection, "AGAIN_S", 0.0)
    measured: list[float] = []

    def in_worker(config: Config, remedy: str) -> RateRecord:
        assert config.source.search_split and remedy == "tune.rates=FILE"
        measured.append(1e9 / (1 + len(measured)))
        return replace(FLAT, per_s=dict.fromkeys(KINDS, measured[-1]))

    monkeypatch.setattr(probe, "in_worker", in_worker)
    return measured


def study(root: Path) -> dict[str, Any]:
    return json.loads((root / "study.json").read_text())


def test_a_front_of_accuracy_and_seconds_and_a_killed_sweep_that_keeps_its_rates(
    probed: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second start, with other workers, would measure another machine, and does not measure."""
    config = tiny_sweep.config(tmp_path / "run", SPACE, **GRID)
    tiny_sweep.killed_in_round(2, lambda: sweep.main(config))
    kept = (tmp_path / "run" / "rates.json").read_bytes()
    (tmp_path / "run" / "rates.json").unlink()  # the seal has it too
    sweep.main(changed(config, {"sample.actors": 3, "sample.deadline_s": 9.0, "ray.share": 0.5, "ray.num_cpus": 7}))
    assert probed == [1e9] and (tmp_path / "run" / "rates.json").read_bytes() == kept
    body, page = study(tmp_path / "run"), (tmp_path / "run" / "study.html").read_text()
    by_steps = sorted(body["trials"], key=lambda t: t["values"]["sampler.steps"])
    seconds = [t["objectives"]["seconds"] for t in by_steps]
    assert [t["seconds"] for t in by_steps] == seconds == sorted(seconds) and by_steps[0]["trial"] in body["front"]
    assert body["objectives"]["seconds"] == "min" and page.count('class="effect pareto"') == 1
    assert 'num">planned seconds an image</th>' in page and "Seconds are planned, not clocked" in page
    assert "CPU core: decode, denoise, encode, png, read, table, teach: measured (a stand-in)" in page
    known = Pace(Rates(**body["rates"]["core"]))
    p = tiny_sweep.few_images(sweep.searching(config))
    again = [known.seconds(under(p, sampler__steps=t["values"]["sampler.steps"]), t["network_calls"]) for t in by_steps]
    assert again == seconds, "what study.json holds gives them again"
    assert cli.main(["verify", str(tmp_path / "run")]) == 0, capsys.readouterr().out


def test_accuracy_per_second_by_a_file_and_no_rates_where_nobody_asks(probed: list[float], tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(rates.text(FLAT))
    few = GRID | {"objectives": ["accuracy_per_second"], "rates": str(file)}
    config = tiny_sweep.config(tmp_path / "run", {"sampler": {"steps": [2]}}, **few)
    sweep.main(config)
    body = study(tmp_path / "run")
    (trial,) = body["trials"]
    mean = trial["score"]["mean"]
    assert trial["objectives"] == {"accuracy_per_second": mean / trial["seconds"]} and probed == []
    written = (tmp_path / "run" / "study.json").read_bytes()
    file.unlink()
    sweep.main(config)
    assert (tmp_path / "run" / "study.json").read_bytes() == written, "its rates are kept"
    sweep.main(
        tiny_sweep.config(tmp_path / "other", {"sampler": {"steps": [2]}}, **GRID | {"objectives": ["accuracy"]})
    )
    assert not (tmp_path / "other" / "rates.json").exists() and "rates" not in study(tmp_path / "other")
    assert "seconds" not in study(tmp_path / "other")["trials"][0] and probed == []


def of_gpu(name: str) -> str:
    rows = [
        {"what": what, "mode": "as it is", "rate": 10.0, "flop_an_image": 1e12} for what in ("VAE encode", "DiT sample")
    ]
    return json.dumps({"device": name, "torch": "2", "peak": 121e12, "rows": rows})


def test_a_gpu_counts_by_its_own_rates(plain: Prepared, tmp_path: Path) -> None:
    """Of a record, of this machine's data sheet; what a core does beside it is a core's."""
    (tmp_path / "gpu.json").write_text(of_gpu("NVIDIA L4"))
    by_file = paces.of_record(changed(plain.config, GPU), rates.read(str(tmp_path / "gpu.json")))
    assert by_file.gpu is not None and by_file.gpu.per_s["denoise"] == 1e13
    assert set(by_file.gpu.per_s) == set(paces.NETWORKS) and set(by_file.core.per_s) == set(paces.BESIDE)
    assert Pace.of_text(by_file.text()) == by_file
    assert any(line.startswith("L4: encode, denoise, decode: measured (gpu.json)") for line in by_file.lines())


def test_bad_input_is_one_line(plain: Prepared, tmp_path: Path, refused: Callable[..., str]) -> None:
    gpu, bad = tmp_path / "gpu.json", tmp_path / "bad.json"
    gpu.write_text(of_gpu("NVIDIA L4"))
    bad.write_text("{}")
    unknown = tmp_path / "unknown.json"
    unknown.write_text(of_gpu("Mystery 9"))
    asked, drawn = "tune.objectives=[accuracy,seconds]", "sample.num_gpus=1"
    cases = [
        ([f"tune.rates={gpu}"], "tune.objectives=accuracy counts no seconds; add seconds to it, or leave tune.rates"),
        ([asked, f"tune.rates={bad}"], f"tune.rates={bad}: it is no record of rates; give a file that `plan --write"),
        ([asked, "tune.rates=/nowhere"], "tune.rates=/nowhere: "),
        ([asked, f"tune.rates={gpu}"], "is of a GPU, and images are drawn on cores (sample.num_gpus=0); give a file"),
        ([asked, drawn, f"tune.rates={unknown}"], "none whose speed is known is here; give tune.rates=FILE"),
        (["tune.objectives=[accuracy_per_second]", drawn], "tune.objectives=accuracy_per_second: images are drawn on"),
        (["tune.objectives=[secons]"], "did you mean 'seconds'?"),
    ]
    for words, says in cases:
        line = refused("tune", f"run_dir={tmp_path / 'run'}", *words)
        assert says in line and not (tmp_path / "run").exists(), (words, line)


def test_the_remedy_for_gpus_that_nobody_knows_works(plain: Prepared, tmp_path: Path) -> None:
    config = changed(plain.config, {**GPU, "tune.objectives": ["accuracy", "seconds"], "run_dir": str(tmp_path / "r")})
    with pytest.raises(BadInput, match="or choose network_calls"):
        sweep.seconds.check(config, plain.run.root)
    (tmp_path / "gpu.json").write_text(of_gpu("NVIDIA L4"))
    sweep.seconds.check(changed(config, {"tune.rates": str(tmp_path / "gpu.json")}), plain.run.root)
    sweep.seconds.check(changed(config, {"tune.objectives": ["accuracy", "network_calls"]}), plain.run.root)


def test_which_knob_matters_is_seen_in_the_direction_of_the_objective() -> None:
    """Of an objective that is best small the shares are those of its negative that is best large."""
    space = Space((Knob("a", 0.0, 1.0), Knob("b", 0.0, 1.0)), "mgd3", {})
    points = [(i / 20, (7 * i) % 20 / 20) for i in range(20)]

    def shares(sign: float, direction: Any, name: str) -> dict[str, float]:
        rows = [
            TrialRow(i, Measurement(Candidate(f"trial {i}", {"a": a, "b": b}, i)), {name: sign * (a**4 + 0.1 * b)})
            for i, (a, b) in enumerate(points)
        ]
        return importance(rows, space, name, direction)

    for name in ("seconds", "fid/pixel"):
        assert shares(1.0, "min", name) == shares(-1.0, "max", "x") != shares(1.0, "max", name)

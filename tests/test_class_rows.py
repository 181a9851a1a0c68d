"""Fine-tuning to one's own classes: rows of the class table new or taken, the null row kept; who is told what."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import generators
import numpy as np
import pytest
import torch
from latents import tiny, training_latents
from safetensors.torch import load_file

from raydistill import cli
from raydistill.config import load
from raydistill.errors import BadInput
from raydistill.models.checkpoint import WEIGHTS, WORK
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.maturity import half_trained
from raydistill.models.vae import VaeSpec
from raydistill.pretraining import leftovers
from raydistill.pretraining.class_rows import described
from raydistill.pretraining.output import command
from raydistill.pretraining.plan import Plan, make_plan
from raydistill.pretraining.size import of as size_of
from raydistill.pretraining.trainer import Trainer, read_state
from raydistill.pretraining.validation import Validation

TABLE = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
ANIMALS = [*"abcdefg", "seven", "eight", "nine"]  # ids of a checkpoint, of which none is a digit


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planned(tmp_path: Path, *overrides: str, ids: list[str] | None = None, **training: object) -> Plan:
    """Fine-tuning on the digits 0 (zero), 7 (seven) and 9 (nine) of a checkpoint of the ids."""
    init = tmp_path / "checkpoint"
    if not init.exists():
        generators.write(init, "flow", class_ids=ids or ANIMALS, **training)
    keys = [f"pretrain.out={tmp_path / 'out'}", f"pretrain.init={init}", "source.classes=[0,7,9]"]
    return make_plan(tiny(*keys, *overrides))


def table(folder: Path) -> torch.Tensor:
    return load_file(folder / "transformer" / WEIGHTS)[TABLE]


def test_new_rows_begin_as_no_class_and_others_as_the_class_that_is_named(tmp_path):
    plan = planned(tmp_path, "pretrain.class_map={seven: c, '9': eight}")
    assert plan.origin.rows == (10, 2, 8) and plan.origin.class_ids == ("0", "7", "9") and plan.origin.null == 3
    before, net = table(tmp_path / "checkpoint"), plan.blank()
    assert torch.equal(net.state_dict()[TABLE], before[[10, 2, 8, 10]]), "the null row comes last"
    assert net.config.num_embeds_ada_norm == 3
    assert plan.origin.labels(plan.listing.classes).tolist() == [0, 1, 2]
    said = described(plan.origin.rows, plan.origin.spec, plan.listing.classes)
    assert said == "classes that checkpoint is taught: zero begins as no class, seven as c, nine as eight"


def test_a_class_of_the_checkpoint_keeps_its_row_beside_new_ones(tmp_path):
    plan = planned(tmp_path, ids=["9", *"abcdefghi"])
    assert plan.origin.rows == (10, 10, 0)


def test_a_new_class_answers_as_no_class_before_the_first_step(tmp_path):
    plan = planned(tmp_path)
    with torch.no_grad():
        net, old = plan.blank().eval(), plan.origin.spec.network().eval()
        x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([10.0, 500.0])
        expected = old(x, timestep=t, class_labels=torch.tensor([10, 10])).sample
        for labels in ([0, 1], [3, 3]):
            assert torch.allclose(net(x, timestep=t, class_labels=torch.tensor(labels)).sample, expected, atol=1e-6)


@pytest.mark.parametrize("trainable", ["all", "vectors"])
def test_what_is_taught_can_be_distilled_with(tmp_path, trainable):
    plan = planned(tmp_path, f"pretrain.trainable={trainable}", "pretrain.class_map={'7': seven}")
    rng = np.random.default_rng(0)
    latents = training_latents(rng.standard_normal((12, *plan.latent_shape)), np.arange(12) % 3)
    trainer = Trainer(plan.generator_task(latents, "cpu"), 3, 1e-2, 0.5)
    while trainer.step < 3:
        trainer.advance()
    trainer.save(tmp_path / "state.pt")
    state, net = read_state(tmp_path / "state.pt"), plan.blank()
    net.load_state_dict(state["ema"])
    plan.write(net, state)
    spec = GeneratorSpec(str(plan.out))
    spec.check_fits(plan.latent_shape, ["0", "7", "9"])
    spec.check_network()
    record = json.loads((plan.out / "training.json").read_text())
    assert record["class_rows_from"] == {"0": None, "7": "seven", "9": None}
    assert record["class_names"] == ["zero", "seven", "nine"] and record["class_ids"] == ["0", "7", "9"]
    after, before = table(plan.out), table(tmp_path / "checkpoint")[[10, 7, 10, 10]]
    assert not torch.equal(after[0], after[2]), "new rows part"
    assert (after - before).abs().max() > 1e-3
    matrices = {n: t for n, t in load_file(plan.out / "transformer" / WEIGHTS).items() if t.ndim > 1 and n != TABLE}
    origin = load_file(tmp_path / "checkpoint" / "transformer" / WEIGHTS)
    kept = all(torch.equal(t, origin[n]) for n, t in matrices.items())
    assert kept == (trainable == "vectors")
    trained = sum(p.numel() for p in trainer.trained)
    assert size_of(plan).trained == trained


def test_validation_begins_before_the_first_step(tmp_path, monkeypatch):
    """The worker's loop, by itself: what Ray Train would tell it is given here."""
    from raydistill.distributed.pretrain import loop

    plan = planned(tmp_path, "pretrain.steps=2", "pretrain.validate_every=2")
    plan.out.mkdir()
    latents = training_latents(np.random.default_rng(0).standard_normal((6, *plan.latent_shape)), np.arange(6) % 3)
    trainer = Trainer(plan.generator_task(latents, "cpu"), 2, 1e-2, 0.5)
    names = [c.class_name for c in plan.listing.classes]
    held = Validation(trainer.task, latents, VaeSpec(None), plan.config.sampler, names)
    before = held.loss(trainer.task.net, trainer.group)
    alone = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(loop.ray.train, "get_context", lambda: alone)
    monkeypatch.setattr(loop, "_prepare", lambda *_: (trainer, held))
    monkeypatch.setattr(loop, "_report", lambda *_: None)
    lines, silent = [], SimpleNamespace(remote=lambda _: None)
    loop._train(plan, {}, SimpleNamespace(say=SimpleNamespace(remote=lines.append), put=silent))
    assert [step for step, _ in trainer.validation] == [0, 2] and trainer.validation[0][1] == before
    assert lines == [f"before the first step: validation loss {before:.4g}"]
    assert sorted(p.name for p in (plan.out / "samples").iterdir()) == ["step-000000.png", "step-000002.png"]


def test_which_rows_are_taken_is_part_of_the_fingerprint_and_of_the_command(tmp_path):
    prints = {planned(tmp_path, *more).fingerprint for more in ((), ("pretrain.class_map={'7': a}",))}
    assert len(prints) == 2
    plan = planned(tmp_path, "pretrain.class_map={'7': a, nine: b}")
    words = command(plan.as_given)
    text = next(w for w in words.split("'") if w.startswith("pretrain.class_map="))
    assert load("quickstart", [text]).pretrain.class_map == {"7": "a", "nine": "b"}


def test_a_map_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(BadInput, match="class_map goes with"):
        make_plan(tiny(f"pretrain.out={tmp_path / 'out'}", "pretrain.class_map={'7': a}"))


@pytest.mark.parametrize(("training", "says"), [
    ({"images_seen": 490_112, "steps": 3829}, "it saw 490,112 images in 3,829 steps"),
    ({"images_seen": 2_000_000, "validation_loss": [[1, 0.9], [2, 0.5]]}, "still fell .* from 0.9 to 0.5"),
    ({"images_seen": 2_000_000, "validation_loss": [[1, 0.5], [2, 0.499]]}, None),
    ({"images_seen": 320_000, "source": {"images": 1348}}, None),
    ({"images_seen": 20_000, "source": {"images": 1348}}, "it saw 20,000 images"),
    ({"images_seen": 500, "fine_tuned_from": {"name": "DiT"}}, None),
    ({"validation_loss": "odd", "images_seen": "many"}, None),
    ({}, None),
], ids=["short", "falling", "flat", "small set", "few passes", "fine-tuned", "odd", "nothing"])  # fmt: skip
def test_a_half_trained_generator_says_so(training, says):
    why = half_trained(training)
    assert why is None if says is None else re.search(says, why)


class TestUnfinished:
    def abandoned(self, tmp_path: Path) -> Path:
        """As a training that was stopped leaves its folder."""
        out = tmp_path / "out"
        state = out / WORK / "0123456789abcdef" / "checkpoint_1"
        state.mkdir(parents=True)
        (state / "state.pt").write_bytes(b"x" * 2**20)
        (out / WORK / "logs").mkdir()
        (out / "samples").mkdir()
        return out

    def test_it_is_no_model_yet(self, tmp_path):
        out = self.abandoned(tmp_path)
        for spec in (GeneratorSpec, VaeSpec):
            with pytest.raises(BadInput, match="was not finished; run its command again") as caught:
                spec(str(out))
            assert f"python jobs/pretrain.py --clean {out}" in str(caught.value)

    def test_it_is_named_by_another_training_and_removed_by_the_command(self, tmp_path, capsys):
        out = self.abandoned(tmp_path)
        assert [x.name for x in leftovers.leftovers(out, but="f" * 16)] == ["0123456789abcdef"]
        assert leftovers.leftovers(out, but="0123456789abcdef") == []
        assert "0123456789abcdef (1.0 MiB, last written 20" in str(leftovers.leftovers(out)[0])
        assert leftovers.command(out) == f"python jobs/pretrain.py --clean {out}"
        assert cli.main(["pretrain", "--clean", str(out)]) == 0
        said = capsys.readouterr()
        assert "removed 0123456789abcdef (1.0 MiB" in said.err and said.out.splitlines() == [str(out)]
        assert [p.name for p in out.iterdir()] == ["samples"]
        assert cli.main(["pretrain", "--clean", str(out)]) == 2
        assert "no training has left anything there" in capsys.readouterr().err

    def test_a_dry_run_lists_it_and_removes_nothing(self, tmp_path, capsys):
        out = self.abandoned(tmp_path)
        assert cli.main(["pretrain", "--clean", str(out), "--dry-run"]) == 0
        said = capsys.readouterr()
        assert "would remove 0123456789abcdef (1.0 MiB" in said.err and said.out.splitlines() == [str(out)]
        assert (out / WORK / "0123456789abcdef" / "checkpoint_1" / "state.pt").exists()

    @pytest.mark.parametrize("beside", [["--print-config"], ["--config", "quickstart"], ["--run", "r"], ["seed=1"]])
    def test_whoever_asks_for_more_than_to_remove_it_is_refused(self, beside, tmp_path, capsys):
        out = self.abandoned(tmp_path)
        assert cli.main(["pretrain", "--clean", str(out), *beside]) == 2
        assert f"--clean {out} reads no {beside[0]}; leave it out" in capsys.readouterr().err
        assert (out / WORK / "0123456789abcdef").exists()
        assert cli.main(["pretrain", "--clean", str(out)]) == 0

    def test_a_folder_with_a_space_is_named_as_a_shell_reads_it(self, tmp_path):
        out = self.abandoned(tmp_path).rename(tmp_path / "my model's")
        with pytest.raises(BadInput) as caught:
            VaeSpec(str(out))
        for line in (leftovers.command(out), str(caught.value).partition("`")[2].partition("`")[0]):
            assert shlex.split(line) == ["python", "jobs/pretrain.py", "--clean", str(out)]

    def test_nothing_else_is_touched(self, tmp_path):
        out = self.abandoned(tmp_path)
        (out / "samples").rmdir()
        leftovers.clean(out)
        assert not out.exists()

    def test_not_while_somebody_works_there(self, tmp_path):
        from raydistill.store.claims import hold
        from raydistill.store.location import Location

        out = self.abandoned(tmp_path)
        with hold(Location.of(str(out / WORK)), "pretrain.out", "a" * 16), pytest.raises(BadInput, match="is at work"):
            leftovers.clean(out)
        assert (out / WORK / "0123456789abcdef").is_dir()

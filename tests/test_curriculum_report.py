"""A curriculum's report, and the tiny decoder that may lead it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from curricula import EVALUATE, fitted_here, grown, prepared
from curricula import begun as begun  # the fixture
from curricula import root as root  # the fixture
from diffusers import AutoencoderTiny

from raydistill.errors import BadInput
from raydistill.evaluation.score import examine
from raydistill.evaluation.train import Student, train_student
from raydistill.pipeline import job, product
from raydistill.pipeline.spreading import nodes_of
from raydistill.planning import judging
from raydistill.planning.ahead import facts_of
from raydistill.results import increments
from raydistill.stages.evaluation import image_sets, trainer, trainings
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.runner import serial
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.state import Prepared, Results


@pytest.fixture(scope="module", autouse=True)
def trained() -> Iterator[list[str]]:
    with fitted_here() as labels:
        yield labels


class TestReport:
    """A run to its end, whose set is cut into the increments of which it is made."""

    @pytest.fixture(scope="class")
    def done(self, begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
        root = shutil.copytree(begun, tmp_path_factory.mktemp("report") / "run")
        evaluate = EVALUATE | {"baselines": ["dit"], "redundancy_parts": 2}
        return job.run(prepared(root, evaluate=evaluate, metrics={"names": []}), execute=serial)

    def test_the_parts_of_the_set_are_its_increments(self, done: Results) -> None:
        synthesis = done.syntheses["lgd"]
        trainings = [t for t in done.on_parts if t.set.digest == synthesis.digest]
        recipe, width = trainings[0].recipe, done.prepared.config.evaluate.width
        source = done.prepared.config.source
        parts = [
            image_sets.syntheses(SetRef.of("part", DistilledSet((p,))), source, recipe.image_size).images
            for p in synthesis.parts
        ]
        nets = [train_student(Student("convnet", width, 2, 0), recipe, p, p, torch.device("cpu"))[1] for p in parts]
        expected = [[examine(net, p, 2).accuracy for p in parts] for net in nets]
        matrix = next(m for m in increments.matrices(done) if m.main)
        assert matrix.grew and matrix.share.tolist() == expected
        assert not next(m for m in increments.matrices(done) if m.set == "dit").grew, "whose parts are drawn"

    def test_without_being_asked_a_set_that_grew_is_cut_into_its_increments_alone(self, done: Results) -> None:
        """Few of them, of hard labels; and the plan counts what is trained."""
        p, lgd, dit = done.prepared, *(SetRef.of(name, done.syntheses[name]) for name in ("lgd", "dit"))
        longer = replace(lgd, distilled=DistilledSet(done.syntheses["lgd"].parts * 6))

        def cut(refs: list[SetRef], soft: bool = False, **asked: int | None) -> list[str]:
            e = p.config.evaluate
            protocol = e.protocol.model_copy(update={"name": "fkd"} if soft else {})
            e = e.model_copy(update={"protocol": protocol, "redundancy_parts": None, **asked})
            return [s.name for s in trainings.redundancy_parts(p.config.model_copy(update={"evaluate": e}), refs)]

        assert cut([lgd, dit]) == ["lgd part 1 of 2", "lgd part 2 of 2"]
        assert cut([lgd, dit], redundancy_parts=0) == cut([longer]) == cut([lgd], soft=True) == []
        assert len(cut([lgd, dit], redundancy_parts=2)) == 4
        for asked in (None, 0, 2):
            e = p.config.evaluate.model_copy(update={"redundancy_parts": asked})
            config = p.config.model_copy(update={"evaluate": e})
            every = trainings.everything(config, p.run, [lgd, dit], p.splits.test, None)
            planned = judging.trained(config, p.variants, facts_of(p))
            assert sum(count for *_, count in planned) == len(every)

    def test_gain_and_forgetting_add_up(self, done: Results) -> None:
        first, second = increments.growth(done)
        assert (first.increments, first.images, first.learned) == (1, 2, None) and second.images == 4
        assert second.learned is not None and second.forgotten is not None
        assert second.accuracy == pytest.approx(first.accuracy + second.learned - second.forgotten)
        whole = next(t for t in done.trainings if t.set.name == "lgd")
        assert second.accuracy == trainer.score(whole).last  # type: ignore[union-attr]

    def test_a_whole_set_that_was_trained_on_otherwise_has_no_line_and_the_page_says_why(self, done: Results) -> None:
        """A student of soft labels learns of other things than the increment did: that is no gain of the increment."""
        assert increments.about_the_last(done) == []
        longer, soft = ({"epochs": 7, "visits": 99, "evaluations": 3}, {"labels": "stored", "views": 2})
        for more, lines in ((longer, 2), (soft, 1), (soft | longer, 1)):
            other = [replace(t, recipe=replace(t.recipe, **more)) for t in done.trainings]
            changed = replace(done, trainings=other)
            assert len(increments.growth(changed)) == lines
            assert len(increments.about_the_last(changed)) == 2 - lines
        (note,) = increments.about_the_last(replace(done, trainings=other))
        assert "The whole set has no line among the increments" in note and "hard labels and seed 0" in note

    def test_result_and_page_hold_it(self, done: Results) -> None:
        result = json.loads((done.prepared.run.root / "result.json").read())
        assert result["parts/convnet/1/2"] == pytest.approx(increments.matrices(done)[0].share[0, 1], abs=1e-6)
        assert {"redundancy/convnet", "metrics/dit/redundancy/convnet", "increments/2/forgotten"} <= set(result)
        assert result["learnability/chosen"] >= result["learnability/rejected"]
        page = (done.prepared.run.root / "report.html").read().decode()
        for text in ("Increment by increment", "trained on 1, tested on 2", "Score of the rejected", "<h3>Score</h3>"):
            assert text in page, text
        assert "<h3>Push of" not in page, "where it is alone its push needs no name"


def test_each_guidance_of_a_composed_run_has_its_push_on_the_page_and_in_result_json(root: Path) -> None:
    """The seed is led by its own method's alone; the increment by that of its base and by learnability."""
    led = {"base": "mgd3", "seed_method": "mgd3", "candidates": 1}
    more = {"sampler": {"steps": 4, "cfg_scale": 1.0}, "guidance": {"stop": 0.0}, "metrics": {"names": []}}
    done = job.run(prepared(root, lgd=led, learnability={"omega": 0.0}, **more), execute=serial)
    result = json.loads((done.prepared.run.root / "result.json").read())
    expected = {}
    for i, name, traced in ((1, "mode", "push"), (2, "mode", "push mode"), (2, "learnability", "push learnability")):
        rows = done.syntheses["lgd"].parts[i - 1].read(["trace"]).to_pylist()
        seen = [t["value"] for row in rows for t in row["trace"] if t["name"] == traced]
        expected[f"increments/{i}/push/{name}"] = sum(seen) / len(seen)
    assert min(expected.values()) > 0
    assert {key: value for key, value in result.items() if "/push/" in key} == pytest.approx(expected, abs=1e-6)
    page = (done.prepared.run.root / "report.html").read().decode()
    assert "<h3>Push of mode</h3>" in page and "<h3>Push of learnability</h3>" in page
    assert "trained on 1, tested on 2" in page and "parts/convnet/1/2" in result, "of increments, without being asked"


class TestDecoder:
    """A tiny VAE that decodes for the score in the place of the VAE of the images."""

    def write(self, folder: Path, levels: int = 3) -> str:
        torch.manual_seed(0)
        wide, deep = (8,) * levels, (1,) * levels
        AutoencoderTiny(
            encoder_block_out_channels=wide,
            decoder_block_out_channels=wide,
            num_encoder_blocks=deep,
            num_decoder_blocks=deep,
        ).save_pretrained(str(folder))
        return str(folder)

    def test_it_leads_and_is_known_by_its_weights(self, root: Path, tmp_path: Path) -> None:
        def grow(decoder: str | None) -> tuple[str, Prepared]:
            p = prepared(root, lgd={"candidates": 1}, learnability={"decoder": decoder})
            return grown(p)[0].parts[1].digest, p

        plain, (tiny, p) = grow(None)[0], grow(self.write(tmp_path / "tiny"))
        assert tiny != plain and grow(self.write(tmp_path / "copy"))[0] == tiny
        told = product.provenance(p, p.variants[0])
        assert told["curriculum"]["base"] == "dit" and told["learnability"]["scale"] == 0.2
        assert str(tmp_path) not in json.dumps(told)
        assert "learnability.decoder" in {f.what for f in nodes_of(p).needs().files}

    def test_one_of_other_latents_is_refused(self, tmp_path: Path) -> None:
        decoder = self.write(tmp_path / "tiny", levels=4)
        with pytest.raises(BadInput, match=r"^learnability\.decoder: .* latents of 4 x 4 x 4, .* are 4 x 8 x 8; give"):
            prepared(tmp_path / "run", learnability={"decoder": decoder})
        with pytest.raises(BadInput, match=r"^learnability\.decoder: .*nowhere"):
            prepared(tmp_path / "run", learnability={"decoder": "nowhere"})

"""The whole pipeline on real Ray: what a run leaves, that it is done once, that its bytes depend on nothing else."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from running import STAGES, TINY, finish, product, traces

from raydistill import config as configuration
from raydistill.config import Config, RayConfig
from raydistill.distributed import ending, executors
from raydistill.distributed.runtime import ensure_ray
from raydistill.models import denoiser, vae
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.stages.runner import Execute, Stage, serial
from raydistill.state import Results
from raydistill.store import schemas
from raydistill.store.artifact import Record

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]
Reference = tuple[Path, subprocess.CompletedProcess[str]]


class TestARun:
    def test_ends_with_its_directory_and_shows_every_stage(self, reference: Reference) -> None:
        run, done = reference
        assert done.stdout.splitlines() == [str(run)]
        said = [line[:13].strip() for line in done.stderr.splitlines()]
        assert [s for s in STAGES if not any(line.startswith(s[:12]) for line in said)] == []
        assert "Traceback" not in done.stderr and "error" not in done.stderr.lower()

    def test_leaves_a_product_that_other_libraries_read(self, reference: Reference) -> None:
        folder = reference[0] / "distilled"
        assert sorted(product(reference[0])) == ["README.md", "data/train-00000-of-00001.parquet"]
        table = pq.read_table(folder / "data")
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == {"_type": "Image"}
        assert features["label"] == {"_type": "ClassLabel", "names": ["zero", "one", "two", "three"]}
        assert Counter(table["label"].to_pylist()) == dict.fromkeys(range(4), 2)
        rows = table.to_pylist()
        assert {r["class_name"] for r in rows} == {"zero", "one", "two", "three"}
        assert {r["method"] for r in rows} == {"mgd3"}
        for row in rows:
            picture = Image.open(io.BytesIO(row["image"]["bytes"]))
            picture.load()
            assert (picture.format, picture.size, picture.mode) == ("PNG", (32, 32), "RGB")
            assert json.loads(row["provenance"])["nfe"] == 3 and row["weight"] == 1.0

    def test_leaves_numbers_and_a_page_that_needs_nothing_else(self, reference: Reference) -> None:
        flat = json.loads((reference[0] / "result.json").read_text())
        for key in ("accuracy/convnet/mean", "accuracy/convnet/balanced_mean", "accuracy/random/convnet/mean"):
            assert 0 <= flat[key] <= 1
        assert "difference/mgd3/random/convnet/mean" in flat
        assert not any(key.endswith("std") for key in flat if key.startswith("accuracy/")), "one seed has no spread"
        assert flat["network_calls"] == 3
        assert flat["images/bytes"] > 0 and flat["metrics/random/images/bytes"] > 0 == flat["labels/bytes"]
        assert {"time/encode_s", "time/sample_mgd3_s", "time/evaluate_s"} <= set(flat)
        page = (reference[0] / "report.html").read_text()
        links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page) + re.findall(r"url\(([^)]*)", page)
        beside = [x for x in links if not x.startswith(("data:", "#"))]
        assert beside and all((reference[0] / x).exists() for x in beside) and "<script src" not in page
        assert not re.findall(r"""src\s*=\s*["'](?!data:)""", page)
        assert page.count("data:image/png;base64,") >= 8 and "</html>" in page

    def test_leaves_the_configuration_that_made_it(self, reference: Reference) -> None:
        run = reference[0]
        kept = configuration.load(str(run / "config.yaml"))
        assert kept.ipc == 2 and kept.sampler.name == "ddpm" and kept.run_dir == str(run)


class TestAFinishedRun:
    def test_is_recognised_without_ray_and_left_as_it_is(self, reference: Reference) -> None:
        """RAY_ADDRESS names a cluster that is not there: a run that wanted Ray for anything would fail."""
        run, first = reference
        before = traces(run)
        again = finish(run, RAY_ADDRESS="127.0.0.1:9")
        assert again.returncode == 0, again.stderr
        assert again.stdout == first.stdout and "nothing was left to do" in again.stderr
        assert traces(run) == before

    def test_opens_no_model(self, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
        run, _ = reference
        for module in (vae, denoiser):
            monkeypatch.setattr(module, "load_network", lambda *_: pytest.fail("a network was loaded"))
        before = traces(run)
        nothing: Execute = lambda stage, todo: pytest.fail(f"{stage.name} was done again")  # noqa: E731
        done = job.run(prepare(configuration.load(str(run / "config.yaml"))), execute=nothing)
        assert not done.computed and traces(run) == before

    def test_shares_its_stages_with_another_that_differs_later(self, reference: Reference, tmp_path: Path) -> None:
        """Another guidance scale samples anew and redoes nothing before; the old one stays beside it."""
        run = Path(shutil.copytree(reference[0], tmp_path / "run"))
        before, asked = traces(run), list[str]()

        def here(stage: Stage, todo: Sequence[str]) -> Iterator[Record]:
            asked.append(stage.name)
            return serial(stage, todo)

        overrides = [*TINY, "guidance.scale=0.3", f"run_dir={run}"]
        done = job.run(prepare(configuration.load("quickstart", overrides)), "sample", here)
        assert asked == ["sample", "check"] and done.computed
        after = traces(run)
        kept = {
            k: v for k, v in before.items() if "/commits/" in k or ("/data/" in k and not k.startswith("distilled/"))
        }
        assert len(kept) > 20 and all(after[k] == v for k, v in kept.items())
        assert product(run) != product(reference[0]), "distilled/ is the new one"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ensure_ray(RayConfig(num_cpus=6, object_store_mb=200))
    yield
    ending.shutdown()


class TestBytes:
    """DESIGN promise 3. Each case samples anew from one plan; what comes before is made once and copied."""

    @pytest.fixture(scope="class")
    def before(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A run directory that has everything up to the prototypes."""
        run = tmp_path_factory.mktemp("before") / "run"
        job.run(prepare(self.config(run, 1)), "cluster", lambda stage, todo: serial(stage, todo))
        return run

    def config(self, run: Path, batch: int, *more: str) -> Config:
        return configuration.load(
            "quickstart", [*TINY, "ipc=3", f"sample.batch={batch}", f"run_dir={run}", "evaluate.baselines=[]", *more]
        )

    def sampled(self, before: Path, run: Path, batch: int, actors: int, execute: Execute) -> Results:
        shutil.copytree(before, run)
        return job.run(prepare(self.config(run, batch, f"sample.actors={actors}")), "sample", execute)

    def shuffled(self, seed: int, ray_too: bool) -> Execute:
        """Units in an order of chance."""

        def execute(stage: Stage, todo: Sequence[str]) -> Iterator[Record]:
            spread = executors.on_ray(RayConfig()) if ray_too else serial
            return spread(stage, random.Random(seed).sample(list(todo), len(todo)))

        return execute

    def bytes_of(self, done: Results) -> dict[str, str]:
        """The digest of every file that sampling committed."""
        return {r.key: r.sha256 for r in done.syntheses["mgd3"].parts[0].manifest.records}

    def latents_of(self, done: Results) -> np.ndarray:
        """(slots, D), by class and slot."""
        by_slot = {}
        part = done.syntheses["mgd3"].parts[0]
        for record in part.manifest.records:
            t = part.artifact.read_table(record)
            keys = zip(t["class_index"].to_pylist(), t["slot"].to_pylist(), strict=True)
            by_slot.update(zip(keys, schemas.tensor_numpy(t["latent"]), strict=True))
        return np.stack([by_slot[k].ravel() for k in sorted(by_slot)])

    def test_are_equal_for_any_number_of_actors_in_any_order_and_near_for_any_batch(
        self, before: Path, tmp_path: Path, cluster: None
    ) -> None:
        latents = {}
        for batch in (1, 4, 7):
            alone = self.sampled(before, tmp_path / f"{batch}-alone", batch, 1, self.shuffled(batch, ray_too=False))
            assert len(self.bytes_of(alone)) == -(-12 // batch)
            for actors in (1, 2):
                run = tmp_path / f"{batch}-{actors}"
                spread = self.sampled(before, run, batch, actors, self.shuffled(10 * batch + actors, ray_too=True))
                assert self.bytes_of(spread) == self.bytes_of(alone), (batch, actors)
                assert product(run) == product(tmp_path / f"{batch}-alone"), (batch, actors)
            latents[batch] = self.latents_of(alone)
        for batch in (4, 7):
            assert np.abs(latents[batch] - latents[1]).max() <= 1e-4 * np.abs(latents[1]).max()

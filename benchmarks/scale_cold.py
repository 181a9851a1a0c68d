"""The cold start of a finished run: what its command takes when it is given once more, and nothing is left to do.

    python benchmarks/scale_cold.py --work DIR [--images 100000] [--classes 1000] [--encoded 20000] [--batch 1]

The run is made by the stages themselves but for the denoiser, whose place a stand-in takes: `--images` images of 8
pixels, a commit for each at `--batch 1`, and a student, so that every stage is there up to the report. That takes most
of an hour on two cores; a run that DIR holds already is gone on with. The figures are kept as scale.py keeps its own.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import RESULTS, job, machine, plain_environment
from scale import COLD, keep, origin, write_images
from scale_parts import StandIn

from raydistill.config import load
from raydistill.pipeline import job as pipeline
from raydistill.pipeline.preflight import prepare
from raydistill.stages.runner import Stage, serial
from raydistill.store.artifact import Record

FOUND = re.compile("finished before|found finished")
SIZE = 8  # pixels of an image; a latent of it has 4x2x2 numbers


def words(options: argparse.Namespace) -> list[str]:
    """What the job is given."""
    return [
        f"source.path={options.work / 'images'}", "source.kind=imagefolder", f"source.image_size={SIZE}",
        f"run_dir={options.work / 'run'}", f"generator.path={options.work / 'generator'}", "method=dit",
        f"ipc={options.images // options.classes}", f"sample.batch={options.batch}", "evaluate.baselines=[]",
        "evaluate.full=false", "evaluate.seeds=1", "evaluate.width=8", "evaluate.workers=1",
        "evaluate.protocol.visits=64", "evaluate.protocol.batch=8", f"evaluate.protocol.image_size={SIZE}",
    ]  # fmt: skip


def make(options: argparse.Namespace) -> None:
    """The run, to its report; only its student needs Ray."""
    if not (options.work / "images").exists():
        write_images(options.work / "images", options.encoded, options.classes)
        write_generator(options.work / "generator", options.classes)
    pipeline.run(prepare(load("quickstart", words(options))), "report", standing_in)


def standing_in(stage: Stage, todo: Sequence[str]) -> Iterator[Record]:
    """Every stage in this process, that of the generator by the stand-in."""
    return serial(replace(stage, work=StandIn(stage.artifact, 0.0)) if stage.name == "sample" else stage, todo)


def cold(options: argparse.Namespace) -> dict[str, Any]:
    """The command of the finished run, given once more; seconds from the process's start.

    Raises SystemExit if anything was left to do.
    """
    command = [sys.executable, "-c", COLD, *job("distill", "--config", "quickstart", *words(options))[1:]]
    start, found_s, text = time.monotonic(), [0.0], ""
    with subprocess.Popen(
        command, cwd=options.work, env=plain_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            text += line
            found_s += [time.monotonic() - start] if FOUND.search(line) and not line.startswith("evaluate") else []
    seconds, match = time.monotonic() - start, re.search(r"^peak (\d+) cpu ([\d.]+)$", text, re.MULTILINE)
    if process.returncode or match is None or "nothing was left to do" not in text:
        raise SystemExit(f"the run was not found finished:\n{text}")
    return {
        "commits of the sample stage": options.images // options.batch,
        "to the last stage before the set, s": found_s[-2],
        "to the end, s": seconds,
        "to the end, CPU s": float(match[2]),
        "driver at most, MiB": int(match[1]) / 1024,
    }


def write_generator(path: Path, classes: int) -> None:
    """One that nobody asks, for these classes."""
    from diffusers import DiTTransformer2DModel

    net = DiTTransformer2DModel(
        2, 8, in_channels=4, out_channels=4, num_layers=1, sample_size=SIZE // 4, patch_size=1,
        num_embeds_ada_norm=classes, norm_type="ada_norm_zero", activation_fn="gelu-approximate",
    )  # fmt: skip
    net.save_pretrained(path / "transformer")
    scheduler = {"_class_name": "DDIMScheduler", "prediction_type": "epsilon", "num_train_timesteps": 1000,
                 "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}  # fmt: skip
    training = {"prediction": "epsilon", "latent_scale": 1.0, "class_ids": [f"n{c:08d}" for c in range(classes)],
                "null_class_index": classes, "learned_variance": False}  # fmt: skip
    (path / "scheduler").mkdir()
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (path / "training.json").write_text(json.dumps(training))


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="a folder, which stays")
    for name, count in (("images", 100_000), ("classes", 1000), ("encoded", 20_000), ("batch", 1)):
        p.add_argument(f"--{name}", type=int, default=count)
    p.add_argument("--out", type=Path, default=RESULTS.parent / "scale", help="a folder")
    options = p.parse_args(argv)
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    make(options)
    before = machine()
    keep(options.out, {"cold start": cold(options) | origin(before)})
    print((options.out / "scale.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast a core of this machine is at what a run does: each kind of work once or twice, in CPU seconds.

CPU seconds of one thread are those of an idle machine, nearly, however busy this one is.
"""

from __future__ import annotations

import datetime
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raydistill import config as configuration
from raydistill import registry
from raydistill.clustering.points import Whole
from raydistill.config import Config, Pool
from raydistill.config import text as yaml
from raydistill.errors import StageFailed, one_line
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.score import examine
from raydistill.evaluation.train import Student, train_student
from raydistill.methods.resolve import SamplingPlan, Variant
from raydistill.models import loaded
from raydistill.models.device import device_kind, placement
from raydistill.planning import rates
from raydistill.planning.asking import evaluations
from raydistill.planning.facts import Facts, gather, tree
from raydistill.planning.judging import recipes
from raydistill.planning.rates import RateRecord
from raydistill.planning.workload import clusterings
from raydistill.progress import say
from raydistill.seeding import NoiseKey
from raydistill.sources.images import decode, png
from raydistill.stages.syntheses.sample import Maker, Trace, context_values
from raydistill.store import schemas

IMAGES = 32  # that are read and written
STEPS = 4  # of the sampler
TESTED = 250
TRAINED = 5e10  # FLOPs, about, of steps of a student
TABLE = 8_000_000  # bytes


def in_worker(config: Config, remedy: str = "--rates FILE") -> RateRecord:
    """What `measure` says in a process with the environment of workers, whose memory is kept between steps.

    Raises StageFailed if it does not come to its end; `remedy` is where rates can be given instead.
    """
    from raydistill.distributed.runtime import WORKER_ENV

    say("probe", "measuring this machine, which takes seconds")
    command = [sys.executable, "-m", "raydistill.planning.probe"]
    done = subprocess.run(
        command, input=config.yaml(), env={**os.environ, **WORKER_ENV}, capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise StageFailed(f"probe: {one_line(last)}; give what was measured before with {remedy}")
    return rates.of_text(done.stdout, "probe")


def measure(config: Config) -> RateRecord:
    """Rates of a core for the kinds of work whose networks and images are there; of others bounds stay.

    To be called first of all in a process, which is what a worker's start is measured by.
    """
    overheads = _libraries()
    config, variants, facts = gather(config)
    torch.set_num_threads(1)
    per_s = _images(config, facts) | _networks(config, variants, facts) | _students(config, facts)
    per_s |= _clustering(config, variants, facts) | _tables(facts)
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    return RateRecord(device_kind(False), per_s, None, f"here, on {now}", overheads)


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of what has been done once before."""
    work()
    return once(work)


def once(work: Callable[[], Any]) -> float:
    """CPU seconds."""
    start = time.process_time()
    work()
    return max(1e-6, time.process_time() - start)


def _images(config: Config, facts: Facts) -> dict[str, float]:
    """Real images read and written, of all parts of the listing."""
    splits, s = facts.images.splits, config.source
    if splits is None:
        return {}
    step = max(1, len(splits.train) // IMAGES)
    ids = splits.train.ids[::step].to_pylist()[:IMAGES]

    def read() -> list[np.ndarray]:
        return [decode(data, s.image_size, s.max_pixels) for data in splits.source.read(splits.train.split, ids)]

    pixels = read()
    return {"read": len(ids) / seconds(read), "png": len(ids) / seconds(lambda: [png(p) for p in pixels])}


def _one(pool: Pool) -> Any:
    """The pool's settings on a thread of the CPU."""
    return pool.model_copy(update={"threads": 1, "device": "cpu", "num_gpus": 0.0})


def _networks(config: Config, variants: Sequence[Variant], facts: Facts) -> dict[str, float]:
    """Encoding a micro-batch, decoding a batch, and some steps of the sampler with its guidance, as the stages do."""
    if facts.vae is None:
        return {}
    size, b = config.source.image_size, config.encode.batch
    vae = loaded.vae(facts.vae, placement(_one(config.encode)))
    pixels, z = (
        torch.randint(256, (b, size, size, 3), dtype=torch.uint8),
        torch.randn(config.sample.batch, *facts.shape),
    )
    decoding = seconds(lambda: vae.decode(z))
    per_s = {
        "encode": b * facts.encode.flops / seconds(lambda: vae.encode(pixels)),
        "decode": len(z) * facts.decode.flops / decoding,
    }
    makers = [one for v in variants for one in v.makers() if one.sampling is not None]
    v = next(iter(makers), None)
    if v is None or v.sampling is None or facts.generator is None or facts.denoise is None:
        return per_s
    sampler = v.sampling.sampler.model_copy(update={"steps": min(STEPS, v.sampling.steps)})
    main = v.sampling.guidance  # classifiers are counted apart from it, and those of its terms may not be trained yet
    main = None if main is None or main.roles else main
    sampling = replace(v.sampling, sampler=sampler, guidance=main, terms=(), networks={})
    passes = 1 if sampling.sampler.cfg_scale == 1 else 2
    calls = evaluations(sampling, facts.generator) * passes * len(z)
    spent = seconds(_sampled(config, sampling, facts)) - decoding
    return per_s | {"denoise": calls * facts.denoise.flops / max(1e-6, spent)}


def _sampled(config: Config, sampling: SamplingPlan, facts: Facts) -> Callable[[], Any]:
    """A batch of the sampler's, of random prototypes in random latents."""
    assert facts.vae is not None and facts.generator is not None
    maker, count = Maker(sampling, facts.generator, facts.vae, _one(config.sample)), config.sample.batch
    classes = facts.generator.class_ids
    keys = [NoiseKey(0, classes[i % len(classes)], i) for i in range(count)]
    rng = np.random.default_rng(0)
    prototypes = rng.standard_normal((count, *facts.shape), np.float32)
    real = rng.standard_normal((facts.images.train // facts.images.classes, *facts.shape), np.float32)
    context = {
        name: context_values(c, real.astype(np.float16), prototypes, classes[0]) for name, c in sampling.context.items()
    }
    return lambda: maker(prototypes, keys, context, Trace())


def _students(config: Config, facts: Facts) -> dict[str, float]:
    """Some steps of the first student, and a test: a training of a few batches less one of none of them."""
    name, recipe = next(recipes(config, facts))
    step, test = facts.students[name]
    slots = facts.images.classes * config.ipc
    images = _random_set(min(slots, 4 * recipe.batch), facts, recipe.image_size)
    tested = _random_set(TESTED, facts, recipe.image_size)
    student = Student(name, config.evaluate.width, facts.images.classes, 0)
    net = student.build(recipe.image_size)
    spent = seconds(lambda: examine(net, tested, facts.images.classes, statistics=recipe.statistics))
    short = replace(recipe, labels="hard", bn_pass=False, evaluations=1, tested_from=0.0)
    batch = min(recipe.batch, len(images))
    few, more = 2 * batch, batch * min(400, max(8, math.ceil(TRAINED / (batch * step.flops))))

    def train(visits: int) -> None:
        train_student(student, replace(short, visits=visits), images, tested, torch.device("cpu"))

    begun = seconds(lambda: train(few))
    return {
        "train": more * step.flops / max(1e-6, once(lambda: train(few + more)) - begun),
        "test": TESTED * test.flops / spent,
    }


def _random_set(count: int, facts: Facts, size: int) -> ImageSet:
    return ImageSet(
        torch.randint(256, (count, 3, size, size), dtype=torch.uint8),
        torch.arange(count) % facts.images.classes,
        torch.ones(count),
    )


def _clustering(config: Config, variants: Sequence[Variant], facts: Facts) -> dict[str, float]:
    """A class of random latents, by the first algorithm that is asked for."""
    planned = next(clusterings(config, variants, facts), None)
    v = next((one for v in variants for one in v.makers() if one.method.uses_prototypes), None)
    if planned is None or v is None:
        return {}
    algorithm = v.config.cluster.algorithm or "kmeans"
    n = facts.images.train // facts.images.classes
    x = np.random.default_rng(0).standard_normal((n, int(np.prod(facts.shape))), np.float32)
    c = v.config
    if tree(algorithm):
        c = c.model_copy(update={"cluster": c.cluster.model_copy(update={"leaves": min(n, c.cluster.leaves)})})
    clustering = registry.get("clustering", algorithm).of(c)
    spent = once(lambda: clustering.cluster(Whole(x), "0"))
    return {"cluster": planned.costs["cluster"] / facts.images.classes / spent}


def _tables(facts: Facts) -> dict[str, float]:
    """Bytes of latents written and read."""
    import pyarrow.parquet as parquet

    rows = max(1, TABLE // 2 // int(np.prod(facts.shape)))
    latents = np.random.default_rng(0).standard_normal((rows, *facts.shape))
    table = pa.table({"latent": schemas.tensor_array(latents.astype(np.float16))})
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "table.parquet")

        def through() -> None:
            parquet.write_table(table, file)
            parquet.read_table(file)

        return {"table": 2 * latents.size * 2 / seconds(through)}


def _libraries() -> dict[str, float]:
    """CPU seconds of this process until it has all that a student's worker imports, and until it has that of others."""
    import raydistill.distributed.pool  # noqa: F401 (with Ray)
    from raydistill.models.device import quiet_libraries

    student = time.process_time()
    quiet_libraries()
    from diffusers import AutoencoderKL, AutoencoderTiny, DiTTransformer2DModel  # noqa: F401 (loaded when named)

    return {"student": student, "worker": time.process_time()}


if __name__ == "__main__":
    sys.stdout.write(rates.text(measure(configuration.build(yaml.read(sys.stdin.read())))))

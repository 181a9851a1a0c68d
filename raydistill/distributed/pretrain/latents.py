"""The latents that a generator is trained on: made by the encode stage, read back through Ray Data.

They lie in `artifact_dir` if that is set, where a run of the same images and VAE finds them, and beside the checkpoints
otherwise.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.data

from raydistill.distributed import executors
from raydistill.distributed.failures import translate
from raydistill.distributed.nodes import Nodes
from raydistill.distributed.runtime import in_flight, shares
from raydistill.errors import BadInput, StageFailed
from raydistill.models.checkpoint import WORK
from raydistill.pretraining.data import BLOCK, CLASS, IMAGE, LATENT, TrainingLatents
from raydistill.pretraining.plan import Plan
from raydistill.stages import runner
from raydistill.stages.latents import encode
from raydistill.stages.runner import Stage
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

STORE = "store"
TRAIN, HELD = "train", "validation"
BLOCKS = 256


@dataclass(frozen=True)
class StoredLatents:
    """A split's latents, committed, and in Ray's object store: columns of `schemas.latents`."""

    rows: int
    data: Any  # ray.data.MaterializedDataset


def run_dir(plan: Plan) -> RunDir:
    """Where the latents of a training go."""
    return RunDir(str(plan.out / WORK / STORE), plan.config.artifact_dir)


def encode_and_read(plan: Plan, run: RunDir, nodes: Nodes) -> dict[str, StoredLatents]:
    """Encodes what is not yet encoded, then reads all of it. Raises StageFailed, CorruptArtifact."""
    on_ray = executors.on_ray(plan.config.ray)

    def execute(stage: Stage, todo: Sequence[str]) -> Iterator[Record]:
        return nodes.watch(on_ray(stage, todo))

    assert plan.vae is not None
    run.claim()
    stored = {}
    for name, listing in ((TRAIN, plan.listing), (HELD, plan.held)):
        stage = encode.stage(plan.config, run, listing, plan.vae)
        try:
            latents = runner.run(stage, execute, f"encode {listing.split}"[:13]).sealed
        except BadInput as e:  # found only now: a cluster without GPUs, weights that do not load
            raise StageFailed(str(e)) from e
        stored[name] = StoredLatents(latents.rows, read(latents, plan.config.encode.deadline_s))
    return stored


def read(latents: Sealed, deadline_s: float) -> Any:
    """A materialised Ray Data set of every latent, each file checked against its commit.

    It is whole before a fit begins: the workers of a fit hold the CPUs that reading would wait for.
    """
    items = [{"record": pickle.dumps(r)} for r in latents.records if r.rows]

    def load(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        table = latents.artifact.read_table(pickle.loads(batch["record"][0]))
        return {
            IMAGE: table[IMAGE].to_numpy(),
            CLASS: table[CLASS].to_numpy(),
            LATENT: schemas.tensor_numpy(table[LATENT]),
        }

    data = ray.data.from_items(items, override_num_blocks=min(len(items), BLOCKS)).map_batches(
        load,
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.TaskPoolStrategy(size=in_flight(1)) if shares() else None,
    )
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(data.materialize).result(deadline_s)
    except TimeoutError:
        raise StageFailed(
            f"pretrain: the latents were not read in {deadline_s:g} s; the cluster has no free CPU (see `ray status`) "
            "or storage is slow; run the same command again, or raise encode.deadline_s"
        ) from None
    except Exception as e:  # Ray Data wraps whatever a task raised
        raise translate(e, "pretrain") from e
    finally:
        pool.shutdown(wait=False)


def collect(name: str, rows: int) -> TrainingLatents:
    """Inside a Ray Train worker: all of a data set, in this worker's memory."""
    import ray.train

    shard = ray.train.get_dataset_shard(name)
    return TrainingLatents.collect(shard.iter_batches(batch_size=BLOCK, batch_format="numpy"), rows)

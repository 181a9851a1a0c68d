"""What one training is: checked before any work, named by a fingerprint, and turned into a task where it runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydistill import strict_json
from raydistill.config import Config, SourceConfig
from raydistill.config.reads import SIZES
from raydistill.errors import BadInput, one_line
from raydistill.identity import fingerprint
from raydistill.models import dit_pipeline, hub
from raydistill.models.checkpoint import PIPELINE, WORK
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.vae import VaeSpec
from raydistill.pretraining.data import TrainingLatents, held_for_validation, load_pixels
from raydistill.pretraining.networks import build_vae
from raydistill.pretraining.origin import Origin, from_checkpoint, from_scratch
from raydistill.pretraining.output import MARKER, common_record, spoiled, write_generator, write_vae
from raydistill.pretraining.tasks import GeneratorTask, VaeTask
from raydistill.sources import detect
from raydistill.sources.base import Listing, Source, open_splits
from raydistill.store import seals
from raydistill.store.hub import is_id
from raydistill.store.location import check_lasting
from raydistill.tracking import destination, journal

ALGORITHM = {"vae": 1, "generator": 2}
SAMPLES = "samples"
KEPT = (journal.FOLDER, seals.FOLDER)  # by who tells MLflow of it
COMMON = ("target", "steps", "batch", "lr", "ema", "threads")
READ = {
    "vae": (*COMMON, "kl_weight", "latent_channels", "vae_channels"),
    "generator": (*COMMON, "label_dropout", "time", "dtype", "trainable"),
}


@dataclass(frozen=True)
class Plan:
    """A checked training. `out` is absolute; checkpoints live in out/.train until the training is written.

    `as_given` is the configuration as it was, `config` the same with absolute paths, for workers elsewhere. `vae`, its
    digest and `origin` are of a generator; `held` are the images that it is validated on.
    """

    as_given: Config
    config: Config
    out: Path
    source: Source
    listing: Listing
    held: Listing
    vae: VaeSpec | None = None
    vae_digest: str | None = None
    origin: Origin | None = None
    left_out: str = ""  # sources.base.Splits

    @property
    def target(self) -> str:
        return self.config.pretrain.target

    @property
    def fine_tunes(self) -> bool:
        return self.origin is not None and self.origin.spec is not None

    @property
    def validate_every(self) -> int:
        p = self.config.pretrain
        return p.validate_every or max(1, p.steps // 10)

    @property
    def fingerprint(self) -> str:
        """Identity of the trained weights: the keys that are read, the images, and what made and shaped the latents.

        The number of workers is part of it, since it decides how sums are rounded.
        """
        c, origin = self.config, self.origin
        tree = c.tree()
        keys = {k: tree["pretrain"][k] for k in READ[self.target]}
        if c.pretrain.workers > 1:
            keys["workers"] = c.pretrain.workers
        if origin is not None:
            keys |= {} if origin.spec else {k: tree["pretrain"][k] for k in SIZES}
            keys |= {"objective": origin.objective, "init": origin.spec.identity() if origin.spec else None}
            keys |= {} if origin.rows is None else {"class_rows": list(origin.rows)}
            keys["encode"] = [tree["encode"][k] for k in ("batch", "dtype", "threads")] + [c.source.max_pixels]
        elif c.source.max_pixels != SourceConfig().max_pixels:  # which images it is trained on
            keys["max_pixels"] = c.source.max_pixels
        images = (c.source.image_size, self.listing.digest)
        return fingerprint("pretrain", ALGORITHM[self.target], c.seed, images, keys, self.vae_digest)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        assert self.vae is not None
        return self.vae.latent_shape(self.config.source.image_size)

    def blank(self) -> nn.Module:
        """The network with its first weights. Raises BadInput for sizes that cannot work."""
        c = self.config
        if self.origin is None:
            return build_vae(c.pretrain, c.source.image_size, c.seed)
        return self.origin.network(c, self.latent_shape)

    def check_networks(self) -> None:
        """Raises BadInput for a VAE, or a generator to fine-tune, whose weights do not fit its config.json."""
        if self.vae is not None:
            self.vae.check_network()
        if self.origin is not None:
            self.origin.check_network()

    def finished(self) -> bool:
        """Whether `out` holds this very training. Raises BadInput if it holds anything else."""
        names = sorted(p.name for p in self.out.iterdir() if p.name not in KEPT) if self.out.is_dir() else []
        if MARKER in names:
            try:
                record = strict_json.mapping((self.out / MARKER).read_bytes())
            except (ValueError, OSError) as e:
                raise BadInput(
                    f"pretrain.out: {self.out / MARKER} cannot be read ({one_line(e)}), so nobody knows which training "
                    "it is; choose another folder, or remove this one"
                ) from None
            recorded, odd = record.get("fingerprint"), spoiled(self.out, record)
            if recorded != self.fingerprint:
                raise BadInput(
                    f"pretrain.out: {self.out} holds another training ({recorded}, this one is "
                    f"{self.fingerprint}); choose another folder or remove it"
                )
            if odd is not None:
                raise BadInput(
                    f"pretrain.out: {self.out / odd} is not what was written; remove {self.out} and train again, or "
                    "choose another folder"
                )
            return True
        if names and WORK not in names:
            raise BadInput(
                f"pretrain.out: {self.out} holds {names[0]!r} and is not a pretrain folder; choose an empty one"
            )
        return False

    def vae_task(self, device: torch.device | str, warn: Callable[[str], None]) -> VaeTask:
        """Reads the images, and builds the network on `device`."""
        pixels, _ = load_pixels(self.source, self.listing, self.config.source, warn)
        return VaeTask(self.config.pretrain, self.config.seed, pixels, device)

    def generator_task(self, latents: TrainingLatents, device: torch.device | str) -> GeneratorTask:
        """Builds the network on `device`, to be trained on `latents`."""
        c, origin = self.config, self.origin
        assert origin is not None
        labels = origin.labels(self.listing.classes)
        return GeneratorTask(c.pretrain, c.seed, origin, self.blank(), latents, labels, device)

    def write(self, net: nn.Module, state: dict[str, Any]) -> None:
        """Writes the averaged weights `net` (on the CPU) to `out`; training.json comes last and marks it as whole.

        `state` is that of a trainer after the last step.
        """
        c, losses = self.config, state["losses"]
        record = {
            "fingerprint": self.fingerprint,
            **common_record(self.as_given, self.listing, losses, state["seconds"]),
        }
        if self.origin is None:
            pixels, _ = load_pixels(self.source, self.listing, c.source)
            write_vae(self.out, net, pixels, record, losses, c.pretrain.kl_weight)
            return
        record |= {
            "vae": self.vae_digest,
            "time": c.pretrain.time,
            "label_dropout": c.pretrain.label_dropout,
            "compute_dtype": c.pretrain.dtype,
            "validation_source": {"split": self.held.split, "images": len(self.held), "digest": self.held.digest},
        }
        if self.origin.spec is not None:
            origin = {"name": self.origin.spec.path.name, **self.origin.spec.identity()}
            record |= {"fine_tuned_from": origin, "trainable": c.pretrain.trainable}
        scale = state["facts"]["latent_scale"]
        write_generator(self.out, net, self.origin, record, losses, state["validation"], scale)

    def write_pipeline(self) -> str | None:
        """Puts the finished generator with its VAE where diffusers reads them, `out`/pipeline, unless it is there.

        Why not, where diffusers would sample it otherwise; None of a VAE.
        """
        if self.vae is None or (self.out / PIPELINE / dit_pipeline.INDEX).is_file():
            return None
        try:
            dit_pipeline.write(GeneratorSpec(str(self.out)), self.vae, self.out / PIPELINE)
        except BadInput as e:
            return f"no {self.out / PIPELINE} for diffusers: {e}"
        return None


def make_plan(config: Config) -> Plan:
    """Checks everything that can be known beforehand. Raises BadInput; writes nothing."""
    check_lasting("pretrain.out", config.pretrain.out, uris=False)
    check_lasting("artifact_dir", config.artifact_dir)
    as_given, config = config, _absolute(config)
    kind = {"kind": config.source.kind}  # settled
    as_given = as_given.model_copy(update={"source": as_given.source.model_copy(update=kind)})
    p = config.pretrain
    if p.out is None:
        raise BadInput("pretrain.out is not set; give the directory to write, for example pretrain.out=models/vae")
    if "://" in p.out:
        raise BadInput(f"pretrain.out: {p.out} is a URI; give a folder that every node sees, then copy it")
    if p.batch % p.workers:
        raise BadInput(
            f"pretrain.batch={p.batch} is not a multiple of pretrain.workers={p.workers}; change one of the two"
        )
    if p.init is not None and p.target == "vae":
        raise BadInput("pretrain.init: only generators are fine-tuned; leave it out, or set pretrain.target=generator")
    if p.init is None and p.class_map is not None:
        raise BadInput("pretrain.class_map goes with pretrain.init, a checkpoint to fine-tune; give one")
    if p.init is None and p.trainable != "all":
        raise BadInput(f"pretrain.trainable={p.trainable} goes with pretrain.init, a checkpoint to fine-tune; give one")
    out = Path(p.out).expanduser().resolve()
    _check_writable(out)
    splits = open_splits(config.source)
    plan = Plan(
        as_given, config, out, splits.source, splits.train, held_for_validation(splits.test), left_out=splits.left_out
    )
    if p.target == "generator":
        plan = _with_generator(plan)
    if plan.origin is None or plan.origin.spec is None:
        with torch.device("meta"):  # sizes that cannot work are refused, whatever they would take of memory
            plan.blank()
    return plan


def _with_generator(plan: Plan) -> Plan:
    c, classes = plan.config, plan.listing.classes
    model = hub.find("vae", c.vae.path, c.vae.revision)
    vae = VaeSpec(model.folder, model.name)
    wanted, shape = c.generator.objective, vae.latent_shape(c.source.image_size)
    if c.pretrain.init is None:
        origin = from_scratch(wanted or "epsilon", classes)
    else:
        origin = from_checkpoint(c.pretrain.init, wanted, vae, shape, classes, c.pretrain.class_map)
    digest = str(vae.identity()["weights"])
    return replace(plan, vae=vae, vae_digest=digest, origin=origin)


def _absolute(config: Config) -> Config:
    """Ray Train's workers run in a folder of their own."""

    def full(path: str | None) -> str | None:
        if path is None or "://" in path or is_id(path):
            return path
        return os.path.abspath(os.path.expanduser(path))

    return config.model_copy(
        update={
            "source": detect.settled(config.source.model_copy(update={"path": full(config.source.path)})),
            "vae": config.vae.model_copy(update={"path": full(config.vae.path)}),
            "pretrain": config.pretrain.model_copy(update={"init": full(config.pretrain.init)}),
            "tracking": destination.absolute(config.tracking),
        }
    )


def _check_writable(out: Path) -> None:
    parent = out
    try:
        while not parent.exists():
            parent = parent.parent
    except OSError as e:  # a name too long, for example
        raise BadInput(f"pretrain.out: {str(out)[:80]}... cannot be made ({e.strerror}); choose another") from None
    if not parent.is_dir():
        raise BadInput(f"pretrain.out: {parent} is a file; choose a folder")
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as e:
        raise BadInput(f"pretrain.out: {parent} is not writable ({e.strerror}); choose another folder") from None

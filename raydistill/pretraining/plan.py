"""What one training is: checked before any work, named by a fingerprint, and turned into a task where it runs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydistill.config import Config, Pool
from raydistill.errors import BadInput
from raydistill.identity import fingerprint
from raydistill.models import hub
from raydistill.models.device import place
from raydistill.models.vae import Vae, VaeSpec
from raydistill.pretraining.data import encode_all, load_pixels
from raydistill.pretraining.networks import build_generator, build_vae
from raydistill.pretraining.output import MARKER, common_record, write_generator, write_vae
from raydistill.pretraining.tasks import GeneratorTask, Task, VaeTask
from raydistill.sources.base import Listing, Source, open_splits

ALGORITHM = 1
WORK = ".train"
COMMON = ("target", "steps", "batch", "lr", "ema", "threads")
READ = {
    "vae": (*COMMON, "kl_weight", "latent_channels", "vae_channels"),
    "generator": (*COMMON, "label_dropout", "layers", "heads", "head_dim", "patch"),
}


@dataclass(frozen=True)
class Plan:
    """A checked training. `out` is absolute; checkpoints live in out/.train until the training is written."""

    config: Config
    out: Path
    source: Source
    listing: Listing
    vae: VaeSpec | None  # of a generator's latents
    vae_digest: str | None

    @property
    def target(self) -> str:
        return self.config.pretrain.target

    @property
    def fingerprint(self) -> str:
        """Identity of the trained weights: the keys that are read, the images, and the VAE that made the latents."""
        c = self.config
        tree = c.tree()["pretrain"]
        keys = {k: tree[k] for k in READ[self.target]}
        images = (c.source.image_size, self.listing.digest)
        return fingerprint("pretrain", ALGORITHM, c.seed, images, keys, self.vae_digest)

    def blank(self) -> nn.Module:
        """The network with its first weights. Raises BadInput for sizes that cannot work."""
        c = self.config
        if self.target == "vae":
            return build_vae(c.pretrain, c.source.image_size, c.seed)
        assert self.vae is not None
        shape = self.vae.latent_shape(c.source.image_size)
        return build_generator(c.pretrain, shape, len(self.listing.classes), c.seed)

    def finished(self) -> bool:
        """Whether `out` holds this very training. Raises BadInput if it holds anything else."""
        names = sorted(p.name for p in self.out.iterdir()) if self.out.is_dir() else []
        if MARKER in names:
            try:
                found = json.loads((self.out / MARKER).read_text()).get("fingerprint")
            except (ValueError, OSError, AttributeError):
                found = None
            if found != self.fingerprint:
                raise BadInput(
                    f"pretrain.out: {self.out} holds another training ({found}, this one is "
                    f"{self.fingerprint}); choose another folder or remove it"
                )
            return True
        if names and WORK not in names:
            raise BadInput(
                f"pretrain.out: {self.out} holds {names[0]!r} and is not a pretrain folder; choose an empty one"
            )
        return False

    def task(self, device: torch.device | str, warn: Callable[[str], None]) -> Task:
        """Reads the images, encodes them if needed, and builds the network, all on `device`."""
        c = self.config
        pixels, labels = load_pixels(self.source, self.listing, c.source, warn)
        if self.target == "vae":
            return VaeTask(c.pretrain, c.seed, pixels, device)
        kind = torch.device(device).type
        pool = Pool(threads=c.pretrain.threads, device="cuda" if kind == "cuda" else "cpu", dtype="float32")
        assert self.vae is not None
        latents = encode_all(Vae(self.vae, place(pool)), pixels)
        return GeneratorTask(c.pretrain, c.seed, latents, labels, len(self.listing.classes), device)

    def write(self, net: nn.Module, losses: Sequence[float], seconds: float) -> None:
        """Writes the averaged weights `net` (on the CPU) to `out`; training.json comes last and marks it as whole."""
        c = self.config
        record: dict[str, Any] = {"fingerprint": self.fingerprint, **common_record(c, self.listing, losses, seconds)}
        if self.target == "vae":
            pixels, _ = load_pixels(self.source, self.listing, c.source)
            write_vae(self.out, net, pixels, record, losses, c.pretrain.kl_weight)
        else:
            assert self.vae_digest is not None
            write_generator(self.out, net, self.listing, record, losses, self.vae_digest)


def make_plan(config: Config) -> Plan:
    """Checks everything that can be known beforehand. Raises BadInput; writes nothing."""
    given = config.pretrain.out
    if given is None:
        raise BadInput("pretrain.out is not set; give the directory to write, for example pretrain.out=models/vae")
    if "://" in given:
        raise BadInput(f"pretrain.out: {given} is a URI; give a folder that every node sees, then copy it")
    out = Path(given).expanduser().resolve()
    _check_writable(out)
    splits = open_splits(config.source)
    vae, digest = None, None
    if config.pretrain.target == "generator":
        found = hub.find("vae", config.vae.path, config.vae.revision)
        vae = VaeSpec(found.folder, found.name)
        digest = str(vae.identity()["weights"])
    plan = Plan(config, out, splits.source, splits.train, vae, digest)
    plan.blank()
    return plan


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

"""label: a teacher's soft labels of the views that students will be shown, stored per image and view.

The unit is a batch of syntheses as it was sampled, with all its views; which box a view shows, and how it shuffles
patches, depends on the image's row and the view's number alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch

from raydistill.config import Config, LabelConfig, SourceConfig
from raydistill.declared import Keys
from raydistill.evaluation.geometry import Boxes, matrices, resample
from raydistill.evaluation.recipe import Recipe
from raydistill.evaluation.stored import Views, quantise, view_boxes, view_patches
from raydistill.models import loaded
from raydistill.models.classifier import ClassifierSpec, class_columns
from raydistill.models.device import placement
from raydistill.sources.base import ClassInfo
from raydistill.stages.evaluation.image_sets import SetRef, load_images
from raydistill.stages.runner import Stage
from raydistill.stages.syntheses.distilled_set import Unit
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

BOX = ("top", "left", "height", "width", "flip")


def view_parts(recipe: Recipe, _: object) -> list[object]:
    """What of a recipe decides its views. Patches came later, and add nothing where none are shuffled."""
    parts = [recipe.views, recipe.image_size, recipe.crop_scale, recipe.flip]
    return [*parts, *([recipe.patches] if recipe.patches > 1 else [])]


@dataclass(frozen=True)
class LabelWork(StageWork):
    name, folder = "label", "labels"

    set: str  # the digest of its images
    network: ClassifierSpec
    class_ids: tuple[str, ...]
    recipe: Annotated[Recipe, view_parts]
    source: Annotated[SourceConfig, Keys("image_size", "max_pixels")]
    label: Annotated[LabelConfig, Keys("batch", "dtype", "threads")]

    def load(self, item: Unit) -> tuple[Unit, np.ndarray]:
        """The unit and its images (n, 3, S, S) uint8."""
        blobs = item.artifact.read_table(item.record, columns=["image"])["image"].to_pylist()
        return item, load_images(blobs, self.source, self.recipe.image_size)

    def open(self) -> Callable[[tuple[Unit, np.ndarray]], Record]:
        at = placement(self.label)
        network = loaded.classifier(self.network, at)
        columns = torch.from_numpy(class_columns(self.network, self.class_ids)).to(at.device)

        def finish(unit: tuple[Unit, np.ndarray]) -> Record:
            item, pixels = unit
            images = torch.from_numpy(pixels).to(at.device)
            row, view, boxes, patches = pairs(item.start + np.arange(len(pixels)), self.recipe)
            logits = []
            for i in range(0, len(row), self.label.batch):
                some = np.arange(i, min(i + self.label.batch, len(row)))
                x = images[torch.from_numpy(row[some] - item.start).to(at.device)].to(torch.float32)
                moved = None if patches is None else patches[:, some]
                x = resample(x, *matrices(boxes[some], x.shape[-1], moved, at.device))
                logits.append(network.logits(x / 255)[:, columns].cpu().numpy())
            codes, low, step = quantise(np.concatenate(logits))
            table = pa.table(
                {
                    "row": row,
                    "view": view,
                    **{name: getattr(boxes, name) for name in BOX},
                    "low": low,
                    "step": step,
                    "codes": schemas.tensor_array(codes),
                }
            )
            schema = schemas.labels(len(self.class_ids))
            return self.artifact.commit_table(item.key, table.cast(schema), device=at.kind)

        return finish


def pairs(rows: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, Boxes, np.ndarray | None]:
    """Every view of every row, view by view: rows (n V,), views (n V,), their boxes, and their patches (2, n V, S)."""
    drawn = [view_boxes(rows, view, recipe) for view in range(recipe.views)]
    boxes = Boxes(*(np.concatenate([getattr(b, name) for b in drawn]) for name in BOX))
    shuffled = [p for view in range(recipe.views) if (p := view_patches(rows, view, recipe)) is not None]
    patches = np.concatenate(shuffled, axis=1) if shuffled else None
    return np.tile(rows, recipe.views), np.repeat(np.arange(recipe.views), len(rows)), boxes, patches


def stage(
    config: Config,
    run: RunDir,
    ref: SetRef,
    classes: tuple[ClassInfo, ...],
    network: ClassifierSpec,
    recipe: Recipe,
) -> Stage:
    """The soft labels of one set of syntheses."""
    assert ref.distilled is not None
    ids = tuple(c.class_id for c in classes)
    work = LabelWork(ref.images_digest, network, ids, recipe, config.source, config.label).within(run)
    units = {unit.key: unit for unit in ref.distilled.units()}
    total = ref.images * recipe.views
    return Stage("label", "labels", work.artifact, list(units), units.__getitem__, work, total, "actors", config.label)


def read(labels: Sealed, images: int, views: int) -> Views:
    """All stored labels of a set of `images` images. Raises CorruptArtifact for a file that does not match."""
    table = labels.read()
    order = np.lexsort((table["row"].to_numpy(), table["view"].to_numpy()))
    assert len(order) == images * views

    def column(name: str) -> np.ndarray:
        return table[name].to_numpy()[order].reshape(views, images)

    box = {name: column(name).astype(bool if name == "flip" else np.int64) for name in BOX}
    boxes = tuple(Boxes(**{name: box[name][v] for name in BOX}) for v in range(views))
    codes = schemas.tensor_numpy(table["codes"])[order].reshape(views, images, -1)
    low, step = (torch.from_numpy(column(name)) for name in ("low", "step"))
    return Views(boxes, torch.from_numpy(codes), low, step)

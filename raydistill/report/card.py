"""The dataset card: the README.md that travels with the distilled set. It holds no dates and no host paths, so equal
arguments give equal bytes.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from raydistill.errors import one_line, printable
from raydistill.report.front import front_matter
from raydistill.report.text import count, plural
from raydistill.sources.base import ClassInfo, unique_names
from raydistill.store.schemas import distilled

COLUMNS = {
    "image": "encoded image; `bytes` holds it, `path` its name",
    "label": "class index, in the order of the table of classes",
    "class_name": "name of the class",
    "weight": "how much the image counts in a weighted training loss, relative to the others of its class",
    "slot": "number of the image within its class",
    "prototype_id": "prototype (cluster of real latents) that the image stands for; negative if it has none",
    "method": "method that made the image",
    "seed_key": "key that fixes the noise of this image; the same key gives the same noise on any machine",
    "provenance": "JSON: what the image was made from",
}

_SNIPPET = """\
import glob, io
import pyarrow.parquet as pq
from PIL import Image

for row in pq.read_table(sorted(glob.glob("data/*.parquet"))).to_pylist():
    image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
    print(row["label"], row["class_name"], row["slot"], row["weight"], image.size)
"""

_TRAIN = """\
import torch
from datasets import load_dataset
from torch import nn

steps = 300
train = load_dataset("parquet", data_files="data/*.parquet", split="train")
classes = train.features["label"].num_classes
rows = train.with_format("torch")[:]
x = torch.stack(list(rows["image"])).float() / 127.5 - 1
y, w = rows["label"], rows["weight"].float()
net = nn.Sequential(
    nn.Conv2d(3, 64, 3, padding=1), nn.InstanceNorm2d(64), nn.ReLU(), nn.AvgPool2d(2),
    nn.Conv2d(64, 64, 3, padding=1), nn.InstanceNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
    nn.Flatten(), nn.Linear(64 * 16, classes),
)
optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
for step in range(steps):
    i = torch.randint(len(y), (64,))
    loss = (nn.functional.cross_entropy(net(x[i]), y[i], reduction="none") * w[i]).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"loss {loss.item():.3f} on {len(y)} images of {classes} classes")
"""

LICENCE = "## Licence"

_BODY = """\
# {title}

{images} in {classes}, {ipc} per class, {size} x {size} pixels: a distilled data set, made to train a classifier
with few images. Made by raydistill with the method `{method}` and seed {seed}.

| | |
|---|---|
{facts}

## Load it

Inside this folder (`pandas.read_parquet("data")` gives the table, `datasets.load_dataset(".")` decoded images):

```python
{snippet}```

## Train on it

With `datasets` and torch, the loss weighted per image (all weights are 1 where the method gives none):

```python
{train}```

## Columns

| column | type | meaning |
|---|---|---|
{columns}

## Classes

| label | class_id | class_name |
|---|---|---|
{table}

## Provenance

{origin}

```json
{provenance}
```

Each row's `seed_key` and `provenance` say how that image was made. The same configuration, inputs and seed make the
same set again.

{licence_head}

{licence}

## Limits

{limits}
"""


def card(
    title: str,
    method: str,
    ipc: int,
    seed: int,
    classes: Sequence[ClassInfo],
    image_size: int,
    source_kind: str,
    generator: str | None,
    fields: Mapping[str, Any],
    terms: Mapping[str, str | None],
    images: int | None = None,
    source: str | None = None,
    on_hub: bool = False,
) -> str:
    """README.md of a distilled set: YAML front matter for the Hugging Face image layout, then the text.

    `generator` is its name or directory, None if the images are real ones. `fields` is provenance that JSON can hold
    (digests, fingerprints, settings); of anything in it that looks like a path only the last part is kept. `terms`
    gives, for each thing that the set was made from, its licence as far as it is known. `images` where it is not ipc of
    each class; `source`: what the images that it was made from are called, an id if they are `on_hub`.
    """
    made_by = None if generator is None else _public(generator)
    images = ipc * len(classes) if images is None else images
    facts = {
        "method": method,
        "images per class": str(ipc),
        "classes": count(len(classes)),
        "images": count(images),
        "image size": f"{image_size} x {image_size}",
        "seed": str(seed),
        "source": source_kind,
        "generator": made_by or "none: the images are real ones",
    }
    body = _BODY.format(
        title=_cell(title),
        images=plural(images, "image"),
        ipc=ipc,
        size=image_size,
        seed=seed,
        classes=plural(len(classes), "class", "classes"),
        method=_cell(method),
        facts=_rows(list(facts.items())),
        snippet=_SNIPPET,
        train=_TRAIN,
        columns=_columns(),
        table=_rows([(str(i), c.class_id, c.class_name) for i, c in enumerate(classes)]),
        origin=_origin(source_kind, made_by),
        provenance=_json(_public(dict(fields))),
        licence_head=LICENCE,
        licence=_licence(made_by, terms),
        limits=_limits(made_by),
    )
    schema = distilled(unique_names(classes), [c.class_id for c in classes])
    return front_matter(title, schema, images, made_by is not None, source or source_kind, on_hub) + body


def _columns() -> str:
    return "\n".join(
        f"| `{f.name}` | `{'struct{bytes, path}' if f.name == 'image' else f.type}` | {COLUMNS[f.name]} |"
        for f in distilled([], [])
    )


def _origin(source_kind: str, generator: str | None) -> str:
    if generator is None:
        return f"The images were picked from the training split (source: `{_cell(source_kind)}`); none was synthesised."
    return (
        f"The images were sampled from the pretrained generator `{_cell(generator)}` for the classes of the "
        f"training split (source: `{_cell(source_kind)}`), by the method named above."
    )


def with_metrics(text: str, metrics: Mapping[str, float]) -> str:
    """The card with a table of the run's metrics above its licence; as it is if there are none.

    The card in distilled/ has none, because that folder's bytes are the same on every machine, and accuracies are not.
    """
    if not metrics:
        return text
    shown = sorted((k, v) for k, v in metrics.items() if not k.startswith("difference/"))  # of the run, not of the set
    rows = _rows([(name, f"{value:.6g}") for name, value in shown])
    table = (
        "## Metrics\n\nTop-1 accuracies are fractions, mean and standard deviation over draws of the set or, of a "
        "single one, over training seeds, tested on real images: `accuracy/STUDENT` after training on this set, "
        "`accuracy/SET/STUDENT` on another set of the same comparison.\n\n"
        f"| metric | value |\n|---|---|\n{rows}\n\n"
    )
    head, heading, tail = text.partition(f"{LICENCE}\n")
    return head + table + heading + tail


def _licence(generator: str | None, terms: Mapping[str, str | None]) -> str:
    known = _rows([(side, licence or "not stated: ask whoever gave it to you") for side, licence in terms.items()])
    if generator is None:
        holds = "These are real images of the source: its terms apply to every one of them."
    else:
        holds = (
            "This set inherits terms from everything it was made from; the stricter ones hold. ImageNet's images, "
            "for example, are for non-commercial research only, and so are some published generator weights."
        )
    return (
        f"| made from | its terms |\n|---|---|\n{known}\n\n{holds} No licence is granted here beyond those terms; "
        "check them before you share or use this set."
    )


def _limits(generator: str | None) -> str:
    text = (
        "The set was made to train classifiers of these classes at about this image size. It covers less than the "
        "data it came from, rare cases above all, and it carries over their biases."
    )
    if generator is None:
        return text
    return text + " A synthesis may come close to a real image; the run's report shows the nearest one beside each."


def _public(value: Any) -> Any:
    """The value without directories: '/data/models/dit' -> 'dit', also deep inside."""
    if isinstance(value, Mapping):
        return {str(k): _public(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_public(v) for v in value]
    if isinstance(value, str) and (value.startswith(("/", "./", "../", "~")) or "://" in value or ":\\" in value):
        value = value.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return printable(value) if isinstance(value, str) else value


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str)


def _rows(rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(_cell(c) for c in row) + " |" for row in rows)


def _cell(value: str) -> str:
    """Text that cannot break out of a Markdown table cell or become markup."""
    return html.escape(one_line(value), quote=False).replace("|", "\\|")

"""report: gathers what a finished run made, draws the page, writes result.json and prints the verdict."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.evaluation.recipe import describe, students_of
from raydistill.identity import canonical, digest, fingerprint
from raydistill.metrics.own_class import warning
from raydistill.progress import say
from raydistill.report import wording
from raydistill.report.atoms import AtomDistances
from raydistill.report.calls import charts
from raydistill.report.data import ClassPanel, Judgement, MetricRow, PanelImage, Projection, ReportData, StageCost
from raydistill.report.page import MAX_PANELS, render
from raydistill.report.projection import nearest, project
from raydistill.report.scores import BOUNDS, ScoreRow
from raydistill.report.text import plural, spread
from raydistill.report.verdict import verdicts
from raydistill.results import cartography, costs, detail, increments, quantisation, trees
from raydistill.results.judgement import judgement
from raydistill.results.numbers import difference_numbers, finite, metrics, of_sets, sample_size, tested
from raydistill.results.outcomes import outcomes, written
from raydistill.sources import carved
from raydistill.sources.images import decode, png
from raydistill.stages.evaluation import measure
from raydistill.stages.evaluation.trainer import body
from raydistill.stages.renew import fresh, renew
from raydistill.stages.syntheses.ingest import JudgedFolder
from raydistill.state import Results, title
from raydistill.store import faults, schemas
from raydistill.store.location import Location
from raydistill.store.rundir import PAGE, RESULT, TRAININGS

VERSION = 12
MARK = b"<!-- raydistill "
PLANNED = ("class_index", "slot", "prototype_id", "prototype")  # what a panel shows of the plan
PANEL = ("class_index", "slot", "prototype_id", "weight", "image", "latent")  # and of the set
SHOWN = 200  # real latents drawn in a class's projection


def write(done: Results) -> None:
    """Writes trainings.json, result.json and the page unless they are whole and belong to exactly these results."""
    p = done.prepared
    trained = outcomes(done)
    judged = judgement(done, trained)
    stamp = fingerprint(
        "report",
        VERSION,
        {k: v for k, v in p.config.tree().items() if k != "tracking"},  # which changes nothing that is shown
        done.syntheses[p.config.method].digest,
        [t.artifact.fingerprint for t in done.trainings],
        [s.digest for s in done.measured.values()],
        *([tested(done).tolist()] if broken_tests(done) else []),  # that earlier versions did not take off
    )
    root, of_product = p.run.root, f"{done.syntheses[p.config.method].digest}-{stamp}"
    if all(fresh(root, name, of_product) for name in (TRAININGS, RESULT)) and fresh(root, PAGE, stamp):
        table(judged)
        return
    faults.reach("report", "before_write", TRAININGS)
    done.computed |= renew(root, TRAININGS, written(trained), of_product)
    atoms, fall = quantisation.atom_distances(done), quantisation.curve(done)
    flat = metrics(done) | difference_numbers(judged.differences) | quantisation.numbers(done, atoms, fall)
    flat = finite(flat | cartography.numbers(done))
    faults.reach("report", "before_write", RESULT)
    done.computed |= renew(root, RESULT, canonical(flat).encode(), of_product)
    if not fresh(root, PAGE, stamp):
        html = _drawn(root, stamp) or _sealed(
            render(replace(data(done, judged, flat, atoms), fall=fall)).encode(), stamp
        )
        faults.reach("report", "before_write", PAGE)
        done.computed |= renew(root, PAGE, html, stamp)
    table(judged)
    say("report", str(root / PAGE))


def _drawn(root: Location, stamp: str) -> bytes | None:
    """The page as it is, if its last line says that it is whole and of these results: its seal alone is missing."""
    try:
        page = (root / PAGE).read()
    except FileNotFoundError:
        return None
    html, mark, _ = page.rpartition(MARK)
    return page if mark and page == _sealed(html, stamp) else None


def _sealed(html: bytes, stamp: str) -> bytes:
    """The page with a last line: what it was drawn from, and the digest by which a copy that was cut is found out."""
    return html + MARK + f"{stamp} {digest(html)} -->\n".encode()


def over(r: ScoreRow) -> str:
    return plural(r.seeds, "seed") if r.generations < 2 else f"{r.generations} generation seeds, {r.seeds} trainings"


def long(r: ScoreRow) -> str:
    """How long a bound was trained; sets say it in their protocol."""
    return f", {length}" if r.set in BOUNDS and (length := wording.length(r)) else ""


def table(judged: Judgement) -> None:
    """The accuracies and what they say, on standard error."""
    for line in lines(judged):
        say("accuracy", line)


def lines(judged: Judgement) -> list[str]:
    """A line a score, and the claims of each student's verdict."""
    scores = [
        f"{r.student:<10} on {r.set:<12} {r.images:>6} images: {spread(r.last_mean, r.last_std):>11} % "
        f"({spread(r.balanced_mean, r.balanced_std)} a class, best over the training "
        f"{spread(r.best_mean, r.best_std)}; {over(r)}{long(r)})"
        for r in judged.scores
    ]
    claims = [f"{v.student:<10} {' '.join(claim.split())}" for v in verdicts(judged) for claim in v.claims]
    return [*scores, *claims]


def data(done: Results, judged: Judgement, flat: Mapping[str, float], atoms: Sequence[AtomDistances]) -> ReportData:
    """The page's content; `flat` is result.json."""
    p = done.prepared
    c = p.config
    classes = p.splits.train.classes
    name = (body(done.trainings[0]) or {})["protocol_name"]
    return ReportData(
        title=title(c),
        method=c.method,
        ipc=c.ipc,
        seed=c.seed,
        image_size=c.source.image_size,
        panels=tuple(panels(done)),
        costs=tuple(StageCost(name, v.seconds, v.units, v.unit, False) for name, v in costs.read(p.run.root).items()),
        judgement=judged,
        config_yaml=c.yaml(),
        command=f"python jobs/distill.py --config {shlex.quote(str(p.run.root / 'config.yaml'))}",
        notes=tuple(notes_on(done, judged)),
        protocol=(
            f"{', '.join(students_of(c.evaluate))} of width {c.evaluate.width} by protocol {name}: "
            f"{describe(done.trainings[0].recipe)}; tested on {sum(judged.tested)} real images"
        ),
        total_classes=len(classes),
        total_real=len(p.splits.train),
        total_images=done.syntheses[c.method].rows,
        curves=detail.curves(done),
        classwise=detail.classwise(done),
        confusions=detail.confusions(done),
        embedding=detail.embedding(done),
        guidance=detail.guidance(done),
        ends=detail.ends(done),
        metric_sets=tuple(done.measured),
        metrics=tuple(metric_rows(done)),
        calls=charts(of_sets(done, flat), judged.measure),
        parts=increments.matrices(done),
        growth=increments.growth(done),
        choices=increments.choices(done),
        maps=cartography.maps(done),
        atoms=tuple(atoms),
    )


def on_judged(folder: JudgedFolder) -> list[str]:
    """What a reader must know of how the images of others were published."""
    notes = [f"{folder.name}: {folder.note}"] if folder.note else []
    if folder.levels is not None:
        notes.append(f"{folder.name} was published whitened: its images are no photographs, and metrics say nothing")
    return notes


def notes_on(done: Results, judged: Judgement) -> list[str]:
    """What a reader must know of the images and of how they were judged."""
    c, classes = done.prepared.config, done.prepared.splits.train.classes
    broken = done.latents.manifest.summary["broken"] if done.latents else []
    notes = [f"{len(broken)} image(s) could not be used and were left out; see logs/quarantine.tsv"] if broken else []
    if count := broken_tests(done):
        notes.append(
            f"{plural(count, 'test image')} could not be used, and nothing is tested on them; see logs/quarantine.tsv"
        )
    devices = sorted(set().union(*(s.devices() for s in done.syntheses.values())))
    notes.append("Images were made on: " + ", ".join(devices))
    notes += [] if done.prepared.judged is None else on_judged(done.prepared.judged)
    for name_of in done.syntheses:
        if (size := sample_size(done, name_of)) is not None:
            notes.append(f"{name_of}: images weigh unequally, and vary as {size:.3g} of equal weight in a class would")
    for set_name, check in done.checks.items():
        text = warning(check, [info.class_id for info in classes])
        notes.append(
            f"{set_name}: {check.hits} of {check.images} images lie nearest to the real mean of their own class in "
            f"latent space; chance gives {check.chance:.3g}"
            if text is None
            else f"Warning: {set_name}: {text}"
        )
    notes += about_seeds_and_classes(done, judged) + increments.about_the_last(done)
    if done.teaching is not None:
        notes.append(
            f"Soft labels are by {done.teaching.network.architecture}, which is itself right on "
            f"{100 * done.teaching.accuracy:.1f} % of the test images"
        )
    if c.source.search_split == 0 and carved.share_of(c.source.val) is not None:
        notes.append(
            f"Tested on training images that were held out of each class by id (source.val={c.source.val}): the set "
            "was used without validation images"
        )
    if c.source.search_split > 0:
        notes.append(
            f"Scored on {c.source.search_split:g} of the training images, held out by id, not on the validation split"
        )
    return notes


def broken_tests(done: Results) -> int:
    """How many images of the test split could not be used."""
    return len(done.prepared.splits.test) - int(tested(done).sum())


def about_seeds_and_classes(done: Results, judged: Judgement) -> list[str]:
    """What a reader must know before a number is taken for more than it is."""
    folder = done.prepared.judged
    notes = one_draw(judged, folder.name if folder else "", others=len(done.syntheses) > 1)
    for what, counts in (("real training", judged.counts), ("test", judged.tested)):
        few, many = min(counts), max(counts)
        if 2 * few < many:
            notes.append(
                f"Classes have {few} to {many} {what} images: sets are compared by the mean over classes, since "
                "accuracies over images favour the large ones"
            )
    return notes


def one_draw(judged: Judgement, folder: str, others: bool) -> list[str]:
    """What is no method: sets of one draw, and the `folder` that is judged, if one is, beside `others` or alone."""
    notes = []
    if judged.generations < 2 and (others or not folder):
        each = "each of the other sets" if folder else "each set"
        notes.append(
            "One draw is not a method: what is said here is of these sets. The same command with "
            f"seeds.generation=5 draws {each} by five seeds and trains on all of them in one fit"
        )
    if folder:
        notes.append(f"{folder} is one set, whatever drew the others: what is said of it is not said of its method")
    return notes


def metric_rows(done: Results) -> list[MetricRow]:
    """One row a value, with the number of each set that has it."""
    by_set = {name: measure.values(s) for name, s in done.measured.items()}
    better = measure.better(done.prepared.config.metrics.names)
    rows = []
    for key in dict.fromkeys(k for values in by_set.values() for k in values):
        value, _, space = key.rpartition("/")
        rows.append(MetricRow(value, space, better[value], tuple(values.get(key) for values in by_set.values())))
    return rows


def panels(done: Results) -> list[ClassPanel]:
    """Per class: syntheses, the nearest real image of each, and the projection of the class's latents."""
    assert done.classes is not None
    method = done.prepared.config.method
    shown = [c for record in done.classes.records for c in record.meta["classes"]][:MAX_PANELS]
    syntheses = of_classes(done.syntheses[method].tables(PANEL), shown)
    plan = done.plans.get(method)  # of images of a folder there is none
    slots = plan and of_classes((plan.table(r.key, PLANNED) for r in plan.records), shown)
    real = islice(done.classes.classes(), len(shown))
    return [_panel(done, c, table, _of(syntheses, c), None if slots is None else _of(slots, c)) for c, table in real]


def of_classes(tables: Iterable[pa.Table], shown: Sequence[int]) -> pa.Table:
    """The rows of these classes, from files that are held one at a time: all of them may be more than memory."""
    wanted = pa.array(shown, pa.int32())
    return pa.concat_tables([t.filter(pc.is_in(t["class_index"], value_set=wanted)) for t in tables])


def _of(table: pa.Table, index: int) -> pa.Table:
    return table.filter(pc.equal(table["class_index"], index))


def _panel(done: Results, index: int, real: pa.Table, syntheses: pa.Table, planned: pa.Table | None) -> ClassPanel:
    p = done.prepared
    info = p.splits.train.classes[index]
    syntheses = syntheses.take(pc.sort_indices(syntheses["slot"]))
    z_real = measure.vectors(real["latent"])
    z_made = schemas.tensor_numpy(syntheses["latent"]).reshape(len(syntheses), -1)
    slots, prototypes = _prototypes(planned, z_real.shape[1])
    nearest_rows, distance = nearest(z_made, z_real)
    ids = real["image_id"].take(pa.array(nearest_rows)).to_pylist()
    s = p.config.source
    pictures = [png(decode(b, s.image_size, s.max_pixels)) for b in p.splits.source.read(p.splits.train.split, ids)]
    items = tuple(
        PanelImage(slot, image, weight, prototype if slot in slots else -1, picture, name, float(d))
        for slot, image, weight, prototype, picture, name, d in zip(
            syntheses["slot"].to_pylist(),
            syntheses["image"].to_pylist(),
            syntheses["weight"].to_pylist(),
            syntheses["prototype_id"].to_pylist(),
            pictures,
            ids,
            distance,
            strict=True,
        )
    )
    drawn = project(z_real, prototypes, z_made)
    step = max(1, len(z_real) // SHOWN)
    projection = Projection(drawn.real[::step], drawn.prototypes, drawn.syntheses, drawn.explained)
    led = {item.slot: item.prototype_id for item in items}
    tree = trees.class_tree(done, index, real["image_id"], led)
    return ClassPanel(info.class_id, info.class_name, len(real), items, projection, tree)


def _prototypes(slots: pa.Table | None, dimensions: int) -> tuple[set[int], np.ndarray]:
    """The slots of a class that the plan of the run's own method is of, and the prototypes that it gives them, by their
    id, (P, D). Of a curriculum it is the seed's: increments number prototypes of their own, which are not shown."""
    if slots is None:
        return set(), np.zeros((0, dimensions), np.float32)
    ids, first = np.unique(slots["prototype_id"].to_numpy(), return_index=True)
    prototypes = np.zeros((max(0, ids.max() + 1), dimensions), np.float32)
    prototypes[ids[ids >= 0]] = schemas.tensor_numpy(slots["prototype"])[first[ids >= 0]].reshape(-1, dimensions)
    return set(slots["slot"].to_pylist()), prototypes

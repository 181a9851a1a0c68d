"""The tree of a class on the page, the order of its classes, and what is folded."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_report import NAUGHTY, Reader, panel, png, report

from raydistill.config import load
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.report.data import ClassScores, ClassSeries
from raydistill.report.page import OPEN_CLASSES, render
from raydistill.report.trees import ClassTree, TreeNode, draw
from raydistill.results import trees
from raydistill.stages.runner import serial
from raydistill.state import Results

PARENTS = (-1, 0, 0, 2, 2)
SIZES = (9, 3, 6, 2, 4)


def tree(left_out: int = 0) -> ClassTree:
    levels = (0, 1, 1, 2, 2)
    nodes = [TreeNode(i, p, v, n, png(i)) for i, (p, v, n) in enumerate(zip(PARENTS, levels, SIZES, strict=True))]
    return ClassTree((*nodes[:4], replace(nodes[4], slots=(0, 2))), left_out)


def test_a_node_folds_out_into_its_halves_the_larger_first() -> None:
    html = str(draw(tree(), "cat"))
    Reader(html)  # every tag closes
    assert re.findall(r"node (\d)<", html) == ["0", "2", "4", "3", "1"]
    assert html.count("<details") == 3 and html.count('<details class="node" open>') == 1
    assert "3 leaves, 3 levels" in html and "66.7 %, node 2" in html
    assert html.count("slot 0, 2") == 1 and "Left out" not in html


def test_what_is_left_out_is_said_and_names_are_text() -> None:
    html = str(draw(tree(left_out=4), NAUGHTY))
    assert "5 leaves, 3 levels" in html and "Left out of this page: 4 nodes" in html
    assert "<b>&" not in html and "&lt;b&gt;" in html


def test_classes_beyond_ten_are_folded_and_ordered_by_the_reader() -> None:
    panels = tuple(replace(panel(i, 3, f"{12 - i:02d}"), tree=tree() if i == 1 else None) for i in range(12))
    names = tuple(p.class_name for p in panels)
    mean = np.roll(np.linspace(0.1, 0.9, 12), 3)
    scores = ClassScores("convnet", names, (ClassSeries("mgd3", mean, True), ClassSeries("random", mean[::-1], False)))
    html = render(report(panels=panels, classwise=(scores,)))
    opened = re.findall(r'<details class="class" id="class-\d+" style="--name: (\d+); --worst: (\d+)"( open)?>', html)
    assert [bool(fold) for *_, fold in opened] == [True] * OPEN_CLASSES + [False] * 2
    assert [int(name) for name, *_ in opened] == list(range(12))[::-1]
    assert [int(worst) for _, worst, _ in opened] == np.argsort(np.argsort(mean)).tolist()
    assert 'id="order--worst"' in html and "#order--worst:checked" in html and "<script" not in html
    assert html.count("The tree of this class") == 1


def test_an_order_that_is_no_other_is_not_offered() -> None:
    html = render(report())
    assert 'name="order"' not in html and html.count('<details class="class"') == 2


class TestGathering:
    @pytest.fixture(scope="class")
    def done(self, tmp_path_factory: pytest.TempPathFactory) -> Results:
        run = tmp_path_factory.mktemp("trees") / "run"
        keys = ["source.classes=[3,7]", "method=manifoldgd", "ipc=2", "cluster.leaves=8", f"run_dir={run}"]
        return job.run(prepare(load("quickstart", keys), evaluate=False), "plan", execute=serial)

    def test_the_tree_is_that_of_the_run_with_small_pictures(self, done: Results) -> None:
        assert done.classes is not None
        ids = done.classes.of(1)["image_id"]
        shown = trees.class_tree(done, 1, ids, {0: 0, 1: 1, 2: -1})
        assert shown is not None and len(shown.nodes) == 15 and not shown.left_out
        root, nodes = shown.nodes[0], shown.nodes
        assert root.size == len(ids) and root.parent == -1
        for node in nodes:
            below = [n.size for n in nodes if n.parent == node.node]
            assert not below or sum(below) == node.size
        assert sorted(slot for n in nodes for slot in n.slots) == [0, 1]
        with Image.open(io.BytesIO(root.image)) as opened:
            assert opened.format == "WEBP" and max(opened.size) <= 48

    def test_a_page_of_many_classes_cuts_its_trees(self, done: Results, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trees, "MAX_NODES", 10)
        monkeypatch.setattr(trees, "LEAST_NODES", 3)
        assert done.classes is not None
        shown = trees.class_tree(done, 0, done.classes.of(0)["image_id"], {})
        assert shown is not None and len(shown.nodes) == 5 and shown.left_out == 10

    def test_a_run_without_trees_shows_none(self, done: Results, tmp_path: Path) -> None:
        plain = Results(prepare(load("quickstart", [f"run_dir={tmp_path / 'run'}"]), evaluate=False))
        plain.classes = done.classes
        assert done.classes is not None
        assert trees.class_tree(plain, 0, done.classes.of(0)["image_id"], {}) is None

"""docs/notebook.ipynb from top to bottom, in one namespace and without Ray, and as it lies in the repository."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from raydistill.pipeline import steps
from raydistill.stages.runner import serial

PAGE = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
CELLS: list[dict[str, Any]] = json.loads(PAGE.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(steps, "on_ray", lambda *_: serial)  # the same bytes (tests/test_quickstart_bytes.py)
    told, namespace = io.StringIO(), dict[str, Any]()
    with contextlib.redirect_stdout(told):
        for i, code in enumerate(CODE):
            exec(compile(code, f"cell {i}", "exec"), namespace)
    assert told.getvalue().count("a prototype of") == 4
    assert namespace["row"].shape == (32, 4 * 32, 3)
    assert len(set(namespace["weighed"].weights.tolist())) > 1
    assert 0.5 < namespace["score"].last <= 1
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["notebook", "notebook-images"]


def test_it_is_a_notebook_without_outputs() -> None:
    tree = json.loads(PAGE.read_text())
    assert (tree["nbformat"], tree["nbformat_minor"]) == (4, 5) and tree["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    for cell in CELLS:
        expected = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            expected |= {"execution_count", "outputs"}
            assert cell["outputs"] == [] and cell["execution_count"] is None
        assert set(cell) == expected and all(line.endswith("\n") for line in cell["source"][:-1])
    assert PAGE.stat().st_size < 20_000

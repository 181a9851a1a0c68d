"""The card of an exported set: its metrics, its terms, and a snippet that trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_exporters import FORMATS, contents
from test_exporters import run as run  # the fixture

from raydistill.exporters.write import export
from raydistill.store import seals
from raydistill.store.location import Location


def test_hf_fills_the_metrics_in_and_the_product_stays_without(tmp_path: Path, run: Path) -> None:
    before = contents(run / "distilled")
    told = {"accuracy/convnet/mean": 0.8791, "accuracy/random/convnet/mean": 0.5, "time/encode_s": 3.0}
    seals.write(Location.of(str(run)), "result.json", json.dumps(told).encode())
    export(str(run), "hf", str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| accuracy/convnet/mean | 0.8791 |" in card and "time/" not in card
    assert yaml.safe_load(card.split("---\n")[1])["configs"] and card.index("## Metrics") < card.index("## Licence")
    assert contents(run / "distilled") == before and "## Metrics" not in before["README.md"].decode()


def test_numbers_of_an_earlier_product_are_left_out(tmp_path: Path, run: Path, capsys: Any) -> None:
    location = Location.of(str(run))
    shard = seals.find(location, "distilled/train-00000-of-00001.parquet")
    for of, there in ((shard.made_from, True), ("another", False)):
        seals.write(location, "result.json", b'{"fid": 1.0}', f"{of}-stamp")
        export(str(run), "hf", str(tmp_path / of[:7] / "out"))
        assert ("## Metrics" in (tmp_path / of[:7] / "out" / "README.md").read_text()) == there
    assert "is of an earlier product and is left out" in capsys.readouterr().err


@pytest.mark.parametrize("form", [f for f in FORMATS if f != "hf"])
def test_terms_and_provenance_travel_with_other_formats(tmp_path: Path, run: Path, form: str) -> None:
    export(str(run), form, str(tmp_path / "out"))
    told = (tmp_path / "out" / "CARD.md").read_text()
    assert told.startswith("# Six classes") and "| images | not stated" in told and "## Provenance" in told
    assert "parquet" not in told.lower() and "```python" not in told


def test_its_snippet_trains(tmp_path: Path, run: Path) -> None:
    pytest.importorskip("datasets")
    snippet = (run / "distilled" / "README.md").read_text().split("```python\n")[2].split("```")[0]
    assert "steps = 300" in snippet
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", snippet.replace("steps = 300", "steps = 20")],
        env=env,
        cwd=run / "distilled",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("loss ") and done.stdout.endswith("on 18 images of 6 classes\n")

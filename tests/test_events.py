"""What goes on in a run is kept as lines of JSON, and told to Prometheus."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from test_grafana import OURS

from raydistill.config import RayConfig
from raydistill.distributed import metrics
from raydistill.distributed.runtime import ensure_ray
from raydistill.pipeline.heard import heard
from raydistill.progress import Advanced, Committed, Finished, Measured, Progress, Queued, Retried, Started, tell
from raydistill.results import events, news, regularly
from raydistill.results.status import status
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir

NOW = 1_790_000_000.25


@pytest.fixture
def root(tmp_path: Path) -> Location:
    RunDir(str(tmp_path / "run")).claim()
    return Location.of(str(tmp_path / "run"))


def lines(root: Location) -> list[dict[str, Any]]:
    names = sorted(n for n in (root / "logs").list() if n.startswith("events-"))
    return [json.loads(line) for name in names for line in (root / "logs" / name).read().decode().splitlines()]


def a_stage(root: Location) -> None:
    with heard(root), Progress("sample mgd3", "images", total=8, before=2) as progress:
        tell(Queued("sample", 2, 1, 3))
        tell(Committed("sample mgd3", "part-0001", 4, 1000))
        progress.advance(4)
        tell(Retried("sample", "part-0002", "the actor died"))
        tell(Committed("sample mgd3", "part-0002", 2, 500))
        progress.advance(2)


class TestLines:
    def test_each_event_is_one_with_its_time_stage_and_key(self, root: Location) -> None:
        a_stage(root)
        kept = lines(root)
        assert [(e["event"], e["stage"], e.get("key")) for e in kept] == [
            ("started", "sample mgd3", None),
            ("committed", "sample mgd3", "part-0001"),
            ("retried", "sample", "part-0002"),
            ("committed", "sample mgd3", "part-0002"),
            ("finished", "sample mgd3", None),
        ]
        assert all(e["time"].endswith("+00:00") for e in kept) and kept[1]["bytes"] == 1000

    def test_a_second_run_has_a_file_of_its_own(self, root: Location) -> None:
        a_stage(root)
        a_stage(root)
        assert len([n for n in (root / "logs").list() if n.startswith("events-")]) == 2 and len(lines(root)) == 10

    def test_they_are_their_owners_alone(self, root: Location) -> None:
        a_stage(root)
        assert {p.stat().st_mode & 0o777 for p in Path(root.uri).glob(events.PATTERN)} == {0o600}

    def test_a_run_that_begins_nothing_leaves_none(self, root: Location) -> None:
        with heard(root):
            pass
        assert not list(Path(root.uri).glob(events.PATTERN))

    def test_a_name_cannot_end_a_line_and_a_secret_is_covered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-s3cr3t-s3cr3t")
        text = events.line(Retried("sample", "a\nb", "denied s3cr3t-s3cr3t-s3cr3t"), NOW)
        assert text is not None and text.count("\n") == 1 and "s3cr3t" not in text
        assert events.line(Advanced("sample", 1), NOW) is None is events.line(Queued("sample", 1, 1, 1), NOW)

    @pytest.mark.parametrize(
        "event",
        [Started("a", "images", 1, 0), Finished("a", "images", 1, 1.0, True), Measured("a", 1, {"loss": float("nan")})],
        ids=lambda e: type(e).__name__,
    )
    def test_any_event_can_be_kept(self, event: Any) -> None:
        assert json.loads(events.line(event, NOW) or "")["event"] == type(event).__name__.lower()

    def test_a_store_that_cannot_be_written_costs_neither_the_run_nor_a_traceback(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(regularly, "PERIOD_S", 0.01)
        (tmp_path / "logs").write_text("a file where the folder belongs")
        root = Location.of(str(tmp_path))
        with news.reporting(root), events.keeping(root), Progress("sample", "images", total=1) as progress:
            time.sleep(0.1)
            progress.advance()
        assert "Traceback" not in capfd.readouterr().err


def test_retries_are_seen_in_the_status(root: Location) -> None:
    a_stage(root)
    (stage,) = news.read(root).stages  # type: ignore[union-attr]
    assert stage.retries == 1 and "1 unit tried again" in status(str(root))


def scraped() -> str:
    import ray

    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return urllib.request.urlopen(address, timeout=10).read().decode()


def numbers(text: str) -> dict[str, float]:
    kept = [line for line in text.splitlines() if line.startswith("ray_raydistill")]
    return {line.split("{")[0]: float(line.rpartition(" ")[2]) for line in kept}


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_prometheus_reads_what_a_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished before Ray was up is counted too, and a folder may have letters that Ray does not take."""
    root = str(tmp_path / "Läufe")
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    told = metrics.listener(root)
    told(Started("sample", "images", 8, 2))
    told(Advanced("sample", 1))
    ensure_ray(RayConfig())
    told(Advanced("sample", 3))
    told(Committed("sample", "k", 4, 1000))
    told(Retried("sample", "k", "died"))
    told(Queued("sample", 5, 2, 3))
    told(Measured("sample", 1, {"loss": 0.5}))
    told(Finished("sample", "images", 4, 1.0, False))
    while not set(numbers(scraped())) >= OURS:
        time.sleep(0.5)
    read = {name.removesuffix("_total"): value for name, value in numbers(scraped()).items()}
    assert read["ray_raydistill_units"] == 4 and read["ray_raydistill_units_left"] == 2
    assert read["ray_raydistill_committed_bytes"] == 1000 and read["ray_raydistill_retries"] == 1
    assert (read["ray_raydistill_queue_depth"], read["ray_raydistill_running_units"]) == (5, 2)
    assert re.search(r'run="[^"]*/L\\+xe4ufe"', scraped()) and 'unit="images"' in scraped()

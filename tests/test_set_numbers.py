"""The numbers of a set: counted when it is sealed, part of no digest, read from the rows if none are kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_run import GENERATED, REAL, TinyRun

from raydistill.stages.syntheses import numbers
from raydistill.stages.syntheses.numbers import MeanStd, Numbers, counted
from raydistill.store import schemas
from raydistill.store.artifact import Artifact
from raydistill.store.sealed import Sealed


def rows(seed: int, count: int) -> pa.Table:
    """As a flow leaves them: two steps of push, and the detour at both."""
    rng = np.random.default_rng(seed)
    steps = [("push", 1), ("detour", 1), ("detour", 0)]
    traces = [[{"step": s, "name": n, "value": rng.random()} for n, s in steps] for _ in range(count)]
    return pa.table(
        {
            "nfe": pa.array(rng.integers(4, 9, count), pa.int32()),
            "landing": pa.array([None, *rng.random(count - 1)], pa.float32()),
            "trace": pa.array(traces, schemas.TRACE),
        }
    )


def of(table: pa.Table, name: str, step: int) -> np.ndarray:
    return np.array(
        [e["value"] for t in table["trace"].to_pylist() for e in t if (e["name"], e["step"]) == (name, step)]
    )


class TestCounting:
    def test_they_are_means_and_deviations_over_the_slots(self) -> None:
        table = rows(0, 7)
        pooled = counted(table)
        assert pooled.nfe == MeanStd(7, table["nfe"].to_numpy().mean(), table["nfe"].to_numpy().std())
        assert pooled.landing is not None and pooled.landing.count == 6, "a slot without a prototype landed nowhere"
        assert list(pooled.curves()) == ["push", "detour"] and [s for s, _ in pooled.curves()["detour"]] == [0, 1]
        for (name, step), value in pooled.trace.items():
            values = of(table, name, step)
            assert value == MeanStd(7, values.mean(), values.std())
        assert pooled.path_ratio == pooled.trace["detour", 0]

    def test_of_picked_images_there_is_no_trace(self) -> None:
        bare = {"nfe": pa.array([0, 0], pa.int32()), "landing": pa.array([None, None], pa.float32())}
        pooled = counted(pa.table({**bare, "trace": pa.array([[], []], schemas.TRACE)}))
        assert pooled == Numbers(MeanStd(2, 0.0, 0.0), None, {}) and pooled.path_ratio is None

    def test_pooled_parts_are_their_rows_together(self) -> None:
        parts = [rows(1, 3), rows(2, 8), rows(3, 2)]
        together, pooled = counted(pa.concat_tables(parts)), Numbers.pooled([counted(p) for p in parts])
        assert list(pooled.trace) == list(together.trace)
        pairs = [(pooled.nfe, together.nfe), (pooled.landing, together.landing)]
        pairs += [(pooled.trace[k], together.trace[k]) for k in together.trace]
        for one, other in pairs:
            assert one is not None and other is not None and one.count == other.count
            assert (one.mean, one.std) == pytest.approx((other.mean, other.std), rel=1e-6)
        assert Numbers.pooled([together]) == together, "to the bit"

    def test_they_survive_their_text_to_the_bit(self) -> None:
        pooled = counted(rows(4, 9))
        assert Numbers.of_tree(json.loads(json.dumps(pooled.tree(), allow_nan=False))) == pooled
        lost = MeanStd.of_tree(json.loads(json.dumps(MeanStd(2, math.nan, math.inf).tree(), allow_nan=False)))
        assert lost.count == 2 and math.isnan(lost.mean) and math.isnan(lost.std)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = TinyRun(tmp_path_factory.mktemp("tiny") / "run")
    run.finish(["encode", "group", "cluster", *(f"{s} {m}" for m in (GENERATED, REAL) for s in ("plan", "sample"))])
    return run


@pytest.mark.parametrize("method", [GENERATED, REAL])
class TestManifest:
    def test_it_holds_them(self, method: str, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
        sealed = tiny.sealed(f"sample {method}")
        expected = counted(sealed.read(numbers.COLUMNS))
        assert expected.nfe.mean == (2 if method == GENERATED else 0) and bool(expected.trace) == (method == GENERATED)
        monkeypatch.setattr(Artifact, "read_table", lambda *_, **__: pytest.fail("a table is read"))
        assert numbers.of(sealed) == expected

    def test_one_of_an_older_version_has_the_same_digest_and_gives_the_same_numbers(
        self, method: str, tiny: TinyRun
    ) -> None:
        sealed = tiny.sealed(f"sample {method}")
        manifest = Path(sealed.artifact.location.uri) / "manifest.json"
        text = manifest.read_bytes()
        body = json.loads(text)
        try:
            older = {k: v for k, v in body.items() if k not in ("numbers", "numbers_digest")}
            manifest.write_text(json.dumps(older, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
            read = sealed.artifact.manifest()
            assert read is not None and read.digest == sealed.digest and read.numbers == {}
            assert numbers.of(Sealed(sealed.artifact, read)) == numbers.of(sealed)
        finally:
            manifest.write_bytes(text)

    def test_numbers_that_were_changed_are_found_out(self, method: str, tiny: TinyRun) -> None:
        sealed = tiny.sealed(f"sample {method}")
        manifest = Path(sealed.artifact.location.uri) / "manifest.json"
        text = manifest.read_text()
        body = json.loads(text)
        try:
            for spoiled in (
                {**body, "numbers": {**body["numbers"], "nfe": [6, 1.0, 0.0]}},
                {k: v for k, v in body.items() if k != "numbers"},
                {k: v for k, v in body.items() if k != "numbers_digest"},
                {**body, "numbers": None},
            ):
                manifest.write_text(json.dumps(spoiled))
                assert sealed.artifact.manifest() is None
            assert sealed.artifact.seal([r.key for r in sealed.records], {}, sealed.manifest.numbers) == sealed.manifest
            assert manifest.read_text() == text, "sealing again gives the same bytes"
        finally:
            manifest.write_text(text)

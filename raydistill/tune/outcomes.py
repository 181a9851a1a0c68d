"""The trainings that cells hold, as the engine of differences wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from raydistill.evaluation.score import unpacked
from raydistill.identity import fingerprint
from raydistill.results.pairing import TrainingOutcome


def outcomes(name: str, kept: Sequence[dict[str, Any]]) -> list[TrainingOutcome]:
    """One a training of the cells of the row of this name.

    Cells whose trainings went alike to the last digit are of one set. The answers to the test images, and with them
    the mean over classes, are known of newer cells only.
    """
    return [_outcome(name, i, cell, row) for i, cell in enumerate(kept) for row in cell["rows"]]


def distinct(kept: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells without those of seeds that changed nothing: the same trainings counted again."""
    return list({identity(cell): cell for cell in reversed(kept)}.values())[::-1]


def identity(cell: dict[str, Any]) -> str:
    return fingerprint(cell["rows"])


def _outcome(name: str, position: int, cell: dict[str, Any], row: dict[str, Any]) -> TrainingOutcome:
    known = row.get("right") is not None and row.get("tested") is not None
    answers = unpacked(row["right"], row["tested"]) if known else None
    shares = [float(a.mean()) for a in answers or () if len(a)]
    return TrainingOutcome(
        set=name,
        digest=identity(cell),
        student=row["student"],
        generation=cell.get("seed", position),
        training=row["training_seed"],
        top1=row["last"],
        balanced=sum(shares) / len(shares) if shares else math.nan,
        answers=answers,
    )

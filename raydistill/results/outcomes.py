"""What came of every training of a run, kept beside result.json so that runs can be compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raydistill import strict_json
from raydistill.evaluation.score import Score, packed, unpacked
from raydistill.identity import canonical
from raydistill.results.pairing import TrainingOutcome
from raydistill.stages.evaluation.trainer import body
from raydistill.state import Results


def outcomes(done: Results) -> list[TrainingOutcome]:
    """One a finished training, in their order."""
    return [
        TrainingOutcome(
            set=t.set.name,
            digest=t.set.digest,
            student=t.student,
            generation=None if t.set.draw is None else done.prepared.config.seed + t.set.draw,
            training=t.seed,
            top1=score.last,
            balanced=round(score.balanced, 6),
            test=result.get("test", ""),
            answers=score.answers(),
            curve=tuple(score.curve),
        )
        for t in done.trainings
        if (result := body(t)) is not None and (score := Score.of(result))
    ]


def written(trainings: Sequence[TrainingOutcome]) -> bytes:
    """The text of trainings.json; answers are a bit an image in base64, `tested` counts the images of each class."""
    return canonical([_tree(o) for o in trainings]).encode()


def read(data: bytes) -> list[TrainingOutcome]:
    """The opposite of `written`. Raises ValueError for what is none."""
    tree = strict_json.parse(data)
    try:
        return [_outcome(row) for row in tree]
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"it holds no trainings: {e}") from None


def _tree(o: TrainingOutcome) -> dict[str, Any]:
    tree = {k: v for k, v in vars(o).items() if k not in ("answers", "curve", "rules")}
    if o.curve:
        tree["curve"] = o.curve
    if o.answers is not None:
        tree |= {"tested": [len(a) for a in o.answers], "right": packed(np.concatenate(o.answers))}
    return tree


def _outcome(tree: dict[str, Any]) -> TrainingOutcome:
    tested, right = tree.pop("tested", None), tree.pop("right", None)
    curve = tuple((int(visits), float(top1)) for visits, top1 in tree.pop("curve", ()))
    return TrainingOutcome(**tree, answers=None if tested is None else unpacked(right, tested), curve=curve)

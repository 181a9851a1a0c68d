"""A metric of two arrays of vectors, as it is asked from Python."""

from __future__ import annotations

from typing import Any

import numpy as np

from raydistill import registry
from raydistill.errors import BadInput, one_line


def between(
    metric: str, real: np.ndarray, synthetic: np.ndarray, real_labels: Any, labels: Any, weights: Any
) -> dict[str, float]:
    """The values of a metric for vectors (n, d) and (m, d) with labels (n,) and (m,), any integers; None: one
    class. Raises BadInput.
    """
    kind = registry.get("metric", metric)
    y, of_synthetic = (
        np.zeros(len(a), np.int64) if n is None else np.asarray(n)
        for a, n in ((real, real_labels), (synthetic, labels))
    )
    if strange := [n.dtype for n in (y, of_synthetic) if n.dtype.kind not in "iu"]:
        raise BadInput(f"metric {metric}: labels are {strange[0]}, not whole numbers; number the classes")
    try:
        named, numbers = np.unique(np.concatenate([y, of_synthetic]), return_inverse=True)  # with gaps between or not
        instance = kind(max(1, len(named)))
        instance.update_real(real, numbers[: len(y)])
        instance.update_synthetic(synthetic, numbers[len(y) :], weights)
        return instance.compute()
    except ValueError as e:  # a metric's own line
        raise BadInput(one_line(e)) from None

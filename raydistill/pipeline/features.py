"""Who asks for features: what the network of features.path makes of the images."""

from __future__ import annotations

from raydistill.methods.resolve import Variant
from raydistill.stages.evaluation.measure import requested_spaces
from raydistill.state import Prepared


def by_features(v: Variant) -> bool:
    """Whether the method chooses among the images by their features."""
    return v.method.uses_points and v.config.selection.space == "feature"


def wanted(p: Prepared, evaluate: bool) -> bool:
    """Whether a method, or with `evaluate` a metric, asks for them."""
    measuring = requested_spaces(p.config.metrics, p.features) if evaluate and p.features else {}
    return any(by_features(one) for v in p.variants for one in v.makers()) or (
        p.features is not None and p.features.architecture in measuring.values()
    )

"""raydistill: distil a labelled image set into a few images per class, on Ray, killable at any moment."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydistill.api import Latents, Prototypes, Run, Syntheses, measure, run, sample, train, train_classifier
    from raydistill.config import Config, load
    from raydistill.errors import BadInput, RaydistillError, StageFailed
    from raydistill.evaluation.score import Score

__version__ = "0.1.0"

_PLACES = {
    "raydistill.api": (
        "Latents",
        "Prototypes",
        "Run",
        "Syntheses",
        "measure",
        "run",
        "sample",
        "train",
        "train_classifier",
    ),
    "raydistill.config": ("Config", "load"),
    "raydistill.errors": ("BadInput", "RaydistillError", "StageFailed"),
    "raydistill.evaluation.score": ("Score",),
}
__all__ = [
    "BadInput",
    "Config",
    "Latents",
    "Prototypes",
    "RaydistillError",
    "Run",
    "Score",
    "StageFailed",
    "Syntheses",
    "load",
    "measure",
    "run",
    "sample",
    "train",
    "train_classifier",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for."""
    from importlib import import_module

    for module, names in _PLACES.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(module), name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""method=auto: a generator's method where one is given, real images by k-means where none is."""

from __future__ import annotations

from raydistill.config import Config
from raydistill.progress import say

AUTO, WITH_GENERATOR, WITHOUT = "auto", "mgd3", "kmeans"
WITHOUT_GENERATOR = (
    "generator.path is not given, and the generator that ships makes handwritten digits alone; give generator.path=DIR "
    "or generator.path=train, which trains one, or method=kmeans, which takes real images. Of the one that ships"
)


def method_of(config: Config) -> str:
    """The method that runs. The generator that ships is of the digits, and is given with them."""
    if config.method != AUTO:
        return config.method
    return WITH_GENERATOR if config.generator.path is not None or config.source.kind == "digits" else WITHOUT


def settled(config: Config) -> Config:
    """The configuration with the method in place of `auto`, and a line that says which and why."""
    if config.method != AUTO:
        return config
    method = method_of(config)
    if config.evaluate.images is not None:  # whose images are made already
        return config.model_copy(update={"method": method})
    why = "with the generator"
    if method == WITHOUT:
        why = (
            "which takes real images: no generator of these classes is given. generator.path=DIR takes one that knows "
            "them, generator.path=train trains one first"
        )
    say("method", f"{method}, {why}")
    return config.model_copy(update={"method": method})

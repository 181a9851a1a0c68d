"""Keys given on the command line that the run would not read because nothing in it asks for them."""

from __future__ import annotations

from collections.abc import Sequence

from raydistill.errors import BadInput
from raydistill.evaluation.recipe import students_of
from raydistill.models.text_generator import TextGeneratorSpec
from raydistill.pipeline import features
from raydistill.stages.evaluation.trainings import recipe
from raydistill.state import Prepared


def check(p: Prepared, command_keys: Sequence[str]) -> None:
    """Raises BadInput for teacher.* and label.* with hard labels, for features.* that nobody asks for, unless
    a guidance asks the classifier of that section, and for prompts of a generator that is told none."""
    name = p.config.evaluate.protocol.name
    soft = any(recipe(p.config, len(p.splits.test.classes), s).soft for s in students_of(p.config.evaluate))
    every = [one for v in p.variants for one in v.makers()]
    guiding = {role for v in every if v.sampling is not None for role in v.sampling.roles}
    guiding |= {v.growth.how.reference for v in p.variants if v.growth is not None}
    told_text = isinstance(p.generator, TextGeneratorSpec)
    for key in command_keys:
        section = key.partition(".")[0]
        if key in ("generator.prompt", "generator.negative_prompt") and p.generator is not None and not told_text:
            raise BadInput(
                f"{key}: {p.generator.path} is told labels and no text; leave it out, or give Stable Diffusion as "
                "generator.path (docs/bring-your-own.md#stable-diffusion)"
            )
        if section in guiding:
            continue
        weighed = p.config.weights.mode is not None or (p.judged is not None and p.judged.weighed)
        if key == "weights.norm" and not weighed:
            lacks = "prescribes none" if p.judged is None else "has none beside its images"
            raise BadInput(f"{key}: no weights.mode is given, and {p.config.method} {lacks}; leave it out")
        if section in ("teacher", "label") and not soft:
            raise BadInput(
                f"{key}: evaluate.protocol.name={name} trains on hard labels and asks no teacher; leave it out, or "
                "choose a protocol of soft labels (evaluate.protocol.name=fkd, docs/protocols.md)"
            )
        if section == "features" and not features.wanted(p, evaluate=True):
            raise BadInput(
                f"{key}: nothing here asks for features; leave it out, or give features.path and a metric that is "
                "computed in them (metrics.names=[fid], docs/metrics.md) or selection.space=feature with method=herding"
            )

"""What every registered method must keep. A new file is picked up by itself."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from tiny_run import config

from raydistill import registry
from raydistill.errors import BadInput
from raydistill.methods.base import ClassView, Method, Slot
from raydistill.methods.resolve import resolve

SHAPE = (4, 2, 2)
IMAGES = 8

pytestmark = pytest.mark.parametrize("name", registry.names("method"))


def make(name: str) -> Method:
    return registry.get("method", name)()


def view(
    method: Method, ipc: int, images: int = IMAGES, distinct: int | None = None, class_id: str = "n01"
) -> ClassView:
    """A class as the plan shows it: at most ipc prototypes, none for a method that uses none; latents if it asks."""
    rng = np.random.default_rng(0)
    ids = [f"{class_id}/{i:03d}.png" for i in range(images)]
    k = min(ipc, images if distinct is None else distinct) if method.uses_prototypes else 0
    sizes = np.sort(rng.integers(1, 50, k))[::-1]
    centroids = rng.standard_normal((k, *SHAPE)).astype(np.float32)
    shown = images if method.uses_latents or method.uses_points else 0
    latents = rng.standard_normal((shown, *SHAPE)).astype(np.float16)
    return ClassView(class_id, ids, centroids, sizes, ids[:k], latents)


def plain(slots: list[Slot]) -> list[tuple[object, ...]]:
    return [
        (s.prototype_id, None if s.prototype is None else s.prototype.tobytes(), s.image_id, s.weight) for s in slots
    ]


def test_its_summary_is_a_line(name: str) -> None:
    summary = make(name).summary
    assert summary and "\n" not in summary and len(summary) < 100 and summary == summary.strip()


@pytest.mark.parametrize("ipc", [1, IMAGES - 1, IMAGES, IMAGES + 1, 3 * IMAGES])
def test_exactly_ipc_slots_or_a_refusal(name: str, ipc: int) -> None:
    """Below, at and above the size of the class; only what picks real images may run out of them."""
    method = make(name)
    if not method.generates and ipc > IMAGES:
        with pytest.raises(BadInput, match=rf"ipc={ipc} is more than the {IMAGES} usable images of class 'n01'"):
            method.slots(view(method, ipc), ipc, 0)
        return
    slots = method.slots(view(method, ipc), ipc, 0)
    assert len(slots) == ipc
    for slot in slots:
        assert np.isfinite(slot.weight) and slot.weight > 0
    assert np.mean([s.weight for s in slots]) == pytest.approx(1)


@pytest.mark.parametrize("ipc", [1, 3, IMAGES])
def test_a_slot_is_real_or_generated(name: str, ipc: int) -> None:
    method = make(name)
    seen = view(method, ipc)
    slots = method.slots(seen, ipc, 0)
    if method.generates:
        assert all(s.image_id == "" for s in slots)
    else:
        picked = [s.image_id for s in slots]
        assert set(picked) <= set(seen.image_ids) and len(set(picked)) == ipc, "real images, each at most once"


@pytest.mark.parametrize("ipc", [1, 3, IMAGES])
def test_prototypes_are_those_of_the_class(name: str, ipc: int) -> None:
    method = make(name)
    seen = view(method, ipc)
    for slot in method.slots(seen, ipc, 0):
        if slot.prototype_id == -1:
            assert slot.prototype is None
        else:
            assert method.uses_prototypes and 0 <= slot.prototype_id < len(seen.sizes)
            assert np.array_equal(slot.prototype, seen.centroids[slot.prototype_id])
    if method.guidance is not None:
        assert all(s.prototype is not None for s in method.slots(seen, ipc, 0)), "nothing to be guided to"


def test_a_class_of_few_distinct_latents_is_filled_or_refused(name: str) -> None:
    method = make(name)
    if not method.uses_prototypes:
        return
    few = view(method, 6, distinct=2)
    if method.generates:
        used = [s.prototype_id for s in method.slots(few, 6, 0)]
        assert len(used) == 6 and sorted(set(used)) == [0, 1], "every prototype is used"
        assert max(map(used.count, (0, 1))) - min(map(used.count, (0, 1))) <= 1
    else:
        with pytest.raises(BadInput, match="only 2 distinct latents for ipc=6"):
            method.slots(few, 6, 0)


def test_it_is_a_function_of_its_arguments(name: str) -> None:
    method = make(name)
    seen = view(method, 5)
    kept = copy.deepcopy(seen)
    first = plain(method.slots(seen, 5, 3))
    np.random.seed(1)
    assert plain(make(name).slots(copy.deepcopy(kept), 5, 3)) == first
    assert np.array_equal(seen.centroids, kept.centroids) and list(seen.image_ids) == list(kept.image_ids)
    assert np.array_equal(seen.latents, kept.latents)


def test_draws_differ_between_seeds_and_classes_if_there_are_any(name: str) -> None:
    """A method that draws does so from the seed and the class id: not the same rows of every class."""
    method = make(name)
    rows = {
        (seed, c): tuple(s.image_id.rpartition("/")[2] for s in method.slots(view(method, 4, 100, class_id=c), 4, seed))
        for seed in range(3)
        for c in ("n01", "n02")
    }
    assert len(set(rows.values())) in (1, len(rows))


def test_it_goes_with_its_own_sampler(name: str) -> None:
    resolved = resolve(config(method=name))
    asked, method = resolved.config, resolved.method
    if method.generates:
        assert asked.sampler.name == method.sampler and asked.sampler.steps == 2
        unsaid = resolve(config(method=name, sampler={})).config
        assert unsaid.sampler.steps == method.steps
        assert (asked.guidance.form in registry.get("sampler", method.sampler).spaces) == (method.guidance is not None)
    if method.guidance is not None:
        assert method.guidance in registry.names("guidance")


def test_a_form_that_no_sampler_takes_is_refused(name: str) -> None:
    method = make(name)
    if method.guidance is None:
        return
    for sampler in registry.names("sampler"):
        spaces = registry.get("sampler", sampler).spaces
        for form in ("mean", "epsilon", "velocity"):
            asked = config(method=name, sampler={"name": sampler, "steps": 10}, guidance={"form": form})
            if form not in registry.get("guidance", method.guidance).spaces:
                with pytest.raises(BadInput, match=f"guidance.form={form} does not go with guidance {method.guidance}"):
                    resolve(asked)
            elif form in spaces:
                assert resolve(asked).config.guidance.form == form
            else:
                with pytest.raises(BadInput, match=f"guidance.form={form} does not go with sampler.name={sampler}"):
                    resolve(asked)

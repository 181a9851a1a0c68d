"""What every registered protocol must keep. A new file is picked up by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from raydistill import registry
from raydistill.errors import BadInput
from raydistill.evaluation.optimiser import SCHEDULES
from raydistill.evaluation.recipe import Recipe, Setting, describe

pytestmark = pytest.mark.parametrize("name", registry.names("protocol"))

SETTINGS = [Setting(ipc, classes, 32, student) for ipc in (1, 3, 10, 50, 1000) for classes in (2, 10, 100, 1000)
            for student in ("convnet", "vgg11")]  # fmt: skip


def resolved(name: str, setting: Setting) -> Recipe:
    try:
        return registry.get("protocol", name)(setting)
    except BadInput as e:
        assert "\n" not in str(e) and f"ipc={setting.ipc}" in str(e)
        return registry.get("protocol", name)(replace(setting, batch=10))


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_has_a_recipe_or_is_refused_in_one_line(name: str, setting: Setting) -> None:
    r = resolved(name, setting)
    assert r.protocol == name and r == resolved(name, setting)
    assert r.epochs > 0 and r.batch > 0 and r.lr > 0 and r.evaluations > 0 and r.schedule in SCHEDULES
    assert 0 < r.crop_scale <= 1 and 0 <= r.cutmix <= 1 and 0 <= r.tested_from < 1 and 0 < r.test_crop <= 1


def test_the_rate_starts_whole_and_never_rises(name: str) -> None:
    factor, epochs = SCHEDULES[resolved(name, SETTINGS[0]).schedule], 120
    rates = [factor(e, epochs) for e in range(epochs)]
    assert rates[0] == 1 and all(a >= b >= 0 for a, b in pairwise(rates))


def test_soft_labels_have_a_temperature_and_stored_ones_views(name: str) -> None:
    r = resolved(name, SETTINGS[0])
    assert (r.temperature > 1) == r.soft and (r.views > 0) == (r.labels == "stored")


def test_it_can_be_read(name: str) -> None:
    text = describe(resolved(name, SETTINGS[0]))
    assert "\n" not in text and "image visits in batches of" in text

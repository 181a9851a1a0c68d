"""Noise depends on its key alone: not on the batch, the order, or what was drawn before."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydistill.seeding import NoiseKey, generator, normal

KEY = NoiseKey(seed=7, class_id="n01440764", slot=3)
SHAPE = (4, 8, 8)
GOLDEN_NORMAL = [0.19839876890182495, -1.0330379009246826, -0.6467456817626953, 1.2487558126449585]
GOLDEN_INTEGERS = [2418615583, 2525690463, 2227015969]


def keys(count: int) -> list[NoiseKey]:
    return [replace(KEY, slot=i) for i in range(count)]


def test_a_draw_depends_on_its_key_alone() -> None:
    alone = normal([KEY], SHAPE)[0]
    np.random.seed(1)  # the global generator must not matter
    generator("something", "else").standard_normal(1000)
    assert np.array_equal(normal([KEY], SHAPE)[0], alone)


@given(st.permutations(range(6)), st.integers(1, 6))
def test_a_draw_is_the_same_in_every_batch_and_order(order: list[int], size: int) -> None:
    whole = normal(keys(6), (2, 3))
    for start in range(0, 6, size):
        part = order[start : start + size]
        assert np.array_equal(normal([keys(6)[i] for i in part], (2, 3)), whole[part])


@pytest.mark.parametrize("name", [f.name for f in fields(NoiseKey)])
def test_every_part_of_the_key_matters(name: str) -> None:
    value = getattr(KEY, name)
    other = replace(KEY, **{name: value + "x" if isinstance(value, str) else value + 1})
    assert not np.array_equal(normal([KEY], SHAPE), normal([other], SHAPE))


def test_parts_do_not_run_into_each_other() -> None:
    keys = [(1, 23), (12, 3), ("1", 23), (123,), ("1,23",), ([1, 23],), (1, 23, 0)]
    assert len({generator(*key).random() for key in keys}) == len(keys)


def test_streams_of_distinct_keys_are_independent_standard_normals() -> None:
    noise = normal(keys(64), (4096,)).astype(np.float64)
    correlation = np.corrcoef(noise) - np.eye(64)
    assert np.abs(correlation).max() < 6 / np.sqrt(4096)
    assert abs(correlation.mean()) < 1e-3
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    shifted = [np.corrcoef(noise[i, 1:], noise[i + 1, :-1])[0, 1] for i in range(63)]
    assert np.abs(shifted).max() < 6 / np.sqrt(4096)


def test_steps_and_purposes_give_fresh_noise() -> None:
    noise = normal([KEY, KEY.at("ddpm", 0), KEY.at("ddpm", 1)], (4096,))
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.1


def test_the_text_of_a_key_names_the_sample_and_not_the_step() -> None:
    assert KEY.text() == "7/n01440764/3/0/0" == KEY.at("ddpm", 5).text()


def test_what_json_cannot_hold_is_no_key() -> None:
    with pytest.raises(TypeError):
        generator(object())
    with pytest.raises(ValueError):
        generator(float("nan"))


def test_values_never_change_between_versions() -> None:
    assert normal([KEY], (4,)).dtype == np.float32
    np.testing.assert_array_equal(normal([KEY], (4,))[0], np.array(GOLDEN_NORMAL, np.float32))
    assert generator(0, "a").integers(0, 2**32, 3).tolist() == GOLDEN_INTEGERS

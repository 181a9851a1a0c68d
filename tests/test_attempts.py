"""What is kept of the tries at a stage's units: who is a straggler, who is tried again, what is said in the end."""

from __future__ import annotations

import traceback

import pytest

from raydistill.distributed import attempts
from raydistill.distributed.attempts import ATTEMPTS, MOST_FAILED, Attempts, Failure
from raydistill.distributed.dispatch import chosen


def failed(some: Attempts, key: str, times: int = ATTEMPTS, node: str = "10.0.0.7/b") -> None:
    some.failures[key] += [Failure(node, f"is not done after {i} s") for i in range(times)]


def test_nobody_is_a_straggler_before_another_unit_is_done() -> None:
    some = Attempts("sample", 8)
    assert not some.slow(10_000)
    some.seconds += [40.0, 50.0, 90.0]
    assert not some.slow(150.0) and some.slow(151.0)


def test_short_units_are_given_time() -> None:
    some = Attempts("sample", 8)
    some.seconds.append(0.01)
    assert not some.slow(attempts.SLOW_S) and some.slow(attempts.SLOW_S + 1)


def test_a_unit_is_tried_again_a_bounded_number_of_times_and_not_where_it_failed() -> None:
    some = Attempts("sample", 8)
    assert some.avoided("a") == set() and some.given_up() == []
    for i in range(ATTEMPTS):
        assert some.again("a")
        failed(some, "a", 1, f"node {i}")
    assert not some.again("a") and some.given_up() == ["a"]
    assert some.avoided("a") == {f"node {i}" for i in range(ATTEMPTS)}


@pytest.mark.parametrize(("done", "most"), [(False, 1), (True, MOST_FAILED)])
def test_a_stage_ends_when_the_fault_is_not_that_of_a_unit(done: bool, most: int) -> None:
    """At once if nothing was ever done; otherwise the others are finished unless many fail."""
    some = Attempts("sample", 8)
    some.seconds += [1.0] * done
    for i in range(most):
        assert not some.over()
        failed(some, f"unit-{i}")
    assert some.over()


def test_the_line_names_units_and_the_traceback_every_try() -> None:
    some = Attempts("sample", 8)
    for key in ("d", "a", "c", "b"):
        failed(some, key)
    failed(some, "was done later", ATTEMPTS - 1)
    line = str(some.error())
    assert line == (
        "sample: 4 of 8 units failed 3 times each: a (is not done after 2 s on 10.0.0.7/b), b (is not done after 2 s "
        "on 10.0.0.7/b), c (is not done after 2 s on 10.0.0.7/b) and 1 more; what happened each time is in "
        "logs/error.txt; run the same command again (finished work is kept)"
    )
    story = "".join(traceback.format_exception(some.error()))
    assert story.count("try 1") == 4 and "sample: d, try 3: is not done after 2 s on 10.0.0.7/b" in story


def test_the_share_that_is_computed_again_is_that_of_the_keys() -> None:
    keys = [f"batch-{i:05d}" for i in range(1000)]
    assert sum(chosen(k, 0.0) for k in keys) == 0 and sum(chosen(k, 1.0) for k in keys) == 1000
    assert 60 < sum(chosen(k, 0.1) for k in keys) < 140

"""What is kept of the tries at a stage's units: who is a straggler, who is tried again, what is said in the end."""

from __future__ import annotations

import traceback

import pytest
import torch
from ray.exceptions import OutOfMemoryError, RayTaskError

from raydistill.config import load
from raydistill.distributed import attempts
from raydistill.distributed.attempts import ATTEMPTS, MOST_FAILED, Attempts, Failure
from raydistill.distributed.dispatch import chosen
from raydistill.distributed.failures import translate
from raydistill.errors import StageFailed


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


RAY_SAYS = (  # what Ray 2.56 gives of a worker that it ended, shortened in the middle
    "Memory on the node (IP: 192.0.2.2, ID: e1) was 21.9GB / 23.0GB (0.95), which exceeds the threshold of 0.95. "
    "1 worker(s) were killed due to the node running low on memory. Object store memory usage: [\n- objects: 0\n]\n"
    "Top 10 memory users: PID\tMEM(GB)\tCOMMAND\n23592\t9.62\tray::RayTrainWorker\nRefer to the documentation on "
    "how to address the out of memory issue: https://docs.ray.io/. Consider provisioning more memory on this node"
)


@pytest.mark.parametrize(
    ("stage", "setting"),
    [("evaluate", "evaluate.workers=1"), ("sample", "sample.actors=1"), ("increment", "sample.actors=1"),
     ("measure", "embed.actors=1"), ("teacher", "label.actors=1"), ("cluster", None)],
)  # fmt: skip
def test_a_worker_that_ray_ended_for_memory_is_told_in_a_few_words_with_a_setting_that_helps(
    stage: str, setting: str | None
) -> None:
    said = str(translate(OutOfMemoryError(RAY_SAYS), stage))
    remedy = f", with fewer at once: {setting}" if setting else ""
    assert said == (
        f"{stage}: a worker failed: the memory of its machine was full, and Ray ended it; the traceback is in "
        f"logs/error.txt; run the same command again (finished work is kept){remedy}"
    )
    some = Attempts(stage, 2)
    for _ in range(ATTEMPTS):
        some.fail("a", "", OutOfMemoryError(RAY_SAYS))
    assert str(some.error()).endswith(f"run the same command again (finished work is kept){remedy}")
    if setting:
        load("quickstart", [setting])


def test_a_full_gpu_of_a_classifier_of_latents_is_helped_by_settings_that_it_reads() -> None:
    said = str(translate(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "judge"))
    assert said.endswith("; give it more of a GPU by sample.num_gpus, or none by sample.device=cpu")
    load("quickstart", ["sample.device=cpu"])


@pytest.mark.parametrize("stage", ["encode", "embed", "sample", "increment", "measure", "teacher", "label"])
def test_a_full_gpu_has_a_remedy_that_is_a_setting(stage: str) -> None:
    said = str(translate(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), stage))
    key = said.rpartition("lower ")[2]
    assert said == f"{stage}: out of memory: CUDA out of memory; lower {key}"
    load("quickstart", [f"{key}=1"])


def test_a_worker_s_own_line_is_told_and_not_what_ray_wraps_it_in() -> None:
    """Ray's wrapper is of the error's own type, too, and its text is the traceback of the worker."""
    theirs = RayTaskError(
        "run()", "ray::Worker.run()\n  File pool.py\nStageFailed: measure: no", StageFailed("measure: no")
    )
    wrapped = theirs.as_instanceof_cause()
    assert isinstance(wrapped, StageFailed) and "\n" in str(wrapped)
    ours = translate(wrapped, "measure")
    assert type(ours) is StageFailed and str(ours) == "measure: no"

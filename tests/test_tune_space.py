"""Where a sweep looks: what methods declare, what is written, and what is refused in one line."""

from __future__ import annotations

import pytest

from raydistill.config import load
from raydistill.errors import BadInput
from raydistill.tune.space import Space, space


def of(*overrides: str) -> Space:
    return space(load("quickstart", overrides))


class Trial:
    """Answers as Optuna's trial, always with the upper end, and keeps what it was asked for."""

    def __init__(self, method: str = "") -> None:
        self.method = method
        self.asked_for: list[str] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked_for.append(name)
        return high

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.asked_for.append(name)
        return high

    def suggest_categorical(self, name: str, choices: tuple[str, ...]) -> str:
        self.asked_for.append(name)
        return self.method if name == "method" else choices[-1]


@pytest.mark.parametrize(
    ("method", "keys"),
    [
        ("mgd3", ["sampler.steps", "guidance.scale", "guidance.stop"]),
        ("pgfm", ["sampler.steps", "path.w_max", "path.t_stop", "path.t0"]),
        ("ddoq", ["sampler.steps", "start.strength"]),
        ("dit", ["sampler.steps"]),
    ],
)
def test_a_space_that_is_left_out_is_what_method_guidance_and_sampler_declare(method: str, keys: list[str]) -> None:
    assert [k.key for k in of(f"method={method}").knobs] == keys


def test_a_method_is_asked_for_the_knobs_that_it_reads() -> None:
    both = of("tune.space.method=[mgd3,pgfm]", "tune.space.guidance.scale=loguniform(0.01,0.3)",
              "tune.space.path.w_max=uniform(0.1,0.5)", "tune.space.sampler.steps=uniform(4,20)")  # fmt: skip
    for method, knob in (("mgd3", "guidance.scale"), ("pgfm", "path.w_max")):
        trial = Trial(method)
        both.suggest(trial)
        assert sorted(trial.asked_for) == sorted(["method", knob, "sampler.steps"])


def test_a_grid_has_every_cell_once() -> None:
    grid = of("tune.search=grid", "tune.space.method=[mgd3,pgfm]", "tune.space.guidance.scale=[0.1,0.2,0.1]",
              "tune.space.path.w_max=[0.3]", "tune.space.sampler.steps=[4,8]")  # fmt: skip
    cells = list(grid.cells())
    assert grid.size() == len(cells) == len({str(c) for c in cells}) == 6
    assert {"method": "mgd3", "guidance.scale": 0.2, "sampler.steps": 4} in cells
    assert {"method": "pgfm", "path.w_max": 0.3, "sampler.steps": 8} in cells


def test_norms_of_weights_can_be_searched_where_they_are_rates() -> None:
    """Under SGD, or where protocols are searched too."""
    norms = ("method=ddoq", "tune.space.weights.norm=[mean,sum]")
    assert [k.key for k in of(*norms).knobs] == ["weights.norm"]
    assert len(of(*norms, "tune.space.evaluate.protocol.name=[hard,fkd]").knobs) == 2


def test_a_length_of_trainings_can_be_searched_where_it_counts() -> None:
    knob = "tune.space.evaluate.protocol.epochs=[2,4]"
    for words in (["evaluate.protocol.visits=null"], ["tune.space.evaluate.protocol.visits=[null,64]"]):
        assert of(knob, *words).knobs[0].key == "evaluate.protocol.epochs"


def test_no_clustering_is_a_value_too() -> None:
    assert of("tune.space.cluster.algorithm=[null,divisive]").knobs[0].choices == (None, "divisive")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["method=random"], "method random declares no knobs; give tune.space"),
        (["tune.space.guidance={}"], "tune.space is empty"),
        (["tune.space.guidance.scal=uniform(0.1,0.5)"], "unknown key; did you mean 'guidance.scale'"),
        (["tune.space.path.w_max=uniform(0.1,0.5)"], "method mgd3 does not read it, pgfm does"),
        (["tune.space.source.image_size=[32,64]"], "a sweep does not vary it"),
        (["tune.space.guidance.scale=uniform(0.5,0.1)"], "reversed; write the lower one first"),
        (["tune.space.guidance.scale=uniform(0.2,0.2)"], "both bounds are 0.2; for one value give guidance.scale=0.2"),
        (["tune.space.guidance.form=null"], "for one value give guidance.form=null"),
        (["tune.space.manifold.renorm=true", "method=manifoldgd"], "for one value give manifold.renorm=true"),
        (["tune.space.cluster.algorithm=[kmeans,kmean]"], "unknown clustering 'kmean'; did you mean 'kmeans'"),
        (["tune.space.sampler.name=[ddpm,ddmp]"], "unknown sampler 'ddmp'"),
        (["tune.space.evaluate.protocol.name=[hard,hrd]"], "unknown protocol 'hrd'"),
        (["tune.space.evaluate.protocol.budget=[0.1,1]"], "evaluate.protocol.visits=4000 says how long a student is"),
        (["tune.space.evaluate.protocol.epochs=uniform(1,9)"], "or give evaluate.protocol.visits=null as well"),
        (["tune.space.guidance.scale=loguniform(0,0.1)"], "a logarithmic scale has no 0"),
        (["tune.space.guidance.scale=uniform(a,0.1)"], "'a' is no number"),
        (["tune.space.guidance.stop=uniform(0.5,2)"], "less than or equal to 1"),
        (["tune.space.sampler.steps=uniform(4,9.5)"], "9.5 is no whole number"),
        (["tune.space.sampler.grid=uniform(1,2)"], "a key without numbers has no range"),
        (["tune.space.guidance.scale=0.3"], "for one value give guidance.scale=0.3"),
        (["tune.space.method=[mgd4]"], "unknown method 'mgd4'; did you mean 'mgd3'"),
        (["tune.space.guidance.scale=[]"], "an empty list"),
        (
            ["tune.space.weights.norm=[mean,sum]", "weights.mode=sqrt", "method=ddoq", "evaluate.protocol.name=fkd"],
            "weights.norm: norms differ by a factor of the loss, which cancels under adamw (evaluate.protocol.name=fkd",
        ),
        (["tune.search=grid"], "a grid is of lists"),
        (["tune.samples=0"], "tune.samples"),
        (
            ["tune.search=grid", f"tune.space.guidance.scale={[i / 1000 for i in range(1, 1001)]}",
             f"tune.space.sampler.steps={list(range(1, 1001))}"],
            "a grid of 1,000,000 cells, and tune.samples=12",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(BadInput, match=line.replace("(", r"\(")):
        of(*overrides)

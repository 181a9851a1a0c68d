"""A window without a step is refused in one line, and each remedy that it names works when it is followed alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raydistill.config import Config, load
from raydistill.errors import BadInput
from raydistill.pipeline.preflight import prepare

SETTING = re.compile(r"\w+\.\w+=[0-9.e+-]*[0-9]")
HALF = ("method=mgd3", "guidance.stop=0.5")
LGD = ("method=lgd", "lgd.increment=1", "lgd.candidates=1", "ipc=2")
FLOW_LGD = (*LGD, "lgd.base=pgfm", "lgd.seed_method=random", "path.w_max=0", "path.t0=0")


def asked(tmp_path: Path, *overrides: str) -> Config:
    small = ("source.classes=[3,7]", "ipc=3", "cluster.restarts=1", "evaluate.baselines=[]")
    return load("quickstart", [*small, f"run_dir={tmp_path / 'run'}", *overrides])


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ((*HALF, "sampler.steps=1"), {"sampler.steps"}),
        ((*HALF, "sampler.steps=2"), {"guidance.stop", "sampler.steps"}),
        (("method=mgd3", "start.strength=0.1", "sampler.steps=8"), {"start.strength", "sampler.steps"}),
        (("method=mgd3", "start.snr=1e5", "sampler.steps=1000"), {"start.snr"}),
        (("method=mgd3", "start.snr=1e5", "sampler.steps=50"), {"start.snr"}),
        (("method=manifoldgd", "cluster.leaves=12", "start.snr=1e6", "sampler.steps=8"), {"start.snr"}),
        ((*HALF, "guidance.start=0.51", "sampler.steps=4"), {"guidance.stop", "sampler.steps"}),
        (("method=mgd3", "guidance.start=0.05", "guidance.stop=0", "sampler.steps=4"), None),
        (("method=pgfm", "path.t0=0", "start.strength=0.3"), {"path.t_stop", "start.strength"}),
        (("method=pgfm", "path.t0=0", "start.snr=100"), {"path.t_stop", "start.snr"}),
        ((*LGD, "learnability.start=0.4", "learnability.stop=0.3", "sampler.steps=2"), None),
        ((*LGD, "learnability.every=10", "sampler.steps=10"), {"learnability.every", "sampler.steps"}),
        ((*LGD, "lgd.base=mgd3", "guidance.scale=0", "start.strength=0.1", "sampler.steps=8"), None),
        ((*FLOW_LGD, "learnability.stop=0.5", "start.strength=0.3"), {"learnability.stop", "start.strength"}),
        ((*FLOW_LGD, "learnability.start=0.01", "learnability.stop=0", "sampler.steps=4"), None),
    ],
)
def test_each_remedy_works_alone(overrides: tuple[str, ...], keys: set[str] | None, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds none of the \d+ steps that run") as caught:
        prepare(asked(tmp_path, *overrides), evaluate=False)
    line = str(caught.value)
    assert "\n" not in line and not list(tmp_path.iterdir())
    found = SETTING.findall(line.rpartition(";")[2])
    assert found and keys in (None, {setting.partition("=")[0] for setting in found}), line
    for setting in found:
        others = [o for o in overrides if o.partition("=")[0] != setting.partition("=")[0]]
        prepare(asked(tmp_path, *others, setting), evaluate=False)


def test_it_names_the_keys_of_the_window_that_it_is(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"learnability: .*learnability\.stop=0\.3 < fraction <= learnability\.start=0\.4"
    ):
        prepare(asked(tmp_path, *LGD, "learnability.start=0.4", "learnability.stop=0.3", "sampler.steps=2"))
    with pytest.raises(BadInput, match=r"mode: .*guidance\.stop=0\.5 < fraction <= guidance\.start=1\) "):
        prepare(asked(tmp_path, *HALF, "sampler.steps=2"))


def test_where_no_single_change_helps_it_says_so(tmp_path: Path) -> None:
    """One step, and a window between two of any number of steps."""
    narrow = ("guidance.start=0.50001", "guidance.stop=0.5", "start.strength=0.1", "sampler.steps=4")
    with pytest.raises(BadInput, match=r"; widen it and take more steps \(sampler\.steps\)$"):
        prepare(asked(tmp_path, "method=mgd3", *narrow))

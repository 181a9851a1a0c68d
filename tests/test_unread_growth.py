"""Keys of a curriculum that nothing in it would read: refused in one line, and the remedy that the line names works."""

from __future__ import annotations

from pathlib import Path

import pytest
from curricula import EVALUATE, LEARNS, prepared
from samples import write_student

from raydistill import registry
from raydistill.cli import main
from raydistill.errors import BadInput
from raydistill.pipeline import unread
from raydistill.planning.ahead import expected
from raydistill.state import Prepared

known = registry.names
LGD = ("sample", "--dry-run", "method=lgd", "ipc=2", "lgd.increment=1")
CASES: dict[str, tuple[str, str | None]] = {
    "lgd.omega=0.5": ("lgd.candidates=1", "lgd.candidates=2"),
    "lgd.memory_scope=all": ("learnability.repulsion=0", "learnability.repulsion=0.1"),
    "lgd.student=convnet": ("learnability.space=latent", "learnability.space=pixel"),
    "lgd.reference=trained": ("learnability.omega=0", "learnability.omega=0.5"),
    "lgd.reference_epochs=3": ("learnability.omega=0", "lgd.omega=0.5"),
    "learnability.shrink=2": ("learnability.scale=0", "learnability.scale=0.1"),
    "learnability.decoder=gone": ("learnability.scale=0", None),
    "learnability.through_denoiser=true": ("learnability.scale=0", "learnability.scale=0.1"),
    "learnability.checkpointing=true": ("learnability.scale=0", "learnability.scale=0.1"),
}


@pytest.mark.parametrize("key", CASES)
def test_a_key_that_is_not_read_is_refused_and_the_remedy_works(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unless, remedy = CASES[key]
    run = f"run_dir={tmp_path / 'run'}"
    assert main([*LGD, run, unless, key]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    name = key.partition("=")[0]
    assert said[-1].startswith(f"error: {name}: ")
    assert "leave it out" in said[-1] and (remedy or unless).partition("=")[0].rpartition(".")[0] in said[-1]
    assert not (tmp_path / "run").exists()
    for words in ((unless,), *([(remedy, key)] if remedy else [])):
        assert main([*LGD, run, *words]) == 0, "left out, or as the line says"


NOTHING = ("learnability.scale=0", "learnability.repulsion=0")


@pytest.mark.parametrize(
    "key",
    [
        "lgd.reference_epochs=3",
        "lgd.reference=trained",
        "lgd.training_seed=3",
        "lgd.student=convnet",
        "learnability.omega=1",
    ],
)
def test_where_nothing_leads_or_chooses_nobody_is_trained_and_both_remedies_work(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*LGD, f"run_dir={tmp_path / 'run'}", key]
    assert main([*words, *NOTHING, "lgd.candidates=1"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.endswith("chooses among them; leave it out, or raise learnability.scale or lgd.candidates")
    assert main([*words, *NOTHING, "lgd.candidates=2"]) == main([*words, NOTHING[1], "lgd.candidates=1"]) == 0


@pytest.mark.parametrize("key", ["start=1", "norm=none", "every=2", "clip=1"])
def test_where_nothing_leads_the_push_has_no_numbers(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*LGD, f"run_dir={tmp_path / 'run'}", f"learnability.{key}"]
    assert main([*words, *NOTHING]) == 2
    assert "nothing is led; leave it out, or raise learnability.scale" in capsys.readouterr().err
    assert main(words) == main([*words, NOTHING[0]]) == 0, "what only repels has a push, too"


def test_a_reference_that_nobody_asks_needs_no_teacher_and_reads_none(tmp_path: Path) -> None:
    """From a file, whose keys may be of more than one run; a teacher that is given on the command line is refused."""
    unasked = {"lgd": {"reference": "teacher", "omega": 0.0}, "learnability": {"omega": 0.0}}
    assert prepared(tmp_path / "run", **unasked).teacher is None
    given = prepared(tmp_path / "run", **unasked, teacher={"path": write_student(tmp_path / "teacher")})
    with pytest.raises(BadInput, match=r"^teacher\.path: .* asks no teacher; leave it out"):
        unread.check(given, ["teacher.path"])


@pytest.mark.parametrize("asks", [{"lgd": {"omega": 0.5}}, {"lgd": {"omega": 0.0}, "learnability": {"omega": 0.5}}])
def test_one_that_is_asked_to_choose_or_to_lead_needs_it(asks: dict[str, dict[str, float]], tmp_path: Path) -> None:
    tree = {"learnability": {"omega": 0.0}} | asks
    tree["lgd"] = {"reference": "teacher", **tree["lgd"]}  # type: ignore[dict-item]
    with pytest.raises(BadInput, match=r"^lgd\.reference=teacher judges by a teacher: give teacher\.path=FILE"):
        prepared(tmp_path / "run", **tree)
    given = prepared(tmp_path / "run", **tree, teacher={"path": write_student(tmp_path / "teacher")})
    unread.check(given, ["teacher.path", "lgd.reference"])


LATENT = {"space": "latent"}
UNASKED = [
    ({"omega": 0.0}, {"omega": 0.0}),
    ({"omega": 0.0}, {"candidates": 1}),
    ({"scale": 0.0, "repulsion": 0.0}, {"omega": 0.0}),
    ({"scale": 0.0, "repulsion": 0.0}, {"candidates": 1}),
]


@pytest.mark.parametrize(("guiding", "own"), UNASKED)
def test_a_teacher_whom_nobody_asks_need_not_see_latents(
    guiding: dict[str, float], own: dict[str, float], tmp_path: Path
) -> None:
    """Whether nothing leads or chooses, or what does weighs no reference."""
    lgd = {"reference": "teacher", **own}
    p = prepared(tmp_path / "run", lgd=lgd, learnability=LATENT | guiding)
    assert p.teacher is None and p.variants[0].growth is not None
    assert [e.stage for e in expected(p, "sample") if "reference" in e.stage] == []


@pytest.mark.parametrize(
    ("guiding", "own"), [({}, {"omega": 0.0}), ({}, {"candidates": 1}), ({"omega": 0.0}, {"omega": 1.0})]
)
def test_one_who_is_asked_to_lead_or_to_choose_by_latents_is_refused_and_both_remedies_work(
    guiding: dict[str, float], own: dict[str, float], tmp_path: Path
) -> None:
    teacher = {"path": write_student(tmp_path / "teacher")}

    def asks(reference: str, space: str) -> Prepared:
        lgd = {"reference": reference, **own}
        return prepared(tmp_path / "run", lgd=lgd, learnability={"space": space, **guiding}, teacher=teacher)

    with pytest.raises(
        BadInput, match=r"^lgd\.reference=teacher sees images, .* one of lgd\.reference=trained and learn"
    ):
        asks("teacher", "latent")
    assert asks("trained", "latent").teacher is None, "a classifier of latents is trained in its place"
    assert asks("teacher", "pixel").teacher is not None


def test_a_student_that_cannot_be_read_back_is_refused_where_one_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be evaluated where latents are judged, or nothing is; otherwise another is named, which works."""
    monkeypatch.setattr(registry, "names", lambda kind: [n for n in known(kind) if (kind, n) != ("student", "vgg11")])
    of_family = EVALUATE | {"students": ["vgg11"], "protocol": LEARNS | {"image_size": 32}}
    for free in ({"learnability": LATENT}, {"learnability": {"scale": 0.0}, "lgd": {"candidates": 1}}):
        assert prepared(tmp_path / "run", evaluate=of_family, **free).variants[0].growth is not None
    with pytest.raises(BadInput, match=r"^lgd\.student=vgg11 is one of a family, .* choose another$"):
        prepared(tmp_path / "run", evaluate=of_family)
    unread.check(prepared(tmp_path / "run", evaluate=of_family, lgd={"student": "convnet"}), ["lgd.student"])

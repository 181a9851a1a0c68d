"""Keys of a curriculum that nothing in it would read: refused in one line, and the remedy that the line names works."""

from __future__ import annotations

from pathlib import Path

import pytest
from curricula import prepared
from samples import write_student

from raydistill.cli import main
from raydistill.errors import BadInput
from raydistill.pipeline import unread

LGD = ("sample", "--dry-run", "method=lgd", "ipc=2", "lgd.increment=1")
CASES = {
    "lgd.omega=0.5": ("lgd.candidates=1", "lgd.candidates=2"),
    "lgd.memory_scope=all": ("learnability.repulsion=0", "learnability.repulsion=0.1"),
    "lgd.student=convnet": ("learnability.space=latent", "learnability.space=pixel"),
    "lgd.reference=trained": ("learnability.omega=0", "learnability.omega=0.5"),
    "lgd.reference_epochs=3": ("learnability.omega=0", "lgd.omega=0.5"),
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
    assert "leave it out" in said[-1] and remedy.partition("=")[0].rpartition(".")[0] in said[-1]
    assert not (tmp_path / "run").exists()
    for words in ((unless,), (remedy, key)):
        assert main([*LGD, run, *words]) == 0, "left out, or as the line says"


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

"""Keys of a curriculum that nothing in it would read: refused in one line, and the remedy that the line names works."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydistill.cli import main

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

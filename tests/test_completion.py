"""The shell completes verbs, options, keys and their words, by the script that the program prints."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess

import pytest

from raydistill import cli, registry
from raydistill import config as configuration
from raydistill.completion import SHELLS
from raydistill.verbs import VERBS

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture(scope="module")
def bash() -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(["completion", "bash"]) == 0
    return said.getvalue()


def completed(script: str, line: str) -> set[str]:
    """What bash offers at the end of a line."""
    ask = 'COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}; read -ra COMP_WORDS <<< "$1"\n'
    ask += '[[ "$1" == *" " ]] && COMP_WORDS+=("")\n'
    ask += 'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _raydistill; printf "%s\\n" "${COMPREPLY[@]}"\n'
    run = subprocess.run(["bash", "-c", script + ask, "bash", line], capture_output=True, text=True, check=True)
    assert not run.stderr
    return set(run.stdout.split())


def test_verbs(bash: str) -> None:
    assert completed(bash, "raydistill ") == {*VERBS, "help", "--version", "--constraints"}
    assert completed(bash, "raydistill e") == {"encode", "evaluate", "export"}


def test_options_are_those_of_the_verb(bash: str) -> None:
    assert completed(bash, "raydistill verify --rep") == {"--repair"}
    assert "--dry-run" in completed(bash, "raydistill distill --")
    assert "--dry-run" not in completed(bash, "raydistill verify --")


def test_keys_are_those_that_the_verb_reads(bash: str) -> None:
    assert completed(bash, "raydistill distill guidance.sc") == {"guidance.scale="}
    assert completed(bash, "raydistill distill tune.sa") == set() != completed(bash, "raydistill tune tune.sa")


def test_words_of_a_key(bash: str) -> None:
    assert completed(bash, "raydistill distill method=") == set(registry.names("method"))
    begun = {name for name in registry.names("method") if name.startswith("mgd")}
    assert completed(bash, "raydistill distill ipc=1 method=mgd") == begun


def test_presets_after_their_option(bash: str) -> None:
    assert completed(bash, "raydistill distill --config ") == set(configuration.presets())
    assert completed(bash, "raydistill distill --config nette") == {"nette128"}
    assert "ipc=" in completed(bash, "raydistill distill --config nette128 ip")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script_and_help_says_where_it_goes(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    assert "complete -F _raydistill raydistill" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["completion", "--help"])
    assert SHELLS[shell] in capsys.readouterr().out


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "tcsh"]) == 2
    assert capsys.readouterr().err == "error: completion: 'tcsh' is not known; known: bash, zsh\n"

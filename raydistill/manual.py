"""What the command line says of itself: the verbs, the version, the keys that a verb reads, the nearest to a slip."""

from __future__ import annotations

import difflib
from pathlib import Path

import raydistill
from raydistill import config as configuration
from raydistill import registry
from raydistill.config import reads
from raydistill.errors import BadInput
from raydistill.tracking.origin import git_commit
from raydistill.verbs import NO_CONFIG, VERBS

START_FROM_NOTHING = ("distill", "tune")  # verbs whose quickstart needs no word
OPTIONS = ("--help", "--version", "--constraints")


def overview() -> str:
    verbs = "\n".join(f"  {n:<11} {v.summary}" for n, v in VERBS.items())
    *most, last = NO_CONFIG
    return (
        f"raydistill: distil a labelled image set into a few images per class, on Ray\n\nverbs:\n{verbs}\n\n"
        f"Each but {', '.join(most)} and {last} takes --config NAME|FILE and KEY=VALUE overrides.\n"
        "`raydistill help VERB` says what a verb takes, `raydistill VERB --help-all` every key that it reads,\n"
        "`raydistill --version` which code this is, `--constraints` which file lists the versions that were tested\n"
        "(pip install -c FILE ...). `raydistill distill` without a word runs the quickstart,\n"
        "`raydistill distill source.path=FOLDER` distils a folder of class folders.\n"
        "Kill it anywhere and run the same command again: finished work is kept."
    )


def version() -> str:
    """The version, and the commit in a checkout."""
    commit = git_commit()
    return f"raydistill {raydistill.__version__}" + (f" ({commit[:12]})" if commit else "")


def constraints() -> Path:
    """The file of the versions that were tested together, for pip's -c; it is part of the package."""
    return Path(raydistill.__file__).with_name("constraints.txt")


def check_verb(word: str) -> None:
    """Raises BadInput for what is no verb, with the one that is meant."""
    if word in VERBS:
        return
    if "=" in word and not word.startswith("-"):
        raise BadInput(f"{word!r} stands where a verb belongs; write raydistill distill {word}")
    alike = difflib.get_close_matches(word, [*VERBS, "help", *OPTIONS], n=1)
    hint = f"; did you mean {alike[0]!r}?" if alike else ""
    raise BadInput(f"unknown verb {word!r}{hint} (known: {', '.join(VERBS)})")


def check_words(name: str, words: int) -> None:
    """Raises BadInput for a verb that was told nothing and cannot know what is meant."""
    if not words and name not in START_FROM_NOTHING:
        example = VERBS[name].example.partition("\n")[0]
        raise BadInput(
            f"{name} must be told what to work on, for example: raydistill {example} (raydistill help {name})"
        )


def methods() -> str:
    return "\n".join(f"  {n:<12} {registry.get('method', n).summary}" for n in registry.names("method"))


def keys(name: str, config: configuration.Config) -> str:
    """For --help-all: the methods, and every key that the verb reads with its value in this configuration."""
    listed = configuration.describe(config, lambda key: reads.reads(name, key, config))
    return f"methods:\n{methods()}\n\nkeys of {name}, as they would be read:\n{listed}"

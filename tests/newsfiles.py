"""Which files of a run only tell what goes on, and are read back by nothing."""

from __future__ import annotations

from pathlib import PurePath

from raydistill.results import events, news


def is_news(path: PurePath) -> bool:
    names = (news.NAME, news.PAGE, events.PATTERN)
    return any(path.match(name) or path.match(f"{name}~") for name in names)

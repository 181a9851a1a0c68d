"""The contents of a page, from the headings that it turned out to have."""

from __future__ import annotations

import re

_CONTENTS = "<!-- contents -->"
_HEADING = re.compile(r'<h2 id="([^"]+)">([^<]+)</h2>')


def with_contents(html: str) -> str:
    """The page with links to its sections where its template wants them."""
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in _HEADING.findall(html))
    return html.replace(_CONTENTS, f'<nav class="contents" aria-label="Contents"><ul>{links}</ul></nav>', 1)

"""A thread as a web archive shows it, saved as text.

Each mail is a date, ``by NAME``, a line of links and ``Subject: ...``; leading white space is collapsed to one
column at most (a context line of a diff then has none at all), addresses are masked, mails may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from mmuspec.review.message import Line, Message

HEAD = re.compile(
    r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?[^\n]*\n\s*by (?P<author>[^\n]+)\n"
    r"(?:\s*\[(?:permalink|raw)\][^\n]*\n)*\s*Subject: (?P<subject>[^\n]+)\n",
    re.MULTILINE,
)


def is_archive(text: str) -> bool:
    """Whether `text` is such a page."""
    return HEAD.search(text[:20_000].replace("\r\n", "\n")) is not None


def messages_of_archive(text: str, path: str) -> Iterator[Message]:
    """The mails of the page, in its order."""
    text = text.replace("\r\n", "\n")
    heads = list(HEAD.finditer(text))
    ends = [*(head.start() for head in heads), len(text)]
    for head, (_, end) in zip(heads, pairwise(ends), strict=True):
        first = text.count("\n", 0, head.end()) + 1
        rows = text[head.end() : end].split("\n")
        body = tuple(Line(number, row) for number, row in enumerate(rows, first))
        line = text.count("\n", 0, head.start()) + 1
        yield Message(path, line, head["subject"].strip(), head["author"].strip(), body, flattened=True)

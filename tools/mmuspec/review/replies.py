"""What was said of a patch in replies, tied to the statement that it was said of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from mmuspec.document import Statement
from mmuspec.review.message import Line, Message
from mmuspec.text import fold

QUOTE = re.compile(r"\s*((?:>\s?)*)(.*)$")
ATTRIBUTION = re.compile(
    r"(?:On|Am|Le|El) .*?,? (?P<author>[^,<>]+?)(?: <[^>]*>| \[[^\]]*\])? (?:wrote|writes):$"
)
DIFF_MARKS = ("+", "-")
FILE_MARKS = ("+++ ", "--- ", "--")
SIGNATURE = "--"
# How many words at the end of a quote tell which sentence it ends in; fewer, down to the least, if none has them.
TELLING_WORDS = 8
LEAST_WORDS = 3


@dataclass(frozen=True, slots=True)
class Remark:
    """`text` was said below the diff lines `quote`. `answer`: to another remark, not to the patch itself."""

    author: str
    quote: tuple[str, ...]
    text: str
    line: int
    answer: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    depth: int
    text: str
    number: int


def remarks(reply: Message) -> Iterator[Remark]:
    """Every remark of a reply, and of the replies that it quotes, that stands below quoted lines of a diff."""
    authors = {0: reply.author}
    about: dict[int, tuple[str, ...]] = {}
    for depth, group in groupby(_rows(reply.body), key=lambda row: row.depth):
        rows = list(group)
        for row in rows:
            if found := ATTRIBUTION.match(row.text):
                authors[depth + 1] = found["author"].strip()
        said = [row for row in rows if not ATTRIBUTION.match(row.text)]
        quote = tuple(row.text for row in said if _is_diff(row.text))
        if quote:
            about = {depth: quote}
        elif said and depth + 1 in about:
            text = fold(" ".join(row.text for row in said))
            yield Remark(authors.get(depth, ""), about[depth + 1], text, said[0].number, depth + 2 in about)
            about[depth] = about[depth + 1]


def statement_quoted(remark: Remark, statements: Sequence[Statement]) -> Statement | None:
    """The statement that the quote of a remark ends in."""
    quoted = fold(" ".join(line[1:] for line in remark.quote if line.startswith(DIFF_MARKS[0])))
    words = quoted.split()
    for count in range(min(TELLING_WORDS, len(words)), LEAST_WORDS - 1, -1):
        tail = " ".join(words[-count:])
        found = [statement for statement in statements if tail in statement.text]
        if found:
            return found[-1]
    return None


def _rows(body: Iterable[Line]) -> Iterator[_Row]:
    for line in body:
        found = QUOTE.match(line.text)
        assert found is not None
        depth, text = found[1].count(">"), found[2].strip()
        if depth == 0 and text == SIGNATURE:
            return
        if text:
            yield _Row(depth, text, line.number)


def _is_diff(text: str) -> bool:
    return text.startswith(DIFF_MARKS) and not text.startswith(FILE_MARKS)

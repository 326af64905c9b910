"""A mail, or whatever else a diff arrives in: its subject, its author, and numbered lines of text."""

from __future__ import annotations

import re
from dataclasses import dataclass

TAG = re.compile(r"\[([^\]]*\bPATCH\b[^\]]*)\]", re.IGNORECASE)
VERSION = re.compile(r"\bv(\d{1,3})\b", re.IGNORECASE)
PLACE = re.compile(r"\b(\d{1,4})/(\d{1,4})\b")
REPLY = re.compile(r"\s*(?:re|aw|sv|fwd?|antw)(?:\[\d+\])?\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text without its line end, and the line of the file that it stands on, from 1."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """One mail of a file. A bare diff is one without a subject; `thread` is empty if nothing tells.

    `flattened` says that leading white space was lost on the way, as in what a web archive shows.
    `complaints` are what of the mail could not be read, with the lines that is about.
    """

    path: str
    line: int
    subject: str
    author: str
    body: tuple[Line, ...]
    thread: str = ""
    flattened: bool = False
    complaints: tuple[Line, ...] = ()

    @property
    def is_reply(self) -> bool:
        """Whether it answers another mail; a diff in it is a suggestion, not a patch of the series."""
        return bool(REPLY.match(self.subject))

    @property
    def title(self) -> str:
        """The subject without ``Re:`` and without its tag."""
        return TAG.sub("", self._without_reply(), count=1).strip()

    @property
    def version(self) -> int:
        """Of the series; the first one has no number."""
        found = VERSION.search(self._tag())
        return int(found[1]) if found else 1

    @property
    def number(self) -> int | None:
        """Its place in the series, 0 for the cover letter; None for a patch on its own."""
        found = PLACE.search(self._tag())
        return int(found[1]) if found else None

    @property
    def total(self) -> int | None:
        """How many patches the series says it has."""
        found = PLACE.search(self._tag())
        return int(found[2]) if found else None

    def _tag(self) -> str:
        found = TAG.search(self.subject)
        return found[1] if found else ""

    def _without_reply(self) -> str:
        subject = self.subject
        while found := REPLY.match(subject):
            subject = subject[found.end() :]
        return subject

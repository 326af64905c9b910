"""The pictures of a report: which of those that tests attached are shown with a statement, within what room.

Policy. A test with several cases shows the pictures of one of them. A statement shows at most `MOST`, those made
for it before those that were recorded. All together stay below `ROOM`; who comes later in the document goes without.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from mmuspec.attachments import Attachment
from mmuspec.report.anchors import Anchors
from mmuspec.report.families import families
from mmuspec.results import Attached, Results, StatementResult
from mmuspec.version import version_key

MOST: Final = 3
ROOM: Final = 1_200_000
"""Characters of HTML."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture; `anchor` is its place in the page, `address` all of it in a form that an image can have."""

    anchor: str
    name: str
    text: str
    address: str
    test: str


class Gallery:
    """Gives out the pictures of statements; the same one to several statements as one."""

    def __init__(self, results: Results | None, anchors: Anchors) -> None:
        self.anchors = anchors
        self.attachments: dict[str, Attachment] = (
            {each.id: each for each in results.attachments} if results else {}
        )
        self.given: dict[str, Picture] = {}
        self.left_out: set[str] = set()
        self.room = ROOM

    def of(self, shown: StatementResult | None) -> tuple[Picture, ...]:
        """The pictures of one statement; asked for in the order of the document."""
        if shown is None:
            return ()
        passed = {test.nodeid for test in shown.tests if test.outcome == "passed"}
        live = {each.where for each in shown.evidence if each.tier == "live"}
        attached = [
            each for each in shown.pictures if each.nodeid in passed and each.attachment in self.attachments
        ]
        names = {each.attachment: self.attachments[each.attachment].name for each in attached}
        attached.sort(key=lambda each: (each.nodeid in live, each.nodeid, names[each.attachment]))
        return tuple(self._given(one_of_each(attached)))

    def _given(self, shown: Iterable[Attached]) -> Iterator[Picture]:
        for each in shown:
            if each.attachment not in self.given:
                self._give(each)
            if each.attachment in self.given:
                yield self.given[each.attachment]

    def _give(self, shown: Attached) -> None:
        attachment = self.attachments[shown.attachment]
        content = base64.b64encode(attachment.content).decode()
        size = len(content) + len(attachment.text) + 2 * len(attachment.name)
        if size > self.room:
            self.left_out.add(shown.attachment)
            return
        self.room -= size
        self.given[shown.attachment] = Picture(
            self.anchors.give(f"picture:{len(self.given) + 1}"),
            attachment.name,
            attachment.text,
            f"data:{attachment.media_type};base64,{content}",
            shown.nodeid,
        )

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All that were given out, in order."""
        return tuple(self.given.values())


def one_of_each(shown: Iterable[Attached]) -> list[Attached]:
    """The pictures of one case of each test: the case with the most of them, among equals the newest release."""
    by_test: dict[str, list[Attached]] = {}
    for each in shown:
        by_test.setdefault(each.nodeid, []).append(each)
    chosen: list[Attached] = []
    for family in families(by_test):
        case = max(family.members, key=lambda nodeid: (len(by_test[nodeid]), version_key(nodeid[:-1])))
        chosen += by_test[case]
    return chosen[:MOST]

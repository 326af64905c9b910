"""What belongs together: the patches of a series in order, the missing ones, the replies to them.

===========================  =================================================================
a message                    is
===========================  =================================================================
a reply, diff in it or not   a reply: no patch, even if it says how it could be done better
has a diff                   a patch
is number 0 of its series    the cover letter
has a number, but no diff    an empty patch; it is said, and not counted as missing
of an older version          superseded, if the input has a newer version of the series
===========================  =================================================================

Patches are taken thread by thread as they come, in a thread by their numbers, else in the order given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mmuspec.review.diffs import FileDiff, file_diffs
from mmuspec.review.message import Message

SUBSYSTEM = re.compile(r"\S[^:\s]*(?: [^:\s]+){0,2}: \S")
SHORTLOG = re.compile(r"\S.* \((\d+)\):$")


@dataclass(frozen=True, slots=True)
class Patch:
    """A message with a diff in it."""

    message: Message
    diffs: tuple[FileDiff, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """A patch that the series says it has. `title` is what the cover letter calls it, if it does."""

    number: int
    total: int
    title: str = ""


@dataclass(slots=True)
class Series:
    """Everything that was given, told apart."""

    patches: list[Patch] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    replies: list[Message] = field(default_factory=list)
    superseded: list[Message] = field(default_factory=list)
    unread: list[Message] = field(default_factory=list)

    def lacks_before(self, patch: Patch) -> bool:
        """Whether a patch that comes before this one in its series is not here."""
        number = patch.message.number
        return number is not None and any(missing.number < number for missing in self.missing)


def gather(messages: Iterable[Message]) -> Series:
    """Tell patches from replies, and put the patches in order."""
    series = Series()
    patches: list[Patch] = []
    covers: list[Message] = []
    empty: list[Message] = []
    for message in messages:
        if message.complaints:
            series.unread.append(message)
        if message.is_reply:
            series.replies.append(message)
        elif diffs := tuple(file_diffs(message.body)):
            patches.append(Patch(message, diffs))
        elif message.number == 0:
            covers.append(message)
        elif message.number is not None:
            empty.append(message)
    newest = max((patch.message.version for patch in patches), default=1)
    series.superseded = [each.message for each in patches if _is_older(each.message, newest)]
    current = [each for each in patches if not _is_older(each.message, newest)]
    for group in _groups(current):
        group = _without_copies(sorted(group, key=lambda each: _place(each.message)))
        series.patches += group
        series.missing += _missing(group, covers, empty, newest)
    return series


def _is_older(message: Message, newest: int) -> bool:
    return message.number is not None and message.version < newest


def _place(message: Message) -> int:
    return message.number or 0


def _groups(patches: Sequence[Patch]) -> list[list[Patch]]:
    groups: dict[tuple[str, int], list[Patch]] = {}
    for patch in patches:
        message = patch.message
        thread = message.thread if message.number is not None else ""
        groups.setdefault((thread, message.total or 0), []).append(patch)
    if len({total for _, total in groups}) == 1:
        # Patches sent one by one, or saved without their threads, are still one series.
        merged = [patch for group in groups.values() for patch in group]
        numbers = [patch.message.number for patch in merged]
        if len(set(numbers)) == len(numbers):
            return [merged]
    return list(groups.values())


def _without_copies(patches: Sequence[Patch]) -> list[Patch]:
    """The same mail may have come by two lists."""
    kept: dict[tuple[int | None, str, tuple[str, ...]], Patch] = {}
    for patch in patches:
        text = tuple(line.text for line in patch.message.body)
        kept.setdefault((patch.message.number, patch.message.subject, text), patch)
    return list(kept.values())


def _missing(
    group: Sequence[Patch], covers: Sequence[Message], empty: Sequence[Message], version: int
) -> list[Missing]:
    totals = [patch.message.total for patch in group if patch.message.total]
    if not totals:
        return []
    total = max(totals)
    here = {message.number for message in (*(patch.message for patch in group), *empty)}
    cover = next((c for c in covers if c.total == total and c.version == version), None)
    titles = _titles(cover, total) if cover else []
    return [
        Missing(number, total, titles[number - 1] if titles else "")
        for number in range(1, total + 1)
        if number not in here
    ]


def _titles(cover: Message, total: int) -> list[str]:
    """The titles that the cover letter's short log lists; none if they cannot be told apart."""
    titles: list[str] = []
    counting = False
    for line in cover.body:
        text = line.text.strip()
        if not counting:
            counting = SHORTLOG.match(text) is not None
        elif not text:
            break
        elif SUBSYSTEM.match(text) or not titles:
            titles.append(text)
        else:
            titles[-1] += f" {text}"
    return titles if len(titles) == total else []

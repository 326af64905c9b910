"""The report as plain text for a mail: what is wrong in the document, first; 72 columns, nothing but ASCII of
our own, no line that a mail program or git-am would take for something else."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from mmuspec.report.build import Report
from mmuspec.report.dossier import Dossier
from mmuspec.report.marks import MARKS
from mmuspec.status import Status
from mmuspec.text import fold
from mmuspec.visible import visible

WIDTH: Final = 72
LISTED: Final = 30
"""Statements under one heading; more of them are counted."""
TITLE: Final = 20


def text(report: Report) -> str:
    """The whole text."""
    return "\n".join(line.rstrip() for line in _lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from _wrapped(report.source.title, "")
    yield "=" * min(WIDTH, max(4, len(fold(visible(report.source.title)))))
    yield ""
    yield from _wrapped(_about(report), "")
    for notice in report.notices:
        yield ""
        yield from _wrapped(f"Note: {notice}", "")
    yield ""
    for status in Status:
        counted = f"{report.totals[status]:5} {status.value:<10} "
        yield from _wrapped(MARKS[status].meaning, counted, " " * len(counted))
    yield from _listed("Wrong in the document", report.wrong, why=True)
    yield from _changed(report)
    yield from _listed("Tested, but nothing shows that the tests can fail", report.having(Status.TESTED))
    yield from _listed("Without a passing test", report.having(Status.UNCOVERED))
    yield from _gaps(report)
    yield from _sections(report)


def _about(report: Report) -> str:
    release = f"Linux {report.source.release}, " if report.source.release else ""
    kernels = f"; kernels {', '.join(report.kernels)}" if report.kernels else ""
    return (
        f"{release}{report.source.path}, sha256 {report.source.sha256[:12]}{kernels}. "
        f"{len(report.dossiers)} statements, {report.totals[Status.PROVEN]} of them proven."
    )


def _heading(title: str, count: int | None = None) -> Iterator[str]:
    words = title if count is None else f"{title} ({count})"
    yield ""
    yield words
    yield "-" * max(4, len(words))


def _listed(title: str, dossiers: Sequence[Dossier], *, why: bool = False) -> Iterator[str]:
    if not dossiers:
        return
    yield from _heading(title, len(dossiers))
    for known in dossiers[:LISTED]:
        yield from _wrapped(f"{_place(known)}: {known.id}", "* ", "  ")
        if why:
            yield from _wrapped(
                f'"{known.text}"' if known.text else f"claim: {known.claim or 'none yet'}", "    "
            )
            yield from _wrapped(known.why or "", "    ")
            for test in known.tests:
                if test.outcome == "failed":
                    yield from _wrapped(f"failed: {test.nodeid}", "    ")
    if len(dossiers) > LISTED:
        yield f"  and {len(dossiers) - LISTED} more"


def _place(known: Dossier) -> str:
    lines = f"line {known.line}" if known.line == known.end_line else f"lines {known.line}-{known.end_line}"
    said = known.status.value if known.status is Status.FAILING else known.verdict and known.verdict.value
    return f"{lines}, {said or 'no verdict'}"


def _changed(report: Report) -> Iterator[str]:
    if report.changes is None:
        return
    yield from _heading("Changed since the last report", len(report.changes))
    for change in report.changes[:LISTED]:
        yield from _wrapped(f"{change.kind}, {change.status}: {change.id}", "* ", "  ")
    if len(report.changes) > LISTED:
        yield f"  and {len(report.changes) - LISTED} more"


def _gaps(report: Report) -> Iterator[str]:
    if report.gaps:
        yield from _heading("What the document does not say", len(report.gaps))
    for gap in report.gaps:
        yield from _wrapped(f"{gap.name}: {gap.says}", "* ", "  ")


def _sections(report: Report) -> Iterator[str]:
    yield from _heading("Sections")
    yield f"{'':{TITLE}} {'all':>4}" + "".join(f" {status.value}" for status in Status)
    for chapter in report.chapters:
        title = fold(visible(chapter.title))
        title = title if len(title) <= TITLE else title[: TITLE - 3] + "..."
        counts = "".join(f" {chapter.totals[status] or '.':>{len(status.value)}}" for status in Status)
        yield f"{title:{TITLE}} {len(chapter.dossiers):>4}{counts}"


def _wrapped(words: str, indent: str, following: str | None = None) -> list[str]:
    """Ids and paths stay whole, whatever their length: they are there to be copied."""
    return textwrap.wrap(
        fold(visible(words)),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if following is None else following,
        break_long_words=False,
        break_on_hyphens=False,
    )

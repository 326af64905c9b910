"""A run as a reader sees it: its inline markup turned into styles, its statements told apart."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from mmuspec.outline import Run
from mmuspec.report.dossier import Dossier


class Style(StrEnum):
    """How words are set; the value is the HTML element for it."""

    PLAIN = ""
    CODE = "code"
    EMPHASIS = "em"
    STRONG = "strong"


# What stands before styled words, the longer first; a role (``:c:func:`name```) names code as a rule.
OPENERS = (("``", Style.CODE), ("**", Style.STRONG), ("*", Style.EMPHASIS), ("`", Style.CODE))


@dataclass(frozen=True, slots=True)
class Span:
    """Words next to each other that belong to one statement, or, with no dossier, to none.

    A `stranger` is a statement that the spec does not have.

    A statement may consist of several spans, the cells of a table row say: `first` and `last` tell which.
    """

    words: tuple[tuple[Style, str], ...]
    dossier: Dossier | None = None
    first: bool = True
    last: bool = True
    stranger: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """Characters `start` to `stop` of a run's raw text, which are (a part of) a statement."""

    start: int
    stop: int
    dossier: Dossier | None
    first: bool
    last: bool


def spans(run: Run, stretches: Iterable[Stretch]) -> tuple[Span, ...]:
    """The whole run in order: the stretches, and what lies between them."""
    return tuple(_spans(run, sorted(stretches, key=lambda stretch: stretch.start)))


def _spans(run: Run, stretches: Iterable[Stretch]) -> Iterator[Span]:
    styles, done = _styles(run), 0
    for stretch in stretches:
        if stretch.start > done:
            yield Span(_words(run, styles, done, stretch.start))
        words = _words(run, styles, stretch.start, stretch.stop)
        yield Span(words, stretch.dossier, stretch.first, stretch.last, stretch.dossier is None)
        done = stretch.stop
    if done < len(run.raw):
        yield Span(_words(run, styles, done, len(run.raw)))


def _words(run: Run, styles: list[Style], start: int, stop: int) -> tuple[tuple[Style, str], ...]:
    """The words between two places of the raw text, markup left out."""
    places = range(bisect_left(run.origin, start), bisect_left(run.origin, stop))
    return tuple(
        (style, "".join(run.plain[place] for place in group))
        for style, group in groupby(places, key=styles.__getitem__)
    )


def _styles(run: Run) -> list[Style]:
    """The style of each character of `run.plain`; markup before it opens a style or closes one."""
    found, style, behind = [], Style.PLAIN, 0
    for place in run.origin:
        markup = run.raw[behind:place]
        if markup:
            style = _opened(markup) if style is Style.PLAIN else Style.PLAIN
        found.append(style)
        behind = place + 1
    return found


def _opened(markup: str) -> Style:
    return next((style for opener, style in OPENERS if markup.endswith(opener)), Style.PLAIN)

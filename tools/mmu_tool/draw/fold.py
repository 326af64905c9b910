"""Which pages get a card of their own and which are folded with their like, so that a picture stays readable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .match import Change, Pair, Step
from .words import page_state

MOST_CARDS: Final = 10
"""Pages with a card of their own in one column."""
MOST_ALIKE: Final = 3
"""Of these, pages that are alike; one that is alone in being left over is shown too."""
MOST_STACKS: Final = 3
"""Cards for folded pages in one column; what is unlike all of them shares the last one."""


@dataclass(frozen=True)
class Stack:
    """Pages folded into one card."""

    key: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Column:
    """The pages of one level, in the order of the picture."""

    level: int
    singles: tuple[Pair, ...]
    stacks: tuple[Stack, ...]


def page_change(step: Step, pair: Pair) -> Change:
    """What became of a page as a whole."""
    if step.before is None or (pair.before and pair.after):
        return Change.NONE
    return Change.ADDED if pair.after else Change.REMOVED


def columns(step: Step) -> list[Column]:
    """The levels from the highest down."""
    by_level: dict[int, list[Pair]] = defaultdict(list)
    for pair in step.pairs:
        by_level[pair.page.role.level].append(pair)
    return [_column(step, level, by_level[level]) for level in sorted(by_level, reverse=True)]


def _column(step: Step, level: int, pairs: Sequence[Pair]) -> Column:
    if len(pairs) <= MOST_CARDS:
        return Column(level, tuple(pairs), ())
    groups: dict[tuple[object, ...], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[_likeness(step, pair)].append(pair)
    chosen: set[str] = set()
    for pair in sorted(_first_of_each(step, groups.values()), key=lambda pair: _rank(step, pair)):
        if len(chosen) < MOST_CARDS:
            chosen.add(pair.label)
    folded = [rest for group in groups.values() if (rest := [p for p in group if p.label not in chosen])]
    folded.sort(key=len, reverse=True)
    if len(folded) > MOST_STACKS:
        folded[MOST_STACKS - 1 :] = [[pair for group in folded[MOST_STACKS - 1 :] for pair in group]]
    return Column(
        level,
        tuple(pair for pair in pairs if pair.label in chosen),
        tuple(Stack(f"stack-{level}-{n}", tuple(group)) for n, group in enumerate(folded)),
    )


def _likeness(step: Step, pair: Pair) -> tuple[object, ...]:
    """Pages that agree in this may be folded into one card."""
    side = step.after if pair.after else step.before
    assert side is not None
    return (pair.page.role_word, page_change(step, pair), *page_state(pair.page, side.snapshot))


def _first_of_each(step: Step, groups: Iterable[list[Pair]]) -> list[Pair]:
    """A few of each group, those where something happened first."""
    few: list[Pair] = []
    for group in groups:
        ranked = sorted(group, key=lambda pair: _rank(step, pair))
        few += ranked if len(ranked) <= MOST_ALIKE + 1 else ranked[:MOST_ALIKE]
    return few


def _rank(step: Step, pair: Pair) -> tuple[int, int, str]:
    """What is told first: what changed, what is out of the ordinary, the rest in order."""
    side = step.after if pair.after else step.before
    assert side is not None
    changed = step.before is not None and not _alike(step, pair)
    ordinary = not page_state(pair.page, side.snapshot)
    return (0 if changed else 1 + ordinary, len(pair.label), pair.label)


def _alike(step: Step, pair: Pair) -> bool:
    """Nothing in the page changed."""
    if not (step.before and pair.before and pair.after):
        return False
    old = step.before.meanings(pair.before), page_state(pair.before, step.before.snapshot)
    return old == (step.after.meanings(pair.after), page_state(pair.after, step.after.snapshot))

"""From a step to its picture: a column for the vCPUs, one for each level, one for memory slots."""

from __future__ import annotations

from collections.abc import Iterator

from mmu_model.snapshot import Snapshot, SpteFormat

from .contexts import vcpu_cards
from .fold import Column, Stack, columns, page_change
from .match import Change, Pair, Step, by_label
from .picture import Card, Picture, Row
from .rows import Places, all_runs, page_rows, rest_rows
from .slots import slot_cards
from .words import MMU_NAMES, hexadecimal, page_state, role_words, wrapped

WORDS_WIDTH = 30
FEW_PARENTS = 3
STRONG = ("invalid", "obsolete", "unsync", "unsync_children")  # what sets a page apart from its like


def compose(step: Step, title: str) -> Picture:
    """All that is to be drawn."""
    levels = columns(step)
    places = _places(levels)
    headings = {0: "vCPUs"} | {n + 1: f"Level {column.level}" for n, column in enumerate(levels)}
    memory = len(levels) + 1
    cards = list(vcpu_cards(step, places))
    for number, column in enumerate(levels):
        cards += (_page_card(step, pair, places, number + 1) for pair in column.singles)
        cards += (_stack_card(step, stack, places, number + 1) for stack in column.stacks)
    if slots := list(slot_cards(step, memory)):
        headings[memory] = "Memory slots"
        cards += slots
    return Picture(
        title=title,
        facts=tuple(_facts(step)),
        headings=headings,
        cards=tuple(cards),
        compared_with=step.before.snapshot.name if step.before else None,
    )


def _places(levels: list[Column]) -> Places:
    stacks = {pair.label: stack.key for column in levels for stack in column.stacks for pair in stack.pairs}
    singles = {pair.label: pair.label for column in levels for pair in column.singles}
    return Places({**singles, **stacks}, frozenset(stacks.values()))


def _facts(step: Step) -> Iterator[Row]:
    """What is the VM's own, each with what it was if that is something else."""
    new = step.after.snapshot
    old = step.before.snapshot if step.before else new
    layout = " (EPT)" if any(page.spte_format is SpteFormat.EPT for page in new.pages) else ""
    yield Row(f"Linux {new.kernel}, {MMU_NAMES[new.mmu]}{layout}")
    for name, was, now in zip(_FACTS, _values(old), _values(new), strict=True):
        change = Change.NONE if was == now else Change.CHANGED
        yield Row(f"{name} {now}" if was == now else f"{name} {was} → {now}", change)


_FACTS = ("shadow pages", "mmu_valid_gen", "memslot generation", "indirect_shadow_pages")


def _values(snapshot: Snapshot) -> tuple[str, ...]:
    return (
        str(len(snapshot.pages)),
        str(snapshot.mmu_valid_gen),
        "/".join(map(str, snapshot.memslot_generation[:2])),
        str(snapshot.indirect_shadow_pages),
    )


def _page_card(step: Step, pair: Pair, places: Places, column: int) -> Card:
    return Card(
        key=pair.label,
        column=column,
        title=f"{pair.label}  gfn {hexadecimal(pair.page.gfn)}",
        words=wrapped(role_words(pair.page), WORDS_WIDTH),
        rows=(*_state_rows(step, pair), *_parent_rows(step, pair), *page_rows(step, pair, places)),
        change=page_change(step, pair),
    )


def _state_rows(step: Step, pair: Pair) -> Iterator[Row]:
    """Flags and counts of the page; a change of one says what it was."""
    if not (step.before and pair.before and pair.after):
        side = step.after if pair.after else step.before
        assert side is not None
        state = page_state(pair.page, side.snapshot)
        yield from (Row(text, strong=name in STRONG) for name, text in state.items())
        return
    old = page_state(pair.before, step.before.snapshot)
    new = page_state(pair.after, step.after.snapshot)
    for name in {**old, **new}:
        was, now = old.get(name), new.get(name)
        if now is None:
            yield Row(str(was), Change.REMOVED)
        elif was is None:
            yield Row(now, Change.ADDED)
        elif was == now:
            yield Row(now, strong=name in STRONG)
        else:
            yield Row(f"{now}, was {was.removeprefix(name).strip()}", Change.CHANGED)


def _parent_rows(step: Step, pair: Pair) -> Iterator[Row]:
    """The entries that the page says lead to it."""
    name = "parent_ptes" if pair.page.parent_ptes is not None else "ptep"
    old = step.before.parents(pair.before) if step.before and pair.before else frozenset()
    new = step.after.parents(pair.after) if pair.after else frozenset()
    compared = bool(step.before and pair.before and pair.after)
    told = sorted(new if compared or pair.after else old, key=by_label)
    if told or (compared and old != new):
        text = ", ".join(f"{label}[{index}]" for label, index in told[:FEW_PARENTS]) or "none"
        text += f" and {len(told) - FEW_PARENTS} more" if len(told) > FEW_PARENTS else ""
        change = Change.CHANGED if compared and old != new else Change.NONE
        was = f" (was {len(old)})" if change is Change.CHANGED and len(old) != len(new) else ""
        yield Row(f"{name}: {text}{was}", change)


def _stack_card(step: Step, stack: Stack, places: Places, column: int) -> Card:
    pages = [pair.page for pair in stack.pairs]
    runs = [run for pair in stack.pairs for run in all_runs(step, pair, places)]
    changes = {page_change(step, pair) for pair in stack.pairs}
    alike = len({page.role_word for page in pages}) == 1
    gfns = sorted(page.gfn for page in pages)
    sides = {pair.label: step.after if pair.after else step.before for pair in stack.pairs}
    states = {
        name for p in stack.pairs if (side := sides[p.label]) for name in page_state(p.page, side.snapshot)
    }
    rows = list(rest_rows(runs)) or [Row("… no sptes")]
    return Card(
        key=stack.key,
        column=column,
        title=f"{len(pages)} {'more such pages' if alike else 'more pages'}",
        words=(
            f"gfn {hexadecimal(gfns[0], gfns[-1])}",
            *wrapped(role_words(pages[0]) if alike else ["of several roles"], WORDS_WIDTH),
        ),
        rows=(*(Row(state, strong=True) for state in sorted(states)), *rows),
        change=changes.pop() if len(changes) == 1 else Change.CHANGED,
        pages=len(pages),
    )

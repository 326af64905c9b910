"""The cards of vCPUs: which roots they have loaded and which they remember."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mmu_model.snapshot import LoadedRoot, MmuContext, PageId, Vcpu

from .match import Change, Side, Step
from .picture import Card, Link, Row
from .rows import Places
from .words import hexadecimal, vcpu_words, wrapped

MOST_VCPUS = 4
WIDTH = 24


def vcpu_cards(step: Step, places: Places) -> Iterator[Card]:
    """A card for each of the first vCPUs, and one for all others."""
    new = step.after.snapshot.vcpus
    old = step.before.snapshot.vcpus if step.before else ()
    for number, vcpu in enumerate(new[:MOST_VCPUS]):
        former = old[number] if number < len(old) else None
        yield Card(
            key=f"vcpu-{number}",
            column=0,
            title=f"vCPU {number}",
            words=wrapped(vcpu_words(vcpu), WIDTH),
            rows=tuple(_rows(step, former, vcpu, places)),
            change=Change.ADDED if step.before and former is None else Change.NONE,
        )
    if rest := new[MOST_VCPUS:]:
        yield Card("vcpu-rest", 0, f"{len(rest)} more vCPUs", (), ())


def _rows(step: Step, old: Vcpu | None, new: Vcpu, places: Places) -> Iterator[Row]:
    for name in ("root_mmu", "guest_mmu"):
        before = _roots(getattr(old, name), step.before) if old and step.before else {}
        after = _roots(getattr(new, name), step.after)
        used, was_used = new.mmu == name, old is not None and old.mmu == name
        if not (after or before or used):
            continue
        compared = old is not None
        yield Row(
            f"{name}{', in use' if used else ''}",
            Change.CHANGED if compared and used != was_used else Change.NONE,
        )
        for place in {**before, **after}:
            yield _root_row(place, before.get(place), after.get(place), places, compared=compared)


def _root_row(
    place: str,
    old: tuple[str, str | None] | None,
    new: tuple[str, str | None] | None,
    places: Places,
    *,
    compared: bool,
) -> Row:
    change = Change.NONE
    if compared and old != new:
        change = Change.ADDED if old is None else Change.REMOVED if new is None else Change.CHANGED
    shown = new or old
    assert shown is not None
    words, target = shown
    key = places.of.get(target) if target else None
    text = f"{place}{words}" + (f" → {places.name(key)}" if key else "")
    if change is Change.CHANGED and old:
        text += f", was{old[0]} {old[1] or ''}".rstrip()
    return Row(text, change, (Link(key),) if key else ())


def _roots(context: MmuContext, side: Side) -> Mapping[str, tuple[str, str | None]]:
    """Words and the page's label by the place of the root: ``root``, ``pae_root[n]``, ``prev_roots[n]``."""
    found = {}
    if context.root.kind != "none":
        found["root"] = _root(context.root, side)
    found |= {
        f"pae_root[{n}]": ("", _label(page, side))
        for n, page in enumerate(context.pae_root)
        if page is not None
    }
    found |= {f"prev_roots[{n}]": _root(root, side) for n, root in _remembered(context.prev_roots)}
    return found


def _remembered(roots: Sequence[LoadedRoot]) -> Iterator[tuple[int, LoadedRoot]]:
    return ((n, root) for n, root in enumerate(roots) if root.kind != "none")


KINDS = {"pae": ": pae_root", "special": ": pml4_root", "dummy": ": the zero page"}


def _root(root: LoadedRoot, side: Side) -> tuple[str, str | None]:
    pgd = "" if root.pgd is None else f" pgd {hexadecimal(root.pgd)}"
    return pgd + KINDS.get(root.kind, ""), _label(root.page, side)


def _label(page: PageId | None, side: Side) -> str | None:
    return None if page is None else side.labels.get(page, "?")

"""How two snapshots differ, for people: page by page, entry by entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from .state import Entry, PageId, ShadowPage, Snapshot

ELSEWHERE = ("name", "kernel", "mmu", "pages")  # of snapshots: what is being compared; what _page compares


def differences(one: Snapshot, two: Snapshot) -> list[str]:
    """A line, ``WHERE: first / second``, for each difference between two canonical snapshots.

    Pages are matched by id: canonical ids follow the tables, so the first line is where the states part.
    """
    names = [name for name in _fields(one) if name not in ELSEWHERE]
    lines = [line for name in names for line in _value(name, getattr(one, name), getattr(two, name))]
    first, second = one.by_id(), two.by_id()
    for page_id in sorted({*first, *second}):
        lines += _page(page_id, first.get(page_id), second.get(page_id))
    return lines


def _fields(value: Any) -> Iterator[str]:
    return (field.name for field in dataclasses.fields(value))


def _value(where: str, one: Any, two: Any) -> Iterator[str]:
    """Goes into dataclasses and tuples down to the values that differ."""
    if one == two:
        return
    if dataclasses.is_dataclass(one) and type(one) is type(two):
        for name in _fields(one):
            yield from _value(f"{where}.{name}", getattr(one, name), getattr(two, name))
    elif isinstance(one, tuple) and isinstance(two, tuple) and any(map(dataclasses.is_dataclass, one + two)):
        for i, (left, right) in enumerate(zip_longest(one, two)):
            yield from _value(f"{where}[{i}]", left, right)
    else:
        yield f"{where}: {_spell(one)} / {_spell(two)}"


def _page(page_id: PageId, one: ShadowPage | None, two: ShadowPage | None) -> Iterator[str]:
    if one is None or two is None:
        only = one or two
        if only is not None:
            yield f"{_title(only)}: only in the {'first' if two is None else 'second'}"
        return
    where = _title(one)
    if one.role_word != two.role_word:
        yield f"{where} role: {one.role} / {two.role}"
    for name in _fields(one):
        if name not in ("id", "role_word", "entries"):
            yield from _value(f"{where} {name}", getattr(one, name), getattr(two, name))
    yield from _entries(where, one, two)


def _entries(where: str, one: ShadowPage, two: ShadowPage) -> Iterator[str]:
    first = {entry.index: entry for entry in one.entries}
    second = {entry.index: entry for entry in two.entries}
    for index in sorted({*first, *second}):
        left, right = first.get(index), second.get(index)
        if left != right:
            yield f"{where} spt[{index}]: {_entry(left, one)} / {_entry(right, two)}"


def _entry(entry: Entry | None, page: ShadowPage) -> str:
    if entry is None:
        return "empty"
    translation = entry.shadowed_translation
    return str(page.spte(entry)) + ("" if translation is None else f" = {translation:#x}")


def _title(page: ShadowPage) -> str:
    return f"page {page.id} (gfn {page.gfn:#x}, {page.role})"


def _spell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 9:
        return hex(value)
    if dataclasses.is_dataclass(value):
        inside = ", ".join(f"{name} {_spell(getattr(value, name))}" for name in _fields(value))
        return f"{type(value).__name__}({inside})"
    return str(value)

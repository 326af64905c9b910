"""The memslots of a scenario: those it begins with, and what its steps make of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .layout import MACHINE_SIZE, PAGE
from .node import Node
from .schema import SetSlot, Slot, Step

MAX_BASE = 1 << 39
MAX_SIZE = 1 << 30
MAX_NUMBER = 31


class Slots:
    """All slots so far, as the last line that speaks of one has it."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self._deleted: set[int] = set()

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def read(self, node: Node) -> None:
        """Those at the start."""
        for key, value in node.any_map().items():
            if not key.isdecimal() or not 1 <= int(key) <= MAX_NUMBER:
                value.fail(f"{key!r} is no number of a memslot from 1 to {MAX_NUMBER}")
            if int(key) in self._slots:
                value.fail(f"slot {int(key)} a second time")
            self._put(int(key), value, None)

    def of(self, node: Node) -> Slot:
        """The slot of that number; what has been deleted counts."""
        number = node.number()
        if number not in self._slots:
            node.fail(f"no slot {number}")
        return self._slots[number]

    def change(self, node: Node) -> Step:
        """A step that adds a slot, or changes one."""
        members = node.any_map()
        if "id" not in members:
            node.fail("'id' is missing")
        number = members["id"].number(1, MAX_NUMBER)
        old = self._slots.get(number)
        new = self._put(number, node, old)
        if old and number not in self._deleted and old.base != new.base and _flags(old) != _flags(new):
            node.fail(f"slot {number} can be moved or get other flags, one after the other")
        self._deleted.discard(number)
        return SetSlot(node.line, new)

    def delete(self, node: Node) -> Step:
        """A step that deletes a slot."""
        slot = self.of(node)
        self._deleted.add(slot.id)
        return SetSlot(node.line, replace(slot, size=0))

    def _put(self, number: int, node: Node, old: Slot | None) -> Slot:
        """A new slot, or ``old`` with what ``node`` says of it."""
        flags = ("dirty_log", "readonly", "smm") if old else ("large", "dirty_log", "readonly", "smm")
        members = node.map(
            required=() if old else ("base", "size"),
            optional=(*flags, "id", *(("base", "size") if old else ("shares",))),
        )
        slot = old or Slot(node.line, number, 0, 0)
        slot = replace(slot, line=node.line, **{n: members[n].flag() for n in flags if n in members})
        if "base" in members:
            slot = replace(slot, base=members["base"].aligned(PAGE, MAX_BASE))
        if "size" in members:
            slot = replace(slot, size=members["size"].aligned(PAGE, MAX_SIZE))
        if "shares" in members:
            slot = replace(slot, shares=self.of(members["shares"]).id)
        self._check(slot, node)
        self._slots[number] = slot
        return slot

    def _check(self, slot: Slot, node: Node) -> None:
        if slot.size == 0:
            node.fail(f"slot {slot.id} is empty")
        if slot.base < MACHINE_SIZE:
            node.fail(f"slot {slot.id} begins below {MACHINE_SIZE:#x}; that part is the interpreter's")
        for other in self:
            if (
                other.id not in (slot.id, *self._deleted)
                and other.base < slot.base + slot.size
                and slot.base < other.base + other.size
            ):
                node.fail(f"slot {slot.id} overlaps slot {other.id}")


def _flags(slot: Slot) -> tuple[bool, bool]:
    return slot.dirty_log, slot.readonly

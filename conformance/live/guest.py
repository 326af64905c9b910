"""The guest's own page tables at each snapshot of a scenario.

Snapshots have nothing of guest memory. But a recording has the digest of the program that it was made with, and
the program says what lay in memory at first, what the guest writes, and where the snapshots are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from conformance.recorded import scenario_named
from mmu_model.scenario import HostOp, Op, Program, Record, compile_scenario
from mmu_model.scenario.layout import RECORD_SIZE, SMM_STEPS
from mmu_model.scenario.tables import FORMATS, FRAME, LARGE, PRESENT, Format, GuestTables

WIDTHS = {Op.WRITE: 0, Op.WRITE_1: 1, Op.WRITE_4: 4, Op.USER_WRITE: 0}


@dataclass(frozen=True, slots=True)
class Reach:
    """Where the guest's tables lead an address: the first byte of a page, its size, and what all entries on the
    way grant, as in role.access."""

    base: int
    size: int
    access: int

    def of(self, address: int) -> int:
        """Where to in the page."""
        return self.base + address % self.size


@dataclass
class Memory:
    """Guest-physical memory as far as it is known, by words of 8 bytes, and the format of the tables in it. ``large``
    are the parts of what lies behind it, place and bytes, that have 2 MiB host pages."""

    words: dict[int, int]
    format: Format | None
    large: tuple[tuple[int, int], ...] = ()

    def read(self, address: int, width: int) -> int:
        """What lies at an address, in one word."""
        word = self.words.get(address & ~7, 0)
        return word >> 8 * (address & 7) & (1 << 8 * width) - 1

    def write(self, address: int, value: int, width: int) -> None:
        """Stores within one word."""
        shift, mask = 8 * (address & 7), (1 << 8 * width) - 1
        kept = self.words.get(address & ~7, 0) & ~(mask << shift)
        self.words[address & ~7] = kept | (value & mask) << shift

    def entry(self, table: int, index: int) -> int:
        """An entry of a table in the guest's format."""
        assert self.format is not None
        return self.read(table + index * self.format.entry, self.format.entry)

    def walk(self, table: int, address: int) -> Reach | None:
        """Where the tables lead an address; None if an entry on the way is not present."""
        assert self.format is not None
        access = 7
        for level, shift, bits in self.format.levels:
            entry = self.entry(table, address >> shift & (1 << bits) - 1)
            if not entry & PRESENT:
                return None
            if self.format.grants(level):
                access &= granted(entry)
            if level == 1 or self.is_large(level, entry):
                return Reach(entry & FRAME & -(1 << shift), 1 << shift, access)
            table = entry & FRAME
        raise AssertionError("no table at level 1")

    def host_level(self, place: int) -> int:
        """The level of the host page at a place, in pages: 1 or 2."""
        first = (place << 12) & -(1 << 21)
        return 1 + any(at <= first and first + (1 << 21) <= at + size for at, size in self.large)

    def is_large(self, level: int, entry: int) -> bool:
        """The entry maps a page above level 1."""
        assert self.format is not None
        return level > 1 and level in self.format.leaf_levels and bool(entry & LARGE)


def granted(entry: int) -> int:
    """What an entry of the guest grants, as in role.access: execution 1, writing 2, the user 4."""
    return int(not entry >> 63) | entry & 6


@cache
def program_of(name: str) -> Program:
    """A scenario of the project, compiled."""
    return compile_scenario(scenario_named(name))


@cache
def memories(name: str) -> dict[str, Memory]:
    """Guest memory at each snapshot of a scenario, by the snapshot's name."""
    replay = _Replay(name)
    return dict(replay.run(min(replay.records)))


class _Replay:
    """Goes through a program and does what changes the guest's tables.

    Where data goes that is written through nested tables is not looked at: they map all tables one to one.
    """

    def __init__(self, name: str) -> None:
        self.scenario, self.program = scenario_named(name), program_of(name)
        self.memory = Memory(dict(self.program.words), FORMATS.get(self.scenario.mode), self.program.large)
        self.records = {record.at: record for record in self.program.records}
        self.faults = {i for i, step in enumerate(self.scenario.walk()) if getattr(step, "fault", False)}
        self.cr3: int | None = self.program.registers.cr3 if self.scenario.mode.paging else None

    def run(self, at: int) -> Iterator[tuple[str, Memory]]:
        """The step list at an address, to its end."""
        while (record := self.records[at]).op not in (Op.END, Op.VMMCALL, Op.RSM):
            at += RECORD_SIZE
            outside = self.cr3
            if record.op is Op.HOST:
                yield from self.host(record)
            elif record.op is Op.CR3:
                self.cr3 = record.value
            elif record.op is Op.VMRUN:
                assert self.scenario.nested is not None
                self.cr3 = GuestTables(self.scenario).roots[self.scenario.nested.cr3]
                yield from self.run(record.value)
                self.cr3 = outside
            elif record.op in WIDTHS and record.step not in self.faults:
                self.store(record)

    def store(self, record: Record) -> None:
        width = WIDTHS[record.op] or (8 if self.scenario.mode.long and self.cr3 is not None else 4)
        to: int | None = record.address
        if self.cr3 is not None:
            reach = self.memory.walk(self.cr3, record.address)
            to = None if reach is None else reach.of(record.address)
        if to is not None:
            self.memory.write(to, record.value, width)

    def host(self, record: Record) -> Iterator[tuple[str, Memory]]:
        for call in self.program.host_calls[record.address : record.address + record.value]:
            if call.op is HostOp.SNAPSHOT:
                now = replace(self.memory, words=dict(self.memory.words))
                yield self.program.snapshots[call.args[0]], now
            elif call.op is HostOp.POKE:
                self.memory.write(*call.args)
            elif call.op is HostOp.SMI:
                outside, self.cr3 = self.cr3, None
                yield from self.run(self.memory.read(SMM_STEPS, 8))
                self.cr3 = outside

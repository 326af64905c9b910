"""From a scenario to what runs: the VM's registers and slots, initial guest memory, steps, host calls.

``Program.to_bytes`` is the form that is loaded into a real machine, all numbers 64 bits and little endian.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from .layout import (
    MACHINE_SIZE,
    MACHINE_SLOT,
    PAGE,
    RECORD_SIZE,
    SMM_STEPS,
    STEPS,
    STEPS_END,
    VMCB,
    Op,
)
from .registers import BITS, Registers, initial_registers
from .schema import (
    Access,
    DirtyLog,
    HostPages,
    InNested,
    InSmm,
    Invlpg,
    LoadCr3,
    Mode,
    Scenario,
    ScenarioError,
    SetBit,
    SetEntry,
    SetSlot,
    Slot,
    Step,
    TakeSnapshot,
)
from .tables import GuestTables

MAGIC = b"KVMSCN01"
VMCB_RIP = VMCB + 0x578  # APM Vol. 2, appendix B
SMM_SPACE = 1 << 16  # KVM_SET_USER_MEMORY_REGION: address space in the upper half of the slot's number
LARGE = 2 << 20

ACCESS_OPS = {
    ("read", False): Op.READ,
    ("read", True): Op.USER_READ,
    ("write", False): Op.WRITE,
    ("write", True): Op.USER_WRITE,
    ("fetch", False): Op.FETCH,
    ("fetch", True): Op.USER_FETCH,
}
SIZED_WRITES = {1: Op.WRITE_1, 4: Op.WRITE_4}
REGISTER_OPS = {"cr0": Op.CR0, "cr4": Op.CR4, "efer": Op.EFER}


class HostOp(IntEnum):
    """What userspace does between two steps of the guest."""

    SNAPSHOT = 0  # number
    SET_SLOT = 1  # slot | address space << 16, flags, address, size, place in the backing
    GET_DIRTY = 2  # slot, pages
    CLEAR_DIRTY = 3  # slot, first page, pages
    DROP = 4  # place in the backing, bytes
    PROTECT = 5  # place in the backing, bytes, writable
    POKE = 6  # place in the backing, value, bytes
    SMI = 7


@dataclass(frozen=True, slots=True)
class HostCall:
    """A host operation and its arguments, for the step of that number."""

    op: HostOp
    args: tuple[int, ...] = ()
    step: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a step list, at the guest-physical ``at`` once it has its place; ``step`` is the step's number
    in the scenario.

    With Op.HOST, ``address`` is the number of the first host call and ``value`` how many there are: what
    userspace does in a row, it does without letting the guest run in between.
    """

    op: Op
    address: int = 0
    value: int = 0
    step: int = 0
    at: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled scenario. ``backing`` is the size of the memory behind the VM in bytes, ``large`` its parts
    (place, bytes) that want 2 MiB host pages; ``words`` is what memory holds at the start, by place in the
    backing (places below 512 KiB are guest-physical addresses too). ``snapshots`` are the names in order.
    """

    mode: Mode
    registers: Registers
    maxphyaddr: int
    manual_dirty_log: bool
    nx_huge_pages: bool
    nested: bool
    smm: bool
    backing: int
    large: tuple[tuple[int, int], ...]
    slots: tuple[HostCall, ...]
    words: dict[int, int]
    records: tuple[Record, ...]
    host_calls: tuple[HostCall, ...]
    snapshots: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 of the compiled form, by which a recording knows its scenario."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self, more_words: dict[int, int] | None = None) -> bytes:
        """Magic, header, large parts, slots, words, host calls; ``more_words`` are added to memory."""
        words = self.words | (more_words or {})
        r = self.registers
        flags = (self.manual_dirty_log, self.nx_huge_pages, self.nested, self.smm)
        lengths = (len(self.large), len(self.slots), len(words), len(self.host_calls))
        mode = list(Mode).index(self.mode)
        header = (mode, r.cr0, r.cr3, r.cr4, r.efer, self.maxphyaddr, *flags, self.backing, *lengths)
        parts = [header, *self.large, *(_row(call) for call in self.slots), *sorted(words.items())]
        parts += [_row(call) for call in self.host_calls]
        numbers = [int(number) for part in parts for number in part]
        return MAGIC + struct.pack(f"<{len(numbers)}Q", *numbers)


def _row(call: HostCall) -> tuple[int, ...]:
    return (call.op, call.step, *call.args, *(0 for _ in range(5 - len(call.args))))


def compile_scenario(scenario: Scenario) -> Program:
    """The program of a scenario. Raises ScenarioError for what its page tables or its length do not allow."""
    return _Compiler(scenario).program()


class _Compiler:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.tables = GuestTables(scenario) if scenario.mode.paging else None
        self.entry_size = self.tables.format.entry if self.tables else 0
        cr3 = self.tables.roots[scenario.tables[0].name] if self.tables else 0
        self.registers = initial_registers(scenario, cr3)
        self.place: dict[int, int] = {MACHINE_SLOT: 0}
        self.backing = MACHINE_SIZE
        self.large: list[tuple[int, int]] = []
        self.calls: list[HostCall] = []
        self.snapshots: list[str] = []
        self.records: list[Record] = []
        self.lists_end = STEPS_END
        self.number = -1

    def program(self) -> Program:
        scenario, at_start = self.scenario, self.registers
        entries = dict(self.tables.entries) if self.tables else {}
        machine = Slot(1, MACHINE_SLOT, 0, MACHINE_SIZE, smm=scenario.uses_smm)
        slots = [call for slot in (machine, *scenario.slots) for call in self.slot_calls(slot)]
        main = [*self.steps(scenario.steps), Record(Op.END)]
        if STEPS + RECORD_SIZE * len(main) > self.lists_end:
            raise ScenarioError(scenario.where, 1, "too many steps; make two scenarios of it")
        self.place_list(main, STEPS)
        return Program(
            mode=scenario.mode,
            registers=at_start,
            maxphyaddr=scenario.cpu.maxphyaddr or 0,
            manual_dirty_log=scenario.manual_dirty_log,
            nx_huge_pages=scenario.host.nx_huge_pages,
            nested=scenario.nested is not None,
            smm=scenario.uses_smm,
            backing=self.backing,
            large=tuple(self.large),
            slots=tuple(slots),
            words=self.words(entries),
            records=tuple(self.records),
            host_calls=tuple(self.calls),
            snapshots=tuple(self.snapshots),
        )

    def words(self, entries: dict[int, int]) -> dict[int, int]:
        """Page tables and step lists as 64-bit words."""
        words: dict[int, int] = {}
        for address, entry in entries.items():
            shift = 8 * (address & 7)
            words[address & ~7] = words.get(address & ~7, 0) | entry << shift
        for record in self.records:
            fields = (record.op, record.address, record.value, record.step)
            words |= {record.at + 8 * i: value for i, value in enumerate(fields)}
        return words

    def place_list(self, records: list[Record], at: int) -> None:
        self.records += [replace(record, at=at + RECORD_SIZE * i) for i, record in enumerate(records)]

    def inner_list(self, records: list[Record]) -> int:
        """Lists for SMM and the nested guest lie at the end; returns the address."""
        self.lists_end -= RECORD_SIZE * len(records)
        self.place_list(records, self.lists_end)
        return self.lists_end

    def steps(self, steps: tuple[Step, ...]) -> list[Record]:
        records: list[Record] = []
        for step in steps:
            self.number += 1
            number = self.number
            for record in self.step(step):
                if records and self.in_a_row(records[-1], record):
                    records[-1] = replace(records[-1], value=records[-1].value + record.value)
                else:
                    records.append(replace(record, step=number))
        return records

    def in_a_row(self, last: Record, record: Record) -> bool:
        """Both are host calls, one after the other, and nothing in between needs the guest to run."""
        if not last.op is record.op is Op.HOST or last.address + last.value != record.address:
            return False
        return self.calls[record.address - 1].op is not HostOp.SMI

    def step(self, step: Step) -> list[Record]:
        match step:
            case Access():
                op = SIZED_WRITES[step.size] if step.size else ACCESS_OPS[step.kind, step.user]
                if step.size and step.user:
                    raise ScenarioError(
                        self.scenario.where, step.line, "size is for writes of the supervisor"
                    )
                value = step.value if step.kind == "write" else 0
                return [Record(op, step.at + i * step.every, value) for i in range(step.count)]
            case SetEntry():
                return self.set_entry(step)
            case LoadCr3():
                assert self.tables is not None
                return [Record(Op.CR3, 0, self.tables.roots[step.tables])]
            case Invlpg():
                return [Record(Op.INVLPG, step.at)]
            case SetBit():
                return [self.set_bit(step)]
            case InSmm():
                inner = self.inner_list([*self.steps(step.steps), Record(Op.RSM)])
                return [self.host(HostOp.POKE, SMM_STEPS, inner, 8), self.host(HostOp.SMI)]
            case InNested():
                inner = self.inner_list([*self.steps(step.steps), Record(Op.VMMCALL)])
                return [self.host(HostOp.POKE, VMCB_RIP, 0, 8), Record(Op.VMRUN, VMCB, inner)]
            case SetSlot():
                return [self.host(call.op, *call.args) for call in self.slot_calls(step.slot)]
            case DirtyLog() if step.clear:
                return [self.host(HostOp.CLEAR_DIRTY, step.slot, step.page, step.count)]
            case DirtyLog():
                return [self.host(HostOp.GET_DIRTY, step.slot)]
            case HostPages():
                return [self.host_pages(step)]
            case TakeSnapshot():
                self.snapshots.append(step.name)
                return [self.host(HostOp.SNAPSHOT, len(self.snapshots) - 1)]

    def host(self, op: HostOp, *args: int) -> Record:
        self.calls.append(HostCall(op, args, self.number))
        return Record(Op.HOST, len(self.calls) - 1, 1)

    def set_bit(self, step: SetBit) -> Record:
        name, bit = step.bit.split(".")[0], BITS[step.bit]
        old = getattr(self.registers, name)
        new = old | bit if step.value else old & ~bit
        self.registers = replace(self.registers, **{name: new})
        return Record(REGISTER_OPS[name], 0, new)

    def set_entry(self, step: SetEntry) -> list[Record]:
        assert self.tables is not None
        address, level = self.tables.entry_at(step.place, step.line), step.place.level
        word = 0
        if step.to is not None:
            word = self.tables.leaf_word(level, step.to, step.flags)
        elif step.table is not None:
            table = self.tables.table_below(step.table, step.line)
            word = self.tables.table_word(level, table, step.flags)
        old = self.tables.entries.get(address, 0)
        self.tables.entries[address] = word
        if step.quietly:
            return [self.host(HostOp.POKE, address, word, self.entry_size)]
        if self.entry_size == 4 or self.scenario.mode.long:
            return [Record(Op.WRITE_4 if self.entry_size == 4 else Op.WRITE, address, word)]
        halves = [Record(Op.WRITE_4, address, word & 0xFFFFFFFF)]
        if word >> 32 != old >> 32:  # the upper half while the entry is not present
            halves.insert(0 if word & 1 else 1, Record(Op.WRITE_4, address + 4, word >> 32))
        return halves

    def slot_calls(self, slot: Slot) -> list[HostCall]:
        """The slot in its one or two address spaces."""
        if slot.id not in self.place:
            self.place[slot.id] = self.place[slot.shares] if slot.shares else self.new_backing(slot)
        flags = slot.dirty_log * 1 | slot.readonly * 2  # KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
        args = (flags, slot.base, slot.size, self.place[slot.id])
        spaces = (0, SMM_SPACE) if slot.smm else (0,)
        return [HostCall(HostOp.SET_SLOT, (slot.id | space, *args)) for space in spaces]

    def new_backing(self, slot: Slot) -> int:
        """At a multiple of 2 MiB, as the guest address is where large pages are wanted."""
        place = -(-self.backing // LARGE) * LARGE
        place += slot.base % LARGE
        self.backing = place + slot.size
        if slot.large:
            self.large.append((place, slot.size))
        return place

    def host_pages(self, step: HostPages) -> Record:
        place, size = self.place[step.slot] + step.page * PAGE, step.count * PAGE
        if step.what == "drop":
            return self.host(HostOp.DROP, place, size)
        return self.host(HostOp.PROTECT, place, size, step.what == "writable")

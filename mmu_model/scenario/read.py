"""A scenario file, read and checked. What a line cannot mean is an error with that line's number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..snapshot import MmuKind
from .layout import PAGE
from .node import Node
from .schema import (
    KERNELS,
    Access,
    Cpu,
    DirtyLog,
    Host,
    HostPages,
    InNested,
    InSmm,
    Invlpg,
    LoadCr3,
    Mapping,
    Mode,
    Nested,
    Place,
    Scenario,
    SetBit,
    SetEntry,
    Step,
    Tables,
    TakeSnapshot,
)
from .slots import MAX_BASE, Slots
from .tables import FORMATS, Format

FLAGS = {name: name for name in ("w", "u", "nx", "a", "d", "g", "pwt", "pcd")}
WRITABLE_USER = frozenset({"w", "u"})
BITS = ("cr0.wp", "cr4.smep", "cr4.smap", "cr4.pge", "efer.nx")

IN_SMM = ("read", "write", "snapshot", "drop", "slot", "delete_slot")
IN_NESTED = (*IN_SMM, "fetch", "set_entry", "cr3", "invlpg", "get_dirty_log", "clear_dirty_log")


def read_scenario(path: Path) -> Scenario:
    """The scenario in the file at ``path``. Raises ScenarioError with the file's name and the line."""
    return _Reader(path).scenario()


class _Reader:
    """Reads one file; keeps what later parts refer to: slots, tables, formats."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.slots = Slots()
        self.tables: dict[str, Tables] = {}
        self.format: Format | None = None
        self.mode = Mode.LEVEL_4
        self.nested: Nested | None = None
        self.allowed: tuple[str, ...] | None = None
        self.step_readers: dict[str, Callable[[Node], Step]] = {
            "read": lambda node: self.access("read", node),
            "write": lambda node: self.access("write", node),
            "fetch": lambda node: self.access("fetch", node),
            "set_entry": self.set_entry,
            "cr3": lambda node: LoadCr3(node.line, self.address_space(node)),
            "invlpg": lambda node: Invlpg(node.line, self.address(node)),
            "set": self.set_bit,
            "smm": lambda node: InSmm(node.line, self.inner_steps(node, IN_SMM)),
            "nested": self.in_nested,
            "slot": self.slots.change,
            "delete_slot": self.slots.delete,
            "get_dirty_log": lambda node: DirtyLog(node.line, self.slots.of(node).id),
            "clear_dirty_log": self.clear_dirty_log,
            "drop": lambda node: self.host_pages("drop", node),
            "host_readonly": lambda node: self.host_pages("readonly", node),
            "host_writable": lambda node: self.host_pages("writable", node),
            "snapshot": lambda node: TakeSnapshot(node.line, node.text()),
        }

    def scenario(self) -> Scenario:
        root = Node.load(self.path)
        optional = ["kinds", "kernels", "host", "cpu", "memory", "manual_dirty_log", "tables", "nested"]
        top = root.map(required=("title", "mode", "steps"), optional=optional)
        self.mode = top["mode"].choice({mode.value: mode for mode in Mode})
        self.format = FORMATS.get(self.mode)
        if "memory" in top:
            self.slots.read(top["memory"])
        slots = tuple(self.slots)
        if "tables" in top:
            self.read_tables(top["tables"])
        if self.mode.paging and not self.tables:
            root.fail(f"mode {self.mode.value} needs tables; the first one is loaded at the start")
        if "nested" in top:
            self.nested = self.read_nested(top["nested"])
        return Scenario(
            where=str(self.path),
            name=self.path.stem,
            title=top["title"].text(),
            mode=self.mode,
            kinds=self.kinds(top["kinds"]) if "kinds" in top else tuple(MmuKind),
            kernels=self.kernels(top["kernels"]) if "kernels" in top else KERNELS,
            host=self.host(top["host"]) if "host" in top else Host(),
            cpu=self.cpu(top["cpu"]) if "cpu" in top else Cpu(),
            slots=slots,
            manual_dirty_log="manual_dirty_log" in top and top["manual_dirty_log"].flag(),
            tables=tuple(self.tables.values()),
            nested=self.nested,
            steps=top["steps"].each(self.step),
        )

    def kinds(self, node: Node) -> tuple[MmuKind, ...]:
        return node.each(lambda item: item.choice({kind.value: kind for kind in MmuKind}))

    def kernels(self, node: Node) -> tuple[str, ...]:
        return node.each(lambda item: item.choice({kernel: kernel for kernel in KERNELS}))

    def host(self, node: Node) -> Host:
        members = node.map(optional=("five_level", "nx_huge_pages"))
        return Host(**{name: value.flag() for name, value in members.items()})

    def cpu(self, node: Node) -> Cpu:
        flags = ("nx", "wp", "smep", "smap")
        members = node.map(optional=(*flags, "maxphyaddr"))
        cpu = Cpu(**{name: members[name].flag() for name in flags if name in members})
        if "maxphyaddr" in members:
            cpu = replace(cpu, maxphyaddr=members["maxphyaddr"].number(32, 52))
        return cpu

    def read_tables(self, node: Node) -> None:
        if self.format is None:
            node.fail(f"mode {self.mode.value} has no page tables")
        for name, value in node.any_map().items():
            npt = value.is_map
            mappings = value.map(required=("npt",))["npt"] if npt else value
            self.tables[name] = Tables(value.line, name, npt, ())
            self.tables[name] = Tables(value.line, name, npt, mappings.each(self.mapping))

    def mapping(self, node: Node) -> Mapping:
        members = node.map(
            required=("at",), optional=("to", "count", "every", "size", "flags", "through", "share")
        )
        at = self.address(members["at"])
        if "share" in members:
            node.map(required=("at", "share"))
            return Mapping(node.line, at, share=self.place(members["share"]))
        table = self.table_format()
        sizes = {name: 1 << shift for name, shift in table.sizes.items()}
        size = members["size"].choice(sizes) if "size" in members else PAGE
        through = members["through"].any_map() if "through" in members else {}
        if at % size:
            node.fail(f"{at:#x} is no multiple of the page size")
        to = members["to"].aligned(size) if "to" in members else at
        count = members["count"].number(1, 1024) if "count" in members else 1
        every = members["every"].aligned(size) if "every" in members else None
        self.formed(node, at + (count - 1) * (every or size))
        self.reached(node, to if every else to + (count - 1) * size)
        return Mapping(
            node.line,
            at,
            to=to,
            count=count,
            every=every,
            size=size,
            flags=self.flags(members.get("flags")),
            through=tuple((self.level(level, value), self.flags(value)) for level, value in through.items()),
        )

    def flags(self, node: Node | None) -> frozenset[str]:
        if node is None:
            return WRITABLE_USER
        flags = frozenset(node.each(lambda item: item.choice(FLAGS)))
        if "nx" in flags and self.table_format().entry == 4:
            node.fail("entries of 32-bit paging have no room for nx")
        return flags

    def reached(self, node: Node, frame: int) -> int:
        """A guest-physical address that an entry has room for."""
        if frame > MAX_BASE or frame >> 8 * self.table_format().entry:
            node.fail(f"{frame:#x} is too high for an entry to map it")
        return frame

    def level(self, text: str, node: Node) -> int:
        if text not in self.table_format().level_names:
            node.fail(f"{text!r} is no level of {self.mode.value} paging")
        return int(text)

    def table_format(self) -> Format:
        """Only asked for where there are tables."""
        assert self.format is not None
        return self.format

    def place(self, node: Node) -> Place:
        members = node.map(required=("in", "at", "level"))
        return self.place_of(members)

    def place_of(self, members: dict[str, Node]) -> Place:
        name = members["in"].text()
        if name not in self.tables:
            members["in"].fail(f"no tables {name!r}")
        return Place(name, self.address(members["at"]), self.level(members["level"].text(), members["level"]))

    def address(self, node: Node) -> int:
        """A linear address the mode can form; in long mode a canonical one."""
        return self.formed(node, node.number())

    def formed(self, node: Node, address: int) -> int:
        """The same of an address that was calculated."""
        if not self.mode.long:
            if address >> 32:
                node.fail(f"{address:#x} has more than 32 bits")
            return address
        sign = self.table_format().width - 1
        if address >> sign not in (0, (1 << 64 - sign) - 1):
            node.fail(f"{address:#x} is not canonical")
        return address

    def read_nested(self, node: Node) -> Nested:
        members = node.map(required=("cr3",), optional=("npt",))
        npt = members["npt"].text() if "npt" in members else None
        if npt is not None and (npt not in self.tables or not self.tables[npt].npt):
            members["npt"].fail(f"no nested page table {npt!r}")
        return Nested(node.line, self.address_space(members["cr3"]), npt)

    def address_space(self, node: Node) -> str:
        name = node.text()
        if name not in self.tables or self.tables[name].npt:
            node.fail(f"no address space {name!r}")
        return name

    def step(self, node: Node) -> Step:
        members = node.any_map()
        if len(members) != 1:
            node.fail("a step is one key and its value")
        ((name, value),) = members.items()
        if name not in self.step_readers:
            value.fail(f"unknown step {name!r}; known are {', '.join(self.step_readers)}")
        if self.allowed is not None and name not in self.allowed:
            value.fail(f"{name!r} is not possible in here; possible are {', '.join(self.allowed)}")
        return self.step_readers[name](value)

    def inner_steps(self, node: Node, allowed: tuple[str, ...]) -> tuple[Step, ...]:
        self.allowed = allowed
        steps = node.each(self.step)
        self.allowed = None
        return steps

    def in_nested(self, node: Node) -> Step:
        if self.nested is None:
            node.fail("nested steps need the key 'nested' at the top")
        return InNested(node.line, self.inner_steps(node, IN_NESTED))

    def access(self, kind: str, node: Node) -> Step:
        if not node.is_map:
            return Access(node.line, kind, self.address(node))
        of_writes = ("value", "size") if kind == "write" else ()
        members = node.map(required=("at",), optional=("user", "fault", "count", "every", *of_writes))
        user = "user" in members and members["user"].flag()
        fault = "fault" in members and members["fault"].flag()
        if user and (self.allowed is not None or not self.mode.paging):
            members["user"].fail("user mode is only possible with paging, outside of smm and nested")
        if fault and not self.mode.paging:
            members["fault"].fail("nothing faults without paging")
        at = self.address(members["at"])
        count = members["count"].number(1, 512) if "count" in members else 1
        every = members["every"].number(1) if "every" in members else PAGE
        self.formed(node, at + (count - 1) * every)
        return Access(
            node.line,
            kind,
            at,
            user=user,
            fault=fault,
            value=members["value"].number() if "value" in members else 0x5EED,
            size=members["size"].choice({"1": 1, "4": 4}) if "size" in members else None,
            count=count,
            every=every,
        )

    def set_entry(self, node: Node) -> Step:
        optional = ("to", "table", "clear", "flags", "quietly")
        members = node.map(required=("in", "at", "level"), optional=optional)
        if sum(key in members for key in ("to", "table", "clear")) != 1:
            node.fail("one of 'to', 'table' and 'clear' is needed")
        place = self.place_of(members)
        if "to" in members and place.level not in self.table_format().leaf_levels:
            node.fail(f"no pages at level {place.level}")
        return SetEntry(
            node.line,
            place,
            to=self.reached(node, members["to"].aligned(PAGE)) if "to" in members else None,
            table=self.place(members["table"]) if "table" in members else None,
            flags=self.flags(members.get("flags")),
            quietly="quietly" in members and members["quietly"].flag(),
        )

    def set_bit(self, node: Node) -> Step:
        members = node.any_map()
        if len(members) != 1 or next(iter(members)) not in BITS:
            node.fail(f"one bit and its value expected; bits are {', '.join(BITS)}")
        ((bit, value),) = members.items()
        return SetBit(node.line, bit, value.flag())

    def clear_dirty_log(self, node: Node) -> Step:
        members = node.map(required=("slot", "page", "count"))
        page, count = members["page"].aligned(64), members["count"].number(1)
        return DirtyLog(node.line, self.slots.of(members["slot"]).id, True, page, count)

    def host_pages(self, what: str, node: Node) -> Step:
        members = node.map(required=("slot",), optional=("page", "count"))
        slot = self.slots.of(members["slot"])
        pages = slot.size // PAGE
        page = members["page"].number(0, pages - 1) if "page" in members else 0
        count = members["count"].number(1, pages - page) if "count" in members else 1
        return HostPages(node.line, what, slot.id, page, count)

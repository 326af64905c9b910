"""The guest's page tables, built in guest memory from mappings (SDM Vol. 3, 4.3 to 4.5)."""

from __future__ import annotations

from dataclasses import dataclass

from .layout import MACHINE_SIZE, PAGE, POOL, POOL_END, USER_CODE
from .schema import Mapping, Mode, Place, Scenario, ScenarioError, Tables

PRESENT, LARGE = 1, 1 << 7
FLAG_BITS = {"w": 1 << 1, "u": 1 << 2, "pwt": 1 << 3, "pcd": 1 << 4, "a": 1 << 5, "d": 1 << 6, "g": 1 << 8}
NX = 1 << 63
FRAME = 0x000F_FFFF_FFFF_F000


@dataclass(frozen=True, slots=True)
class Format:
    """A paging mode: (level, lowest address bit, index bits) from the root down, the width of an entry in
    bytes, and the page sizes by name as powers of two.
    """

    levels: tuple[tuple[int, int, int], ...]
    entry: int
    sizes: dict[str, int]

    @property
    def width(self) -> int:
        """Address bits that are translated."""
        _, shift, bits = self.levels[0]
        return shift + bits

    @property
    def level_names(self) -> tuple[str, ...]:
        """The levels as a scenario writes them."""
        return tuple(str(level) for level, _, _ in self.levels)

    @property
    def leaf_levels(self) -> tuple[int, ...]:
        """The levels at which an entry may map a page."""
        return tuple(level for level, shift, _ in self.levels if shift in self.sizes.values())

    def grants(self, level: int) -> bool:
        """Entries of the level have access bits; the four at the top of PAE paging have none (SDM Vol. 3, 4.4.1)."""
        return self is not PAE or level != 3

    def flag_word(self, level: int, flags: frozenset[str]) -> int:
        """The bits of ``flags``."""
        if not self.grants(level):
            return PRESENT
        return PRESENT | sum(FLAG_BITS[flag] for flag in flags if flag != "nx") | ("nx" in flags) * NX


BY_9 = ((5, 48, 9), (4, 39, 9), (3, 30, 9), (2, 21, 9), (1, 12, 9))
PAE = Format(((3, 30, 2), (2, 21, 9), (1, 12, 9)), 8, {"4K": 12, "2M": 21})
FORMATS: dict[Mode, Format] = {
    Mode.PAGING_32: Format(((2, 22, 10), (1, 12, 10)), 4, {"4K": 12, "4M": 22}),
    Mode.PAE: PAE,
    Mode.LEVEL_4: Format(BY_9[1:], 8, {"4K": 12, "2M": 21, "1G": 30}),
    Mode.LEVEL_5: Format(BY_9, 8, {"4K": 12, "2M": 21, "1G": 30}),
}
OPEN = frozenset({"w", "u"})


class GuestTables:
    """All page tables of a scenario, in the pool. ``entries`` holds every entry written, by address."""

    def __init__(self, scenario: Scenario) -> None:
        self.where = scenario.where
        self.format = FORMATS[scenario.mode]
        self.entries: dict[int, int] = {}
        self.roots: dict[str, int] = {}
        self.next = POOL
        self.machine_leaf: dict[bool, int] = {}
        for tables in scenario.tables:
            self._build(tables)

    def entry_at(self, place: Place, line: int) -> int:
        """The guest-physical address of the entry. Raises ScenarioError where no table leads there."""
        table = self.roots[place.tables]
        for level, shift, bits in self.format.levels:
            address = table + (place.at >> shift & (1 << bits) - 1) * self.format.entry
            if level == place.level:
                return address
            entry = self.entries.get(address, 0)
            if not entry & PRESENT or entry & LARGE:
                break
            table = entry & FRAME
        raise ScenarioError(self.where, line, f"{place.tables} has no table at level {place.level} there")

    def table_below(self, place: Place, line: int) -> int:
        """The guest-physical address of the table that the entry points to."""
        entry = self.entries.get(self.entry_at(place, line), 0)
        if place.level == 1 or not entry & PRESENT or entry & LARGE:
            raise ScenarioError(self.where, line, f"{place.tables} points to no table there")
        return entry & FRAME

    def leaf_word(self, level: int, to: int, flags: frozenset[str]) -> int:
        """The entry that maps ``to``."""
        return to | self.format.flag_word(level, flags) | (level > 1) * LARGE

    def table_word(self, level: int, table: int, flags: frozenset[str] = OPEN) -> int:
        """The entry that points to ``table``."""
        return table | self.format.flag_word(level, flags)

    def _build(self, tables: Tables) -> None:
        self.roots[tables.name] = self._new(tables.line)
        self._map_machine(tables)
        for mapping in tables.mappings:
            if mapping.share is not None:
                self._share(tables, mapping, mapping.share)
                continue
            at, to = (mapping.every, 0) if mapping.every else (mapping.size, mapping.size)
            for i in range(mapping.count):
                self._map(tables, mapping, mapping.at + i * at, mapping.to + i * to)

    def _new(self, line: int) -> int:
        if self.next == POOL_END:
            pages = (POOL_END - POOL) // PAGE
            raise ScenarioError(
                self.where, line, f"more than {pages} page tables; map less, or in fewer places"
            )
        self.next += PAGE
        return self.next - PAGE

    def _map_machine(self, tables: Tables) -> None:
        """The interpreter's part. All address spaces share its lowest table, as kernels do with theirs."""
        anywhere = Mapping(tables.line, 0)
        if tables.npt in self.machine_leaf:
            entry = self._descend(tables, anywhere, 0, 2)
            self.entries[entry] = self.table_word(2, self.machine_leaf[tables.npt])
            return
        for gpa in range(0, MACHINE_SIZE, PAGE):
            supervisor = frozenset({"u"} if gpa == USER_CODE else {"w"})
            entry = self._descend(tables, anywhere, gpa, 1)
            self.entries[entry] = self.leaf_word(1, gpa, OPEN if tables.npt else supervisor)
        self.machine_leaf[tables.npt] = self._descend(tables, anywhere, 0, 1)

    def _map(self, tables: Tables, mapping: Mapping, at: int, to: int) -> None:
        level = next(lvl for lvl, shift, _ in self.format.levels if 1 << shift == mapping.size)
        entry = self._descend(tables, mapping, at, level)
        if entry in self.entries:
            raise ScenarioError(self.where, mapping.line, f"{at:#x} is mapped a second time")
        self.entries[entry] = self.leaf_word(level, to, mapping.flags)

    def _share(self, tables: Tables, mapping: Mapping, share: Place) -> None:
        table = self.table_below(share, mapping.line)
        entry = self._descend(tables, mapping, mapping.at, share.level)
        if entry in self.entries:
            raise ScenarioError(self.where, mapping.line, f"{mapping.at:#x} is mapped a second time")
        self.entries[entry] = self.table_word(share.level, table)

    def _descend(self, tables: Tables, mapping: Mapping, at: int, to_level: int) -> int:
        """The address of the entry at ``to_level``; makes the tables on the way."""
        through = dict(mapping.through)
        table = self.roots[tables.name]
        for level, shift, bits in self.format.levels:
            address = table + (at >> shift & (1 << bits) - 1) * self.format.entry
            if level == to_level:
                return address
            old = self.entries.get(address)
            if old is not None and old & LARGE:
                raise ScenarioError(self.where, mapping.line, f"{at:#x} lies in a large page mapped before")
            table = old & FRAME if old is not None else self._new(mapping.line)
            word = self.table_word(level, table, through.get(level, OPEN))
            if old is not None and level in through and word != old:
                raise ScenarioError(self.where, mapping.line, f"level {level} has other flags already")
            self.entries.setdefault(address, word)
        raise AssertionError("a level of another mode")

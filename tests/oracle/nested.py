"""What a host maps where, read off a nested case without regard to rights: enough to tell last entries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.oracle.case import CR4_PSE, Case
from tests.oracle.scaffold import SHIFTS

_P = 1 << 0
_PS = 1 << 7
_NX = 1 << 63
_ADDRESS = 0x000F_FFFF_FFFF_F000


@dataclass(frozen=True)
class Mapping:
    """A guest-physical range, where it is, whether NX is set on the way, and where the last entry is."""

    gpa: int
    size: int
    spa: int
    nx: bool
    leaf: int


def host_leaves(case: Case) -> set[int]:
    """The addresses of the entries that end nested walks."""
    return {mapping.leaf for mapping in _mappings(case)}


def pdptes(case: Case) -> Iterator[int]:
    """The addresses of the PDPTEs that a nested walk may use: those of a PAE host, and a PAE guest's one."""
    assert case.npt is not None
    if case.npt.paging == "PAE":
        yield from ((case.npt.ncr3 & ~0x1F) + 8 * index for index in range(4))
    if case.paging == "PAE":
        for mapping in guest_walk(case)[0][:1]:
            yield mapping.spa + case.root_table + 8 * (case.va >> 30) - mapping.gpa


def guest_walk(case: Case) -> tuple[list[Mapping], Mapping | None]:
    """The mappings that the guest's walk goes through, were all rights given: for its tables and its page."""
    mappings = list(_mappings(case))

    def at(gpa: int) -> Mapping | None:
        return next((m for m in mappings if m.gpa <= gpa < m.gpa + m.size), None)

    tables: list[Mapping] = []
    size = 4 if case.paging == "32-bit" else 8
    table = case.root_table
    for level, shift in enumerate(SHIFTS[case.paging]):
        index_bits = 2 if case.paging == "PAE" and level == 0 else 10 if size == 4 else 9
        gpa = table + size * (case.va >> shift & (1 << index_bits) - 1)
        if (mapping := at(gpa)) is None:
            break
        tables.append(mapping)
        entry = case.memory.get(mapping.spa + gpa - mapping.gpa, (0, size))[0]
        if not entry & _P:
            break
        table = entry & _ADDRESS
        if shift == 12 or (entry & _PS and _has_large_pages(case, shift)):
            page = table & ~((1 << shift) - 1)
            if shift == 22:
                page |= (entry >> 13 & 0xFF) << 32  # PSE-36
            return tables, at(page | case.va & (1 << shift) - 1)
    return tables, None


def _has_large_pages(case: Case, shift: int) -> bool:
    if case.paging == "32-bit":
        return bool(case.cr4 & CR4_PSE)
    return shift == 21 or (shift == 30 and case.paging != "PAE")


def _mappings(case: Case) -> Iterator[Mapping]:
    assert case.npt is not None
    frames = defaultdict(list)
    for address, (value, size) in case.memory.items():
        if value & _P:
            frames[address & ~0xFFF].append((address, value, size))
    paging = case.npt.paging
    shifts = SHIFTS[paging]
    entry_size = 4 if paging == "32-bit" else 8

    def visit(table: int, depth: int, gpa: int, nx: bool) -> Iterator[Mapping]:
        shift = shifts[depth]
        for address, value, size in frames[table & ~0xFFF]:
            index = (address - table) // entry_size
            if size != entry_size or index < 0 or (paging == "PAE" and depth == 0 and index > 3):
                continue
            here = gpa | index << shift
            no_execute = nx or bool(size == 8 and value & _NX)
            if depth == len(shifts) - 1 or (value & _PS and shift in (21, 30) and len(shifts) - depth < 4):
                page = value & _ADDRESS & ~((1 << shift) - 1)
                yield Mapping(here, 1 << shift, page, no_execute, address)
            else:
                yield from visit(value & _ADDRESS, depth + 1, here, no_execute)

    yield from visit(case.npt.ncr3 & (~0x1F if paging == "PAE" else ~0xFFF), 0, 0, nx=False)

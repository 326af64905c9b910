"""Random cases from a seed: every mode and control, and entries of which most are good and a few are not.

A case is made by walking: from the top-level table down, an entry is invented at the slot that the address
selects, and the next table put where it points to. What is wrong with a case is decided entry by entry, with
a chance that falls with the number of entries: most walks get past the first level and many get through.
"""

from __future__ import annotations

import random
from functools import partial

from tests.oracle.case import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Access,
    Case,
    Npt,
    Paging,
)
from tests.oracle.frames import BACKING, GUEST_TABLES, TABLES, below, random_page
from tests.oracle.tables import Tables

_PLAIN: dict[Paging, int] = {"off": 1, "32-bit": 8, "PAE": 8, "4-level": 12, "5-level": 8}
_NESTED: dict[tuple[Paging, Paging], int] = {
    ("32-bit", "32-bit"): 2,
    ("PAE", "32-bit"): 2,
    ("32-bit", "PAE"): 2,
    ("PAE", "PAE"): 2,
    ("32-bit", "4-level"): 3,
    ("PAE", "4-level"): 3,
    ("4-level", "4-level"): 6,
    ("5-level", "4-level"): 4,
}
_MODES: list[tuple[Paging, Paging | None]] = [*((mode, None) for mode in _PLAIN), *_NESTED]
_WEIGHTS = [*_PLAIN.values(), *_NESTED.values()]
_WIDTHS = (40, 40, 40, 40, 40, 36, 39, 46, 48, 52)
_ACCESSES: tuple[Access, ...] = ("read", "write", "fetch")


def generate(seed: int, index: int) -> Case:
    """Case number ``index`` of a seed; the same one each time, whatever was generated before it."""
    return _Generator(random.Random(f"{seed}:{index}"), f"{seed}:{index}").case()


class _Generator:
    def __init__(self, rng: random.Random, name: str) -> None:
        self._rng = rng
        self._name = name
        self._memory: dict[int, tuple[int, int]] = {}

    def case(self) -> Case:
        """One case."""
        ((guest, host),) = self._rng.choices(_MODES, _WEIGHTS)
        width = self._rng.choice(_WIDTHS)
        cr4, efer = self._controls(guest)
        va = self._linear_address(guest)
        npt = None
        if host is None:
            cr3 = self._plain_tables(guest, width, cr4, efer, va)
        else:
            npt, cr3 = self._nested_tables(guest, host, width, cr4, efer, va)
        return Case(
            id=self._name,
            maxphyaddr=width,
            cr0=CR0_PE | CR0_PG * (guest != "off") | self._maybe(0.5) * CR0_WP,
            cr3=cr3,
            cr4=cr4,
            efer=efer,
            pkru=self._pkru(),
            ac=self._maybe(0.4),
            cpl=self._rng.choice((0, 3)),
            access=self._rng.choice(_ACCESSES),
            va=va,
            memory=self._memory,
            npt=npt,
        )

    def _maybe(self, chance: float) -> bool:
        return self._rng.random() < chance

    def _controls(self, paging: Paging) -> tuple[int, int]:
        long = paging in ("4-level", "5-level")
        cr4 = CR4_PAE * (long or paging == "PAE") | CR4_LA57 * (paging == "5-level")
        for bit, chance in (
            (CR4_PSE, 0.7),
            (CR4_PGE, 0.3),
            (CR4_SMEP, 0.4),
            (CR4_SMAP, 0.4),
            (CR4_PKE, 0.5),
            (CR4_PCIDE, 0.3 if long else 0),
            (CR4_PAE, 0.3 if paging == "off" else 0),
            (CR4_LA57, 0 if long else 0.1),  # without meaning outside IA-32e mode
        ):
            cr4 |= bit * self._maybe(chance)
        return cr4, (EFER_LME | EFER_LMA) * long | EFER_NXE * self._maybe(0.7)

    def _linear_address(self, paging: Paging) -> int:
        if paging == "off":
            return random_page(self._rng, 12, 32) | self._rng.getrandbits(12)
        if paging not in ("4-level", "5-level"):
            return self._rng.getrandbits(32)
        bits = 57 if paging == "5-level" else 48
        low = self._rng.getrandbits(bits - 1)
        if self._maybe(0.03):  # not canonical, by a bit or altogether
            return self._rng.choice((low | 1 << bits - 1, low | 1 << bits, self._rng.getrandbits(64)))
        return low if self._maybe(0.6) else low | (1 << 64) - (1 << bits - 1)

    def _pkru(self) -> int:
        bits = self._rng.getrandbits(32)
        return self._rng.choice((0, bits, bits & self._rng.getrandbits(32)))

    def _cr3(self, tables: Tables, cr4: int) -> int:
        """CR3 with the bits beside the address: a PCID, PWT and PCD, or ignored ones."""
        if tables.paging == "PAE":
            return tables.root | self._rng.getrandbits(5)
        if cr4 & CR4_PCIDE or self._maybe(0.1):
            return tables.root | self._rng.getrandbits(12)
        return tables.root | self._rng.choice((0, 0x08, 0x10, 0x18))

    def _plain_tables(self, paging: Paging, width: int, cr4: int, efer: int, va: int) -> int:
        if paging == "off":
            return 0
        tables = Tables(
            self._rng,
            paging,
            width,
            min(width, 40),
            nxe=bool(efer & EFER_NXE),
            large_pages=paging != "32-bit" or bool(cr4 & CR4_PSE),
            memory=self._memory,
            table_frames=below(TABLES, _table_bits(paging, width)),
        )
        tables.fault_chance = 0.4 / tables.depth
        tables.walk(va, self._page)
        if paging == "PAE":
            tables.invent_other_pdptes()
        return self._cr3(tables, cr4)

    def _nested_tables(
        self, guest_paging: Paging, host_paging: Paging, width: int, cr4: int, efer: int, va: int
    ) -> tuple[Npt, int]:
        nxe = self._maybe(0.7)
        gpa_bits = min(width, 40) if host_paging == "4-level" else 32
        host = Tables(
            self._rng,
            host_paging,
            width,
            32 if host_paging == "32-bit" else min(width, 40),
            nxe=nxe,
            large_pages=host_paging != "32-bit",
            memory=self._memory,
            table_frames=below(TABLES, _table_bits(host_paging, width)),
            ps_is_spare=not cr4 & CR4_PSE,  # see departures.left_out
        )
        backing = {
            unit: below(frames, min(_table_bits(host_paging, width), 40)) for unit, frames in BACKING.items()
        }

        def locate(gpa: int) -> int:
            # the emulator crashes on NX where a table of the guest is
            return host.walk(gpa, lambda unit, _: self._rng.choice(backing[unit]), may_set_nx=False)

        guest = Tables(
            self._rng,
            guest_paging,
            width,
            gpa_bits,
            nxe=bool(efer & EFER_NXE),
            large_pages=guest_paging != "32-bit" or bool(cr4 & CR4_PSE),
            memory=self._memory,
            table_frames=below(GUEST_TABLES, min(gpa_bits, _table_bits(guest_paging, width))),
            locate=locate,
        )
        guest.fault_chance = 0.25 / guest.depth
        host.fault_chance = 0.3 / (guest.depth + 1) / host.depth
        gpa = guest.walk(va, self._page)
        if guest_paging == "PAE":
            guest.invent_other_pdptes()
        host.fault_chance = 0.3 / host.depth
        host.walk(gpa, partial(random_page, self._rng))
        npt = Npt(host.root, efer_nxe=nxe, efer_lma=host_paging == "4-level", cr4_pae=host_paging != "32-bit")
        return npt, self._cr3(guest, cr4)

    def _page(self, unit: int, width: int) -> int:
        """A page for the access to land in; now and then one that a table may be in."""
        if unit == 12 and self._maybe(0.1):
            return self._rng.choice(below(TABLES, min(width, 32)))
        return random_page(self._rng, unit, width)


def _table_bits(paging: Paging, width: int) -> int:
    """How wide the address of a top-level table may be: CR3 has 32 bits outside IA-32e mode."""
    return 32 if paging in ("32-bit", "PAE") else width

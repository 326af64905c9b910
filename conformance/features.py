"""What an x86 MMU has to offer, one access for each feature: registers, words of memory, what comes of it.

The tables are in the frames from 0x1000 on. Their last one maps the page at 0x5000, where nothing else is said.
"""

from dataclasses import dataclass
from typing import Final

from conformance.computers import MAXPHYADDR, Computer
from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PGE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Kind,
    Registers,
)

VALUE: Final = 0x1122_3344_5566_7788
Words = dict[int, int]


@dataclass(frozen=True)
class Feature:
    """One access that shows a feature.

    Attributes
    ----------
    name :
        What it shows.
    registers, words, word_size :
        How the processor is set up; the tables in physical memory, and the size of their entries.
    address, kind, user :
        The access: by a program in user mode, or by the kernel.
    outcome :
        The physical address that it reaches, or the page fault that it raises.

    """

    name: str
    registers: Registers
    words: Words
    address: int
    outcome: int | str
    kind: Kind = Kind.READ
    user: bool = False
    word_size: int = 8

    def try_on(self, computer: Computer) -> int | str:
        """What comes of it on a computer; `outcome` if all is well."""
        for where, word in self.words.items():
            computer.memory.write(where, word, self.word_size)
        if isinstance(self.outcome, int) and self.kind is not Kind.WRITE:
            computer.memory.write(self.outcome, VALUE)
        computer.start(self.registers)
        found = computer.access(self.kind, self.address, user=self.user, value=VALUE)
        if isinstance(self.outcome, str) or found != VALUE or computer.memory.read(self.outcome) != VALUE:
            return found
        return self.outcome


def _registers(*, cr0: int = CR0_WP, cr4: int = 0, efer: int = 0, pkru: int = 0) -> Registers:
    return Registers(
        cr0=CR0_PE | CR0_PG | cr0, cr3=0x1000, cr4=cr4, efer=efer, pkru=pkru, maxphyaddr=MAXPHYADDR
    )


def _long(*, cr0: int = CR0_WP, cr4: int = 0, pkru: int = 0) -> Registers:
    return _registers(cr0=cr0, cr4=CR4_PAE | cr4, efer=EFER_LME | EFER_LMA | EFER_NXE, pkru=pkru)


def _four_levels(pte: int) -> Words:
    return {0x1008: 0x2007, 0x2008: 0x3007, 0x3010: 0x4007, 0x4018: pte}


_VA_2: Final = 1 << 22 | 2 << 12 | 0x678
_VA_3: Final = 1 << 30 | 2 << 21 | 3 << 12 | 0x678
_VA_4: Final = 1 << 39 | _VA_3
_VA_5: Final = 1 << 48 | _VA_4
_PSE: Final = _registers(cr4=CR4_PSE)
_PAE: Final = _registers(cr4=CR4_PAE, efer=EFER_NXE)

NAMED: Final = (
    Feature("2 levels", _registers(), {0x1004: 0x2007, 0x2008: 0x5007}, _VA_2, 0x5678, word_size=4),
    Feature("3 levels", _PAE, {0x1008: 0x2001, 0x2010: 0x4007, 0x4018: 0x5007}, _VA_3, 0x5678),
    Feature("4 levels", _long(), _four_levels(0x5007), _VA_4, 0x5678),
    Feature("a global page", _long(cr4=CR4_PGE), _four_levels(0x5107), _VA_4, 0x5678),
    Feature(
        "PAE: a page above 4 GiB",
        _PAE,
        {0x1008: 0x2001, 0x2010: 0x4007, 0x4018: 0x1_0000_5007},
        _VA_3,
        0x1_0000_5678,
    ),
    Feature("PSE: 4 MiB", _PSE, {0x1004: 0x80_0087}, _VA_2, 0x80_2678, word_size=4),
    Feature(
        "without PSE bit 7 means nothing",
        _registers(),
        {0x1004: 0x80_0087, 0x80_0008: 0x5007},
        _VA_2,
        0x5678,
        word_size=4,
    ),
    Feature("PSE-36: 4 MiB above 4 GiB", _PSE, {0x1004: 0x80_2087}, _VA_2, 0x1_0080_2678, word_size=4),
    Feature(
        "CR0.WP: the kernel respects a read-only page",
        _long(),
        _four_levels(0x5005),
        _VA_4,
        "#PF 0x3",
        Kind.WRITE,
    ),
    Feature("without CR0.WP it does not", _long(cr0=0), _four_levels(0x5005), _VA_4, 0x5678, Kind.WRITE),
    Feature(
        "without CR0.WP users do", _long(cr0=0), _four_levels(0x5005), _VA_4, "#PF 0x7", Kind.WRITE, user=True
    ),
    Feature("1 GiB", _long(), {0x1008: 0x2007, 0x2008: 0x4000_0087}, _VA_4, 0x4040_3678),
)
"""The features that the document names."""

FURTHER: Final = (
    Feature(
        "5 levels",
        _long(cr4=CR4_LA57),
        {0x1008: 0x2007, 0x2008: 0x3007, 0x3008: 0x4007, 0x4010: 0x6007, 0x6018: 0x5007},
        _VA_5,
        0x5678,
    ),
    Feature("NX", _long(), _four_levels(1 << 63 | 0x5007), _VA_4, "#PF 0x15", Kind.FETCH, user=True),
    Feature("SMEP", _long(cr4=CR4_SMEP), _four_levels(0x5007), _VA_4, "#PF 0x11", Kind.FETCH),
    Feature("SMAP", _long(cr4=CR4_SMAP), _four_levels(0x5007), _VA_4, "#PF 0x1"),
)
"""What there is besides."""

PROTECTION_KEYS: Final = Feature(
    "protection keys",
    _long(cr4=CR4_PKE, pkru=0b0100),
    _four_levels(1 << 59 | 0x5007),
    _VA_4,
    "#PF 0x25",
    user=True,
)
"""They are offered with nested paging only (cpuid.c: kvm_set_cpu_caps)."""


def user_page(computer: Computer, *, write: bool = True, execute: bool = True) -> tuple[Registers, int]:
    """Map a page for users with 4-level paging; the registers to use it with, and its address."""
    flags = 0x5 | 0x2 * write | (0 if execute else 1 << 63)
    for where, word in _four_levels(0x5000 | flags).items():
        computer.memory.write(where, word)
    return _long(), _VA_4

"""Control registers: what is refused, what they become, and what the processor forgets; caches of tables."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from conformance.scenes import MIB, TABLES, guest, page_tables
from mmu_model.hardware import (
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
    GeneralProtection,
    Kind,
    LogicalProcessor,
    Mode,
    PageFault,
    PhysicalMemory,
    Registers,
    access,
)
from mmu_model.hardware.control import Change, mov_cr0, mov_cr3, mov_cr4, wrmsr_efer
from mmu_model.hardware.tables import PageTables, frames_from
from mmu_model.hardware.tlb import Selection
from mmu_model.machine import Cpu
from mmu_model.snapshot import MmuKind

PAGING = CR0_PE | CR0_PG
CD, NW = 1 << 30, 1 << 29
NO_FLUSH = 1 << 63
PCID = 0x123
REAL = Registers()
PROTECTED = Registers(cr0=PAGING)
PAE = Registers(cr0=PAGING, cr4=CR4_PAE)
LONG = Registers(cr0=PAGING, cr3=0x5000, cr4=CR4_PAE, efer=EFER_LME | EFER_LMA)
WITH_PCID = replace(LONG, cr3=0x5000 | PCID, cr4=CR4_PAE | CR4_PCIDE)
ALL = Selection()
Write = Callable[[Registers, int], Change]


@pytest.mark.parametrize(
    ("write", "before", "value"),
    [
        (mov_cr0, WITH_PCID, CR0_PE),
        (mov_cr0, replace(REAL, cr0=CR0_PE, efer=EFER_LME), PAGING),
        (mov_cr4, LONG, LONG.cr4 | CR4_LA57),
        (mov_cr4, replace(LONG, cr4=CR4_PAE | CR4_LA57), CR4_PAE),
        (mov_cr4, replace(LONG, cr3=0x5001), LONG.cr4 | CR4_PCIDE),
        (mov_cr4, replace(LONG, cr3=0x5800), LONG.cr4 | CR4_PCIDE),
        (wrmsr_efer, LONG, EFER_LMA),
        (wrmsr_efer, PAE, EFER_LME),
        (mov_cr0, PAE, PAGING | NW),
        (mov_cr3, LONG, 0x6000 | NO_FLUSH),
    ],
)
def test_what_a_processor_refuses(write: Write, before: Registers, value: int) -> None:
    """SDM vol. 2, MOV to control registers; vol. 3, 4.1.2."""
    with pytest.raises(GeneralProtection):
        write(before, value)


@pytest.mark.parametrize(
    ("write", "before", "value", "changed", "forgets", "loads"),
    [
        (mov_cr0, PAE, PAGING, {"cr0": PAGING}, None, False),
        (mov_cr0, PAE, PAGING | CR0_WP, {"cr0": PAGING | CR0_WP}, None, False),
        (mov_cr0, PAE, PAGING | CD, {"cr0": PAGING | CD}, None, True),
        (mov_cr0, PAE, PAGING | CD | NW, {"cr0": PAGING | CD | NW}, None, True),
        (mov_cr0, PAE, CR0_PE, {"cr0": CR0_PE}, ALL, True),
        (mov_cr0, replace(PAE, cr0=CR0_PE), PAGING, {"cr0": PAGING}, None, True),
        (mov_cr0, LONG, CR0_PE, {"cr0": CR0_PE, "efer": EFER_LME}, ALL, True),
        (
            mov_cr0,
            replace(LONG, cr0=CR0_PE, efer=EFER_LME),
            PAGING,
            {"cr0": PAGING, "efer": EFER_LME | EFER_LMA},
            None,
            True,
        ),
        (mov_cr0, LONG, PAGING | CR0_WP, {"cr0": PAGING | CR0_WP}, None, False),
        (mov_cr3, LONG, 0x6000, {"cr3": 0x6000}, Selection(pcid=0, keep_global=True), True),
        (mov_cr3, PROTECTED, 0x6018, {"cr3": 0x6018}, Selection(pcid=0, keep_global=True), True),
        (mov_cr3, WITH_PCID, 0x6007, {"cr3": 0x6007}, Selection(pcid=7, keep_global=True), True),
        (mov_cr3, WITH_PCID, 0x6007 | NO_FLUSH, {"cr3": 0x6007}, None, True),
        (mov_cr4, LONG, LONG.cr4, {}, None, False),
        (mov_cr4, LONG, LONG.cr4 | CR4_PGE, {"cr4": LONG.cr4 | CR4_PGE}, ALL, True),
        (mov_cr4, replace(LONG, cr4=CR4_PAE | CR4_PGE), CR4_PAE, {"cr4": CR4_PAE}, ALL, True),
        (mov_cr4, LONG, LONG.cr4 | CR4_PCIDE, {"cr4": LONG.cr4 | CR4_PCIDE}, None, False),
        (mov_cr4, WITH_PCID, CR4_PAE, {"cr4": CR4_PAE}, ALL, False),
        (mov_cr4, LONG, LONG.cr4 | CR4_SMAP, {"cr4": LONG.cr4 | CR4_SMAP}, None, False),
        (mov_cr4, LONG, LONG.cr4 | CR4_PKE, {"cr4": LONG.cr4 | CR4_PKE}, None, False),
        (mov_cr4, LONG, LONG.cr4 | CR4_PSE, {"cr4": LONG.cr4 | CR4_PSE}, None, True),
        (
            mov_cr4,
            WITH_PCID,
            WITH_PCID.cr4 | CR4_SMEP,
            {"cr4": WITH_PCID.cr4 | CR4_SMEP},
            Selection(pcid=PCID),
            True,
        ),
        (mov_cr4, replace(LONG, cr4=CR4_PAE | CR4_SMEP), CR4_PAE, {"cr4": CR4_PAE}, None, True),
        (mov_cr4, PROTECTED, CR4_PAE, {"cr4": CR4_PAE}, Selection(pcid=0), True),
        (mov_cr4, PAE, 0, {"cr4": 0}, Selection(pcid=0), True),
        (mov_cr4, PAE, CR4_PAE | CR4_LA57, {"cr4": CR4_PAE | CR4_LA57}, None, False),
        (wrmsr_efer, REAL, EFER_LME | EFER_LMA, {"efer": EFER_LME}, None, False),
        (wrmsr_efer, LONG, EFER_LME | EFER_NXE, {"efer": EFER_LME | EFER_LMA | EFER_NXE}, None, False),
    ],
)
def test_what_a_write_does(
    write: Write,
    before: Registers,
    value: int,
    changed: dict[str, Any],
    forgets: Selection | None,
    loads: bool,
) -> None:
    """The registers, what is forgotten (SDM vol. 3, 4.10.4.1), and whether PDPTEs are loaded (4.4.1)."""
    change = write(before, value)

    assert change.registers == replace(before, **changed)
    assert change.forgets == forgets
    assert change.loads_pdptes is loads


@pytest.mark.parametrize(
    "impossible",
    [
        {"cr0": 1 << 32},
        {"cr3": 1 << 64},
        {"cr4": 1 << 64},
        {"efer": 1 << 64},
        {"pkru": 1 << 32},
        {"pkrs": 1 << 32},
        {"cr0": PAGING | NW},
        {"cr0": CR0_PG},
        {"efer": EFER_LMA, "cr0": CR0_PE, "cr4": CR4_PAE},
        {"efer": EFER_LMA, "cr0": PAGING},
        {"efer": EFER_LME, "cr0": PAGING},
        {"efer": EFER_LMA, "cr0": PAGING, "cr4": CR4_PAE, "cr3": 1 << 46},
        {"cr0": PAGING, "cr4": CR4_PAE | CR4_PCIDE},
    ],
    ids=str,
)
def test_no_processor_has_these_registers(impossible: dict[str, Any]) -> None:
    """SDM vol. 3, 2.2.1, 2.5, 4.1.2."""
    with pytest.raises(GeneralProtection):
        Registers(**{"maxphyaddr": 46, **impossible})


@pytest.mark.parametrize(
    "possible",
    [
        {"cr0": (1 << 32) - 1, "cr3": (1 << 64) - 1, "pkru": (1 << 32) - 1, "pkrs": (1 << 32) - 1},
        {"efer": EFER_LME | EFER_LMA, "cr0": PAGING, "cr4": CR4_PAE | CR4_PCIDE, "cr3": (1 << 46) - 1},
        {"efer": EFER_LME, "cr0": CR0_PE | CD | NW, "cr4": CR4_PAE},
        {"cr4": (1 << 64) - 1 & ~CR4_PCIDE, "efer": (1 << 64) - 1 & ~EFER_LMA},
    ],
    ids=str,
)
def test_but_a_processor_may_have_these(possible: dict[str, Any]) -> None:
    """Each limit from its inside."""
    assert Registers(**{"maxphyaddr": 46, **possible}).maxphyaddr == 46


@pytest.mark.parametrize(("width", "exists"), [(31, False), (32, True), (52, True), (53, False)])
def test_physical_addresses_have_32_to_52_bits(width: int, exists: bool) -> None:
    """So many there are."""
    if exists:
        assert Registers(maxphyaddr=width).maxphyaddr == width
        return
    with pytest.raises(ValueError, match="MAXPHYADDR"):
        Registers(maxphyaddr=width)


@pytest.mark.parametrize(
    ("cr0", "cr4", "efer", "mode"),
    [
        (CR0_PE, CR4_PAE, 0, Mode.OFF),
        (PAGING, 0, 0, Mode.THIRTY_TWO_BIT),
        (PAGING, CR4_PSE, 0, Mode.THIRTY_TWO_BIT),
        (PAGING, CR4_PAE, 0, Mode.PAE),
        (PAGING, CR4_PAE | CR4_LA57, 0, Mode.PAE),
        (PAGING, CR4_PAE, EFER_LMA, Mode.FOUR_LEVEL),
        (PAGING, CR4_PAE | CR4_LA57, EFER_LMA, Mode.FIVE_LEVEL),
    ],
)
def test_the_paging_mode_follows_from_the_registers(cr0: int, cr4: int, efer: int, mode: Mode) -> None:
    """SDM vol. 3, 4.1.1."""
    assert Registers(cr0=cr0, cr4=cr4, efer=efer).mode is mode


def test_tables_are_remembered_until_an_address_is_forgotten() -> None:
    """Another page of a table that was used is found by the table, though no entry leads to it any more."""
    memory = PhysicalMemory(46)
    tables = PageTables(memory, Mode.FOUR_LEVEL, frames_from(0x10_0000))
    first, second, third, far = 0x1234_5000, 0x1234_6000, 0x1234_7000, 0x7234_5000
    for address in (first, second, third, far):
        tables.map(address, address)
    cpu = LogicalProcessor(memory, replace(LONG, cr3=tables.root, maxphyaddr=46))
    read = access(Kind.READ)
    cpu.translate(first, read)
    upper = tables.entry_address(first, 2)
    entry = memory.read(upper)
    memory.write(upper, 0)
    memory.write(tables.entry_address(far, 3), 0)

    assert cpu.translate(second, read) == second
    with pytest.raises(PageFault):
        cpu.translate(far, read)

    cpu.invlpg(first)
    with pytest.raises(PageFault):
        cpu.translate(third, read)
    memory.write(upper, entry)
    assert cpu.translate(third, read) == third


def mode_of(cpu: Cpu) -> Mode:
    """The paging mode that the guest runs in."""
    return cpu.vcpu.registers.mode


def test_a_guest_enters_long_mode_and_leaves_it(kernel: str, mmu: MmuKind) -> None:
    """CR4.PAE, EFER.LME, CR3, CR0.PG: on each step it finds its memory, by physical or linear addresses."""
    scene = guest(kernel, mmu)
    there, page = 0x1234_5000, 8 * MIB
    tables = page_tables(scene.vm, Mode.FOUR_LEVEL, TABLES, [])
    tables.map(there, page)
    cpu = scene.cpu
    cpu.write(page, 7)

    cpu.mov_cr4(CR4_PAE)
    assert cpu.read(page) == 7
    cpu.wrmsr_efer(EFER_LME | EFER_NXE)
    assert cpu.read(page) == 7
    assert mode_of(cpu) is Mode.OFF
    cpu.mov_cr3(tables.root)
    cpu.mov_cr0(PAGING | CR0_WP)
    assert mode_of(cpu) is Mode.FOUR_LEVEL
    assert cpu.read(there) == 7
    cpu.write(there, 8)
    with pytest.raises(GeneralProtection):
        cpu.mov_cr4(CR4_PAE | CR4_LA57)
    with pytest.raises(GeneralProtection):
        cpu.wrmsr_efer(0)

    cpu.mov_cr0(CR0_PE)
    assert cpu.vcpu.registers.efer == EFER_LME | EFER_NXE
    assert cpu.read(page) == 8
    assert mode_of(cpu) is Mode.OFF

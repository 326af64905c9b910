"""The processor: what x86 paging hardware does with page tables, bit for bit. Knows nothing of KVM.

Read in this order:

    types, memory       addresses, frame numbers; the words that everything is made of
    registers           the control registers, and the paging mode that follows from them
    faults, access      what can go wrong, and what can be asked for
    formats             the entry formats, as tables
    permissions         which accesses a translation permits
    paging, linear      the levels, masks and questions of a kind of paging, worked out for the walk
    walk                the walk itself, one routine
    pdptes              PAE: the registers loaded with CR3
    nested, npt, ept    guests: the same walk in two dimensions
    pml                 the log of what a guest wrote, where the processor keeps one
    tlb                 what is remembered of walks, and what is forgotten when
    control             writes to the control registers
    mmu                 translation through what is remembered, or else by a walk
    processor           all of it together: read, write, fetch, and the instructions that invalidate
    batch, frame_index  many walks at once, in NumPy
    cases, walk_filter  walks as JSON, for other implementations to be held against
    tables              writes page tables, as system software does
    matrix              every legal combination of flags, controls and accesses, tried

A translation in a few lines:

>>> from mmu_model.hardware import *
>>> memory = PhysicalMemory(maxphyaddr=46)
>>> for table, entry in (0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x4007), (0x4028, 0x5007):
...     memory.write(table, entry)
>>> registers = Registers(cr0=CR0_PE | CR0_PG, cr3=0x1000, cr4=CR4_PAE, efer=EFER_LMA, maxphyaddr=46)
>>> hex(walk(memory, LinearPaging(registers), access(Kind.READ, user=True), 0x5678).address)
'0x5678'
>>> hex(memory.read(0x4028))
'0x5027'
"""

from mmu_model.hardware.access import ACCESSES, Access, Kind, access
from mmu_model.hardware.ept import ExtendedPaging
from mmu_model.hardware.faults import (
    ERROR_ID,
    ERROR_P,
    ERROR_PK,
    ERROR_RSVD,
    ERROR_US,
    ERROR_WR,
    EptMisconfiguration,
    EptViolation,
    Fault,
    GeneralProtection,
    NestedPageFault,
    PageFault,
)
from mmu_model.hardware.linear import LinearPaging
from mmu_model.hardware.memory import PhysicalMemory
from mmu_model.hardware.nested import (
    GuestTables,
    NestedTranslation,
    SecondDimension,
    walk_nested,
)
from mmu_model.hardware.npt import EXIT_INFO_PAGE, EXIT_INFO_TABLE, NestedPaging
from mmu_model.hardware.paging import Translation
from mmu_model.hardware.pdptes import load_paging, load_pdptes
from mmu_model.hardware.processor import Invpcid, Invvpid, LogicalProcessor
from mmu_model.hardware.registers import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PKE,
    CR4_PKS,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Mode,
    Registers,
)
from mmu_model.hardware.types import PAGE_SHIFT, PAGE_SIZE, Gfn, Gpa, Hpa, Pfn, Va
from mmu_model.hardware.walk import walk

__all__ = [
    "ACCESSES",
    "CR0_PE",
    "CR0_PG",
    "CR0_WP",
    "CR4_LA57",
    "CR4_PAE",
    "CR4_PCIDE",
    "CR4_PGE",
    "CR4_PKE",
    "CR4_PKS",
    "CR4_PSE",
    "CR4_SMAP",
    "CR4_SMEP",
    "EFER_LMA",
    "EFER_LME",
    "EFER_NXE",
    "ERROR_ID",
    "ERROR_P",
    "ERROR_PK",
    "ERROR_RSVD",
    "ERROR_US",
    "ERROR_WR",
    "EXIT_INFO_PAGE",
    "EXIT_INFO_TABLE",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "Access",
    "EptMisconfiguration",
    "EptViolation",
    "ExtendedPaging",
    "Fault",
    "GeneralProtection",
    "Gfn",
    "Gpa",
    "GuestTables",
    "Hpa",
    "Invpcid",
    "Invvpid",
    "Kind",
    "LinearPaging",
    "LogicalProcessor",
    "Mode",
    "NestedPageFault",
    "NestedPaging",
    "NestedTranslation",
    "PageFault",
    "Pfn",
    "PhysicalMemory",
    "Registers",
    "SecondDimension",
    "Translation",
    "Va",
    "access",
    "load_paging",
    "load_pdptes",
    "walk",
    "walk_nested",
]

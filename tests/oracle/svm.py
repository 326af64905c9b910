"""The virtual machine control block, as far as a nested walk needs it (APM vol. 2, appendix B)."""

from __future__ import annotations

import struct

from tests.oracle.case import EFER_LMA, Case
from tests.oracle.scaffold import HSAVE as HSAVE
from tests.oracle.scaffold import VMCB as VMCB
from tests.oracle.scaffold import Memory

MSR_VM_HSAVE_PA = 0xC001_0117
EFER_SVME = 1 << 12
EXIT_NPF = 0x400
EXIT_INFO_2 = 0x80

_ASID = 0x58
_NESTED_CONTROL = 0x90
_NESTED_CR3 = 0xB0
_SAVE = 0x400
_ES, _CS, _SS, _DS = _SAVE, _SAVE + 0x10, _SAVE + 0x20, _SAVE + 0x30
_CPL = _SAVE + 0xCB
_EFER = _SAVE + 0xD0
_CR4 = _SAVE + 0x148
_CR3 = _SAVE + 0x150
_CR0 = _SAVE + 0x158
_DR7 = _SAVE + 0x160
_DR6 = _SAVE + 0x168
_RFLAGS = _SAVE + 0x170
_RIP = _SAVE + 0x178

_CODE_64 = 0xA9B
_CODE_32 = 0xC9B
_DATA = 0xC93


def write_vmcb(memory: Memory, case: Case, rip: int) -> None:
    """Write the control block of the guest that a nested case describes, to begin at ``rip``."""
    assert case.npt is not None
    dpl = case.cpl << 5
    code = (_CODE_64 if case.efer & EFER_LMA else _CODE_32) | dpl
    block = bytearray(0x700)
    for offset, value in {
        _NESTED_CONTROL: 1,
        _NESTED_CR3: case.npt.ncr3,
        _EFER: case.efer | EFER_SVME,
        _CR4: case.cr4,
        _CR3: case.cr3,
        _CR0: case.cr0,
        _DR7: 0x400,
        _DR6: 0xFFFF_0FF0,
        _RFLAGS: 2,
        _RIP: rip,
    }.items():
        struct.pack_into("<Q", block, offset, value)
    struct.pack_into("<I", block, _ASID, 1)
    block[_CPL] = case.cpl
    for offset, selector, attributes in (
        (_CS, 0x10, code),
        (_ES, 0x18, _DATA),
        (_SS, 0x18, _DATA),
        (_DS, 0x18, _DATA),
    ):
        segment = (selector | case.cpl, attributes | dpl, 0xFFFF_FFFF, 0)
        struct.pack_into("<HHIQ", block, offset, *segment)
    memory.mem_write(VMCB, bytes(block))

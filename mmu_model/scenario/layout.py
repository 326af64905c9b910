"""Where the interpreter and what it works from lie in guest-physical memory.

The first 512 KiB of every VM are a memslot of their own (``MACHINE_SLOT``). Every address space maps them one
to one with small pages, supervisor only but for ``USER_CODE``; scenarios have the rest.
"""

from __future__ import annotations

from enum import IntEnum

PAGE = 0x1000
MACHINE_SLOT = 0
MACHINE_SIZE = 0x80000
KERNEL_CODE = 0x0000  # the interpreter
USER_CODE = 0x1000  # what of it runs in user mode
DESCRIPTORS = 0x2000  # GDT, IDT and TSS
STACK_TOP = 0x4000  # below it is the frame of an exception, nothing else
STEPS = 0x4000  # step lists
STEPS_END = 0x10000
VMCB = 0x10000  # of the nested guest
HOST_SAVE = 0x11000  # VM_HSAVE_PA
IO_BITMAP = 0x12000
MSR_BITMAP = 0x15000
SMM_CODE = 0x38000  # SMBASE 0x30000 + 0x8000: where the processor enters SMM
SMM_STEPS = 0x38F00  # holds the address of the steps to run in SMM
POOL = 0x40000  # guest page tables
POOL_END = MACHINE_SIZE

RECORD_SIZE = 32  # op, address, value, line: 64 bits each


class Op(IntEnum):
    """What the interpreter can do; its handlers stand in this order, 64 bytes each."""

    READ = 0
    WRITE = 1  # as wide as a register
    WRITE_1 = 2
    WRITE_4 = 3
    FETCH = 4
    USER_READ = 5
    USER_WRITE = 6
    USER_FETCH = 7
    CR0 = 8
    CR3 = 9
    CR4 = 10
    EFER = 11
    INVLPG = 12
    VMRUN = 13
    VMMCALL = 14
    RSM = 15
    HOST = 16
    END = 17


USER_OPS = (Op.USER_READ, Op.USER_WRITE, Op.USER_FETCH)

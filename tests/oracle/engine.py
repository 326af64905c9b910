"""One emulated processor that makes the accesses of one case after the other, and what it reports of them."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import unicorn
from unicorn import x86_const as x86

from tests.oracle import svm
from tests.oracle.case import CR4_PAE, CR4_PKE, EFER_LMA, EFER_NXE, Answer, Case
from tests.oracle.scaffold import (
    CODE,
    GDT,
    IRET_32,
    IRET_64,
    PROBES,
    STACK,
    VMRUN,
    WINDOW,
    WINDOW_SIZE,
    WRPKRU,
    Scaffold,
)

uc: Any = unicorn  # its types do not export the names it documents

MSR_EFER = 0xC000_0080
EXCEPTION_GP = 13
EXCEPTION_PF = 14
EXIT_NPF = 0x100 + svm.EXIT_NPF
"""How the emulator numbers a nested page fault on its way to the interrupt hook."""

_EFLAGS_RESERVED = 1 << 1
_EFLAGS_AC = 1 << 18
_FRAMES_KEPT = 4096
_TRANSLATIONS_KEPT = 4 << 20  # bytes; each fetch leaves one that is never used again
_READ_WRITE = uc.UC_PROT_READ | uc.UC_PROT_WRITE
_SUPERVISOR_DATA = 0x00CF_9300_0000_FFFF
_USER_CODE_64 = 0x0020_FB00_0000_0000
_USER_CODE_32 = 0x00CF_FB00_0000_FFFF
_USER_DATA = 0x00CF_F300_0000_FFFF


class Engine:
    """One emulated processor, in protected or in long mode, used for one case after the other."""

    def __init__(self, long: bool, nested: bool, error_code_at: int) -> None:
        self._long = long
        self._rbx = x86.UC_X86_REG_RBX if long else x86.UC_X86_REG_EBX
        self._rax = x86.UC_X86_REG_RAX if long else x86.UC_X86_REG_EAX
        model = x86.UC_CPU_X86_EPYC if nested else x86.UC_CPU_X86_ICELAKE_SERVER
        self._uc: Any = uc.Uc(uc.UC_ARCH_X86, uc.UC_MODE_64 if long else uc.UC_MODE_32, model)
        self._uc.ctl_set_tcg_buffer_size(_TRANSLATIONS_KEPT)
        self._uc.mem_map(WINDOW, WINDOW_SIZE)
        self._scaffold = Scaffold(self._uc)
        self._frames: set[int] = set()
        self._forget()
        self._uc.hook_add(uc.UC_HOOK_INTR, self._on_exception)
        self._uc.hook_add(uc.UC_HOOK_MEM_READ | uc.UC_HOOK_MEM_WRITE, self._on_access)
        self._uc.hook_add(uc.UC_HOOK_MEM_INVALID, self._on_access)
        self._supervisor = self._uc.context_save()
        self._user = self._supervisor if nested else self._enter_user_mode()
        self._scratch = self._uc.context_save()
        self._error_code_at = error_code_at
        self._forget()

    # The steps of a case.

    def run(self, case: Case) -> Answer:
        """Run one case. The frames of the tables are all zero before it and after it."""
        self._map_frames(case)
        begin = self._enter(case) if case.npt else self._set_registers(case)
        self._write_words(case)
        self._access(case, begin)
        answer = self._answer(case)
        self._clear(case)
        self._forget()
        return answer

    def _set_registers(self, case: Case) -> int:
        """Load the registers and warm the code; returns the address of the access."""
        registers = self._uc
        registers.context_restore(self._user if case.cpl == 3 else self._supervisor)
        registers.reg_write(x86.UC_X86_REG_MSR, (MSR_EFER, case.efer))
        registers.reg_write(x86.UC_X86_REG_CR4, case.cr4)
        registers.reg_write(x86.UC_X86_REG_CR3, case.cr3)
        registers.reg_write(x86.UC_X86_REG_CR0, case.cr0)
        if case.paging == "off":
            return self._warm(case, CODE)
        code = self._scaffold.code(case.paging, case.va, case.cpl == 3)
        root = case.root_table + code.root_offset
        registers.mem_write(root, code.root_word)
        begin = self._warm(case, code.linear)
        registers.mem_write(root, bytes(len(code.root_word)))
        return begin

    def _enter(self, case: Case) -> int:
        """VMRUN into the guest and warm the code; returns the address of the access."""
        assert case.npt is not None
        engine = self._uc
        code = self._scaffold.code(case.paging, case.va, case.cpl == 3)
        root = case.root_table
        words = self._scaffold.nested_words(case.npt.paging, case.npt.ncr3, root)
        words[root + code.root_offset] = code.root_word
        for address, word in words.items():
            engine.mem_write(address, word)

        engine.context_restore(self._supervisor)
        svm.write_vmcb(engine, case, code.linear)
        engine.reg_write(x86.UC_X86_REG_MSR, (svm.MSR_VM_HSAVE_PA, svm.HSAVE))
        host_efer = svm.EFER_SVME | (0x500 if case.npt.efer_lma else 0) | EFER_NXE * case.npt.efer_nxe
        engine.reg_write(x86.UC_X86_REG_MSR, (MSR_EFER, host_efer))
        engine.reg_write(x86.UC_X86_REG_CR4, CR4_PAE * case.npt.cr4_pae)
        engine.reg_write(self._rax, svm.VMCB)
        engine.emu_start(CODE + VMRUN, code.linear + 1)  # an end right at the entry makes the emulator fault
        engine.reg_write(x86.UC_X86_REG_CR4, case.cr4)  # the EPYC model's VMRUN drops CR4.PKE
        begin = self._warm(case, code.linear)

        for address, word in words.items():
            engine.mem_write(address, bytes(len(word)))
        return begin

    def _warm(self, case: Case, code: int) -> int:
        """Set what the access needs, and execute the NOP before it to have the page in the TLB."""
        engine = self._uc
        if case.cr4 & CR4_PKE and case.efer & EFER_LMA:
            engine.reg_write(self._rax, case.pkru)
            engine.emu_start(code + WRPKRU, code + WRPKRU + 3)
        engine.reg_write(x86.UC_X86_REG_EFLAGS, _EFLAGS_RESERVED | _EFLAGS_AC * case.ac)
        engine.reg_write(self._rbx, case.va)
        begin = code + PROBES[case.access]
        engine.emu_start(begin, begin + 1)
        if self._exception is not None or self._pa is not None:
            raise RuntimeError(f"{case.id}: the oracle's own code faulted: {self._exception}")
        return begin + 1

    def _write_words(self, case: Case) -> None:
        for address, (value, size) in case.memory.items():
            self._uc.mem_write(address, value.to_bytes(size, "little"))

    def _access(self, case: Case, begin: int) -> None:
        try:
            self._uc.emu_start(begin, 0 if case.access == "fetch" else begin + 2)
        except uc.UcError:
            if self._pa is None:  # else: it went to physical memory that nobody mapped, as most do
                raise
        if self._overwritten is not None:
            self._uc.mem_write(*self._overwritten)

    def _answer(self, case: Case) -> Answer:
        changed = {
            address: now
            for address, (value, size) in case.memory.items()
            if (now := int.from_bytes(self._uc.mem_read(address, size), "little")) != value
        }
        if self._exception is None:
            if self._pa is None:
                raise RuntimeError(f"{case.id}: no access and no exception")
            return Answer("ok", pa=self._pa, changed=changed)
        vector, error_code, address = self._exception
        if vector == EXCEPTION_GP:
            return Answer("general-protection", changed=changed)
        if vector == EXCEPTION_PF:
            return Answer("page-fault", error_code=error_code, cr2=address, changed=changed)
        return Answer("nested-page-fault", exit_info_1=error_code, exit_info_2=address, changed=changed)

    def _clear(self, case: Case) -> None:
        for address, (_, size) in case.memory.items():
            self._uc.mem_write(address, bytes(size))

    def _forget(self) -> None:
        self._pa: int | None = None
        self._exception: tuple[int, int, int] | None = None
        self._overwritten: tuple[int, bytes] | None = None

    # What the emulator reports.

    def _on_exception(self, engine: Any, vector: int, _: object) -> None:
        if vector not in (EXCEPTION_GP, EXCEPTION_PF, EXIT_NPF):
            raise RuntimeError(f"unexpected exception {vector:#x}")
        engine.context_update(self._scratch)
        error_code = ctypes.c_uint32.from_address(self._scratch.context.value + self._error_code_at).value
        if vector == EXIT_NPF:
            address = struct.unpack("<Q", engine.mem_read(svm.VMCB + svm.EXIT_INFO_2, 8))[0]
        else:
            address = engine.reg_read(x86.UC_X86_REG_CR2)
        self._exception = vector, error_code, address
        engine.emu_stop()

    def _on_access(self, engine: Any, access: int, pa: int, size: int, value: int, _: object) -> bool:
        self._pa = pa
        if access == uc.UC_MEM_WRITE and (pa & ~0xFFF in self._frames or 0 <= pa - WINDOW < WINDOW_SIZE):
            word = pa & ~7  # an entry whose A or D bit this very walk may have set: keep it as it is now
            self._overwritten = word, bytes(engine.mem_read(word, 8))
        return False

    # Preparations.

    def _map_frames(self, case: Case) -> None:
        """Give memory to every frame that the tables, or the warming, have words in."""
        wanted = {address & ~0xFFF for address in case.memory}
        wanted.add(case.root_table & ~0xFFF)
        if case.npt is not None:
            wanted.add(case.npt.ncr3 & ~0xFFF)
        if len(self._frames) > _FRAMES_KEPT:
            for frame in self._frames:
                self._uc.mem_unmap(frame, 0x1000)
            self._frames.clear()
        for frame in wanted - self._frames:
            self._uc.mem_map(frame, 0x1000, _READ_WRITE)  # not executable: a fetch ends with its address
            self._frames.add(frame)

    def _enter_user_mode(self) -> Any:
        """Execute IRET to privilege level 3, which no register write reaches; returns the context there."""
        engine = self._uc
        user_code = _USER_CODE_64 if self._long else _USER_CODE_32
        engine.mem_write(GDT, struct.pack("<4Q", 0, _SUPERVISOR_DATA, user_code, _USER_DATA))
        engine.reg_write(x86.UC_X86_REG_GDTR, (0, GDT, 0x1F, 0))
        engine.reg_write(x86.UC_X86_REG_SS, 0x08)  # without it IRET sees a 16-bit stack
        frame = (CODE, 0x10 | 3, _EFLAGS_RESERVED, STACK, 0x18 | 3)
        engine.mem_write(STACK, struct.pack("<5Q" if self._long else "<5I", *frame))
        engine.reg_write(x86.UC_X86_REG_RSP if self._long else x86.UC_X86_REG_ESP, STACK)
        engine.emu_start(CODE + (IRET_64 if self._long else IRET_32), CODE)
        return engine.context_save()

    def fault_context(self, case: Case) -> bytes:
        """The saved context, as bytes, at the fault that a case ends in."""
        self.run(case)
        return bytes(self._scratch)

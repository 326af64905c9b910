"""A virtual processor: the hardware model's, run on the sptes that KVM made.

What faults comes back to KVM, which fixes it; then the access is tried again, until it succeeds or the guest gets a
fault.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mmu_model.exits import VmExit, exit_of
from mmu_model.guest_entry import load_processor
from mmu_model.hardware import control
from mmu_model.hardware.access import Access, Kind, access
from mmu_model.hardware.faults import Fault
from mmu_model.hardware.processor import LogicalProcessor
from mmu_model.hardware.registers import CR0_PE, CR0_PG, Registers
from mmu_model.hypervisor import Hypervisor
from mmu_model.kvm.context import kvm_mmu_after_set_cpuid
from mmu_model.kvm.emulate import Instruction, MmioExit, x86_emulate_instruction
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.fault import RET_PF_EMULATE
from mmu_model.kvm.page_fault import kvm_mmu_page_fault
from mmu_model.kvm.registers import kvm_set_cr3, kvm_set_register, load_registers
from mmu_model.kvm.requests import check_request
from mmu_model.kvm.retry import EmulationType
from mmu_model.kvm.roots import kvm_mmu_reset_context, serve_requests
from mmu_model.kvm.task import finish
from mmu_model.kvm.vcpu import (
    KVM_REQ_LOAD_MMU_PGD,
    KVM_REQ_TLB_FLUSH,
    KVM_REQ_TLB_FLUSH_CURRENT,
    KVM_REQ_TRIPLE_FAULT,
    KvmVcpu,
)
from mmu_model.kvm.vmx import vmx_flush_pml_buffer
from mmu_model.kvm.words import load, store

if TYPE_CHECKING:
    from mmu_model.machine import VirtualMachine

MAX_EXITS: Final = 100
"""Exits in a row for one access, after which the guest is taken to be stuck."""

CR0_EM_TS: Final = 3 << 2
"""CR0.EM and CR0.TS, which mean nothing for memory."""

FLUSHES: Final = KVM_REQ_TLB_FLUSH | KVM_REQ_TLB_FLUSH_CURRENT


class TripleFault(Exception):
    """The guest cannot go on."""


class Cpu(Hypervisor):
    """A virtual processor, run by the hardware model on the sptes that KVM made."""

    def __init__(self, vm: VirtualMachine, registers: Registers) -> None:
        self._vm = vm
        super().__init__(KvmVcpu(vm.kvm, registers))
        vm.kvm.vcpus.append(self.vcpu)
        load_registers(self.vcpu, registers)
        kvm_mmu_after_set_cpuid(self.vcpu)
        self._processor: LogicalProcessor

    def read(self, address: int, size: int = 8, *, cpl: int = 0) -> int:
        """Read 1, 2, 4 or 8 bytes within a word of 8; raises the fault that the guest gets."""
        return self.run(Instruction(access(Kind.READ, user=cpl == 3), address, size))

    def fetch(self, address: int, size: int = 8, *, cpl: int = 0) -> int:
        """Read bytes of code, as :meth:`read` does; raises the fault that the guest gets."""
        return self.run(Instruction(access(Kind.FETCH, user=cpl == 3), address, size))

    def write(self, address: int, value: int, size: int = 8, *, cpl: int = 0) -> None:
        """Write 1, 2, 4 or 8 bytes within a word of 8; raises the fault that the guest gets."""
        self.run(Instruction(access(Kind.WRITE, user=cpl == 3), address, size, value))

    def set_registers(self, registers: Registers) -> None:
        """KVM_SET_SREGS: all control registers at once."""
        load_registers(self.vcpu, registers)
        kvm_mmu_reset_context(self.vcpu)

    def mov_cr0(self, value: int) -> None:
        """MOV to CR0; raises what the processor would."""
        kvm_set_register(self.vcpu, control.mov_cr0, value)

    def mov_cr3(self, value: int) -> None:
        """MOV to CR3; raises what the processor would."""
        kvm_set_cr3(self.vcpu, value)

    def mov_cr4(self, value: int) -> None:
        """MOV to CR4; raises what the processor would."""
        kvm_set_register(self.vcpu, control.mov_cr4, value)

    def wrmsr_efer(self, value: int) -> None:
        """WRMSR to EFER; raises what the processor would."""
        kvm_set_register(self.vcpu, control.wrmsr_efer, value)

    def invlpg(self, address: int) -> None:
        """INVLPG: with shadow paging KVM takes part."""
        self._enter()
        self._processor.invlpg(address)
        if not self._vm.kvm.parameters.tdp_enabled:
            self._vm.kvm.shadow.kvm_mmu_invlpg(self.vcpu, address)

    def enter_smm(self) -> None:
        """A system-management interrupt: paging is off, and the memory is that of SMM (smm.c: enter_smm)."""
        registers = self._outside_smm = self.vcpu.registers
        cr0 = registers.cr0 & ~(CR0_PE | CR0_PG | CR0_EM_TS)
        self._change_smm(True, replace(registers, cr0=cr0, cr4=0, efer=0))

    def rsm(self) -> None:
        """Back from SMM."""
        self._change_smm(False, self._outside_smm)

    def _change_smm(self, smm: bool, registers: Registers) -> None:
        self.vcpu.smm = smm
        self.set_registers(registers)

    def run(self, instruction: Instruction) -> int:
        """Execute an instruction, with as many exits as it takes; what it read, or 0."""
        result = self._run(instruction)
        self.vcpu.rip += 1
        return result

    def _run(self, instruction: Instruction) -> int:
        for _ in range(MAX_EXITS):
            self._enter()
            try:
                return self.execute(instruction)
            except VmExit as exit_reason:
                fault = exit_reason.fault
            if fault is None:
                continue
            emulation = EmulationType()
            if kvm_mmu_page_fault(self.vcpu, *fault, emulation) is RET_PF_EMULATE:
                result = self._emulate(instruction, emulation)
                if result is not None:
                    return result
            self._inject()
        raise KvmBug(f"the guest makes no progress at {instruction.address:#x}")

    def _enter(self) -> None:
        finish(serve_requests(self.vcpu))
        self.prepare()

    def prepare(self) -> None:
        """See that the processor is loaded with what KVM made, and has forgotten what it is to forget.

        Requests to the MMU are served already; raises TripleFault if the guest cannot go on.
        """
        vcpu = self.vcpu
        if vcpu.requests & KVM_REQ_TRIPLE_FAULT:
            raise TripleFault("CR3 points at no memory")
        if check_request(vcpu, KVM_REQ_LOAD_MMU_PGD):
            vcpu.requests &= ~FLUSHES
            self._processor = load_processor(vcpu)
        elif vcpu.requests & FLUSHES:
            vcpu.requests &= ~FLUSHES
            flush = self._processor.invept if vcpu.kvm.parameters.ept_enabled else self._processor.flush_asid
            flush()

    def execute(self, instruction: Instruction) -> int:
        """What the processor does by itself in the guest; then it is outside again.

        Raises
        ------
        VmExit
            KVM has to do something first.
        Fault
            The guest itself gets it.

        """
        try:
            return self._access(instruction)
        except Fault as fault:
            exit_reason = exit_of(self.vcpu, fault)
            if exit_reason is None:
                raise
            raise exit_reason from None
        finally:
            vmx_flush_pml_buffer(self.vcpu)

    def _access(self, instruction: Instruction) -> int:
        how: Access = instruction.access
        hpa = self._processor.translate(instruction.address, how)
        if how.writes:
            store(self._vm.host.memory, hpa, instruction.value, instruction.size)
            return 0
        return load(self._vm.host.memory, hpa, instruction.size)

    def _emulate(self, instruction: Instruction, emulation: EmulationType) -> int | None:
        try:
            return x86_emulate_instruction(self.vcpu, instruction, emulation)
        except MmioExit as exit_to_process:
            devices, gpa = self._vm.devices, exit_to_process.gpa
            if instruction.access.writes:
                devices[gpa] = instruction.value
            return devices.get(gpa, 0)

    def _inject(self) -> None:
        """Give the guest the fault that its own tables make, or its hypervisor the exit."""
        fault, self.vcpu.exception = self.vcpu.exception, None
        if fault is not None:
            raise fault

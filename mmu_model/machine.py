"""A whole virtual machine: host, KVM with both MMUs, the process, and processors that run the guest.

The processor of the hardware model walks the sptes that KVM wrote. What faults comes back to KVM, which fixes
it; then the access is tried again, until it succeeds or the guest gets a fault.
"""

from dataclasses import replace
from itertools import count
from typing import Final

from mmu_model.exits import VmExit, exit_of
from mmu_model.guest_entry import load_processor, spte_masks
from mmu_model.hardware import control
from mmu_model.hardware.access import Access, Kind, access
from mmu_model.hardware.faults import Fault
from mmu_model.hardware.processor import LogicalProcessor
from mmu_model.hardware.registers import (
    CR0_PE,
    CR0_PG,
    Registers,
)
from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.hypervisor import Hypervisor
from mmu_model.kernels import kernel_named, on_32_bit
from mmu_model.kvm.context import kvm_mmu_after_set_cpuid
from mmu_model.kvm.emulate import Instruction, MmioExit, x86_emulate_instruction
from mmu_model.kvm.errors import KvmBug, KvmError
from mmu_model.kvm.fault import RET_PF_EMULATE
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.kvm.host import Host
from mmu_model.kvm.memory_region import (
    add_memory_region,
    address_space,
    check_region,
    delete_memory_region,
)
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.notifier import KvmMmuNotifier
from mmu_model.kvm.observe import snapshot
from mmu_model.kvm.page_fault import kvm_mmu_page_fault
from mmu_model.kvm.process import Process
from mmu_model.kvm.registers import kvm_set_cr3, kvm_set_register, load_registers
from mmu_model.kvm.requests import check_request
from mmu_model.kvm.retry import EmulationType
from mmu_model.kvm.roots import kvm_mmu_reset_context, serve_requests
from mmu_model.kvm.shrinker import mmu_shrinker
from mmu_model.kvm.task import finish
from mmu_model.kvm.types import PG_LEVEL_4K, PT32E_ROOT_LEVEL, PT64_ROOT_4LEVEL, Hva
from mmu_model.kvm.vcpu import (
    KVM_REQ_LOAD_MMU_PGD,
    KVM_REQ_TLB_FLUSH,
    KVM_REQ_TLB_FLUSH_CURRENT,
    KVM_REQ_TRIPLE_FAULT,
    KvmVcpu,
)
from mmu_model.kvm.vm import Kvm, Parameters, TdpFormat
from mmu_model.kvm.vmx import (
    vmx_flush_pml_buffer,
)
from mmu_model.kvm.words import load, store
from mmu_model.shadow import entry as shadow_mmu
from mmu_model.snapshot import MmuKind, Snapshot
from mmu_model.tdp import entry as tdp_mmu

MAX_EXITS: Final = 100
"""Exits in a row for one access, after which the guest is taken to be stuck."""


CR0_EM_TS: Final = 3 << 2
"""CR0.EM and CR0.TS, which mean nothing for memory."""

FLUSHES: Final = KVM_REQ_TLB_FLUSH | KVM_REQ_TLB_FLUSH_CURRENT


class TripleFault(Exception):
    """The guest cannot go on."""


class VirtualMachine:
    """A VM, and the process that made it.

    Parameters
    ----------
    kernel :
        The release whose KVM runs it: "6.1" or "6.12".
    mmu :
        Which MMU maps its memory.
    maxphyaddr :
        Physical-address bits of the host's processor.
    max_tdp_level :
        Levels of nested paging that it walks.
    nx_huge_pages :
        Whether large pages may not be executable.
    tdp_format :
        What nested paging the host's processor has; with :attr:`MmuKind.SHADOW` it is not used.
    pml :
        Whether the processor logs writes, for which it needs EPT with dirty flags.
    x86_64 :
        Whether the host's kernel is a 64-bit one. Another has no TDP MMU; its nested paging is PAE or EPT.
    host :
        A host that has VMs already, instead of a new one with that processor and kernel.

    """

    def __init__(
        self,
        kernel: str = "6.12",
        mmu: MmuKind = MmuKind.TDP,
        *,
        maxphyaddr: int = 46,
        max_tdp_level: int = 4,
        nx_huge_pages: bool = False,
        tdp_format: TdpFormat = TdpFormat.NPT,
        pml: bool = False,
        x86_64: bool = True,
        host: Host | None = None,
    ) -> None:
        self.host = host or Host(maxphyaddr, x86_64=x86_64)
        x86_64, maxphyaddr = self.host.x86_64, self.host.memory.maxphyaddr
        if not x86_64:
            if mmu is MmuKind.TDP:
                raise KvmError("a 32-bit host has no TDP MMU: take the direct pages of the shadow MMU")
            max_tdp_level = PT32E_ROOT_LEVEL if tdp_format is TdpFormat.NPT else PT64_ROOT_4LEVEL
        release = kernel_named(kernel) if x86_64 else on_32_bit(kernel_named(kernel))
        self.process = Process(self.host)
        parameters = Parameters(
            tdp_enabled=mmu is not MmuKind.SHADOW,
            tdp_mmu_enabled=mmu is MmuKind.TDP,
            tdp_format=tdp_format,
            max_tdp_level=max_tdp_level,
            tdp_root_level=max_tdp_level if tdp_format is TdpFormat.NPT else 0,
            nx_huge_pages=nx_huge_pages,
            pml=pml,
        )
        self.kvm = Kvm(
            host=self.host,
            process=self.process,
            kernel=release,
            parameters=parameters,
            masks=spte_masks(release, parameters, maxphyaddr),
            shadow=shadow_mmu,
            tdp=tdp_mmu,
        )
        mmu_shrinker(self.host).vm_list.append(self.kvm)
        self.process.notifiers.append(KvmMmuNotifier(self.kvm))
        self.memory = GuestMemory(self.kvm, self.kvm.memslots[0], logs_dirty=False)
        self.devices: dict[int, int] = {}
        """What the process has for addresses without memory: by gpa the value stored last."""

    def add_memory(
        self,
        gpa: int,
        size: int,
        *,
        level: int = PG_LEVEL_4K,
        writable: bool = True,
        offset: int = 0,
        flags: int = 0,
        as_id: int = 0,
    ) -> KvmMemorySlot:
        """Give the guest memory, which the host maps with pages of `level` where it can.

        `as_id` 1 is the memory of SMM. Other parameters as of :meth:`Process.mmap` and
        :func:`~mmu_model.kvm.memory_region.add_memory_region`, which raises the errors.
        """
        slots = address_space(self.kvm, as_id)
        slot_id = next(number for number in count() if slots.by_id(number) is None)
        check_region(self.kvm, slots, slot_id, gpa, size, Hva(0), flags)
        hva = self.process.mmap(size >> PAGE_SHIFT, level, writable=writable, offset=offset)
        return add_memory_region(self.kvm, slot_id, gpa, size, hva, flags=flags, as_id=as_id)

    def remove_memory(self, slot: KvmMemorySlot) -> None:
        """Take memory away from the guest."""
        delete_memory_region(self.kvm, slot)

    def add_cpu(self, registers: Registers | None = None) -> "Cpu":
        """A virtual processor; without registers paging is off."""
        return Cpu(self, registers or Registers(maxphyaddr=self.host.memory.maxphyaddr))

    def snapshot(self, name: str = "") -> Snapshot:
        """All shadow pages, roles, sptes and roots at this moment."""
        return snapshot(self.kvm, name)


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

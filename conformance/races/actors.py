"""What vCPUs, the process and the host do: actors for the explorer, and a VM for them."""

from typing import Final

from conformance.scenes import PAGE, Scene, guest
from mmu_model.exits import VmExit
from mmu_model.hardware import PAGE_SHIFT, Gfn, Kind, access
from mmu_model.kvm import zap_all
from mmu_model.kvm.dirty_log import get_dirty_log
from mmu_model.kvm.emulate import Instruction
from mmu_model.kvm.enter_guest import vcpu_enter_guest
from mmu_model.kvm.fault import (
    PFERR_PRESENT_MASK,
    PFERR_USER_MASK,
    PFERR_WRITE_MASK,
    RET_PF_EMULATE,
    RET_PF_RETRY,
    KvmPageFault,
    RetPf,
)
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.notifier import invalidate_range_end, invalidate_range_start
from mmu_model.kvm.page_fault import kvm_mmu_page_fault
from mmu_model.kvm.requests import leave_guest_mode
from mmu_model.kvm.roots import kvm_mmu_free_roots, serve_requests
from mmu_model.kvm.task import Spin, Steps, finish
from mmu_model.kvm.types import PG_LEVEL_4K, Hva
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.snapshot import MmuKind
from mmu_model.tdp.map import kvm_tdp_mmu_page_fault

READ: Final = PFERR_USER_MASK
WRITE_PROTECTED: Final = PFERR_USER_MASK | PFERR_WRITE_MASK | PFERR_PRESENT_MASK
TOUCHED: Final = 0x5000


def faults(vcpu: KvmVcpu, gpa: int, error_code: int = READ, max_level: int | None = None) -> Steps[RetPf]:
    """KVM_RUN: the vCPU serves its requests and faults at an address, until the fault is dealt with; how."""
    while True:
        with vcpu.kvm.srcu.read:
            yield from serve_requests(vcpu)
            fault = KvmPageFault(gpa, error_code, prefetch=False, is_tdp=True, nx_huge_pages=False)
            fault.gfn = Gfn(gpa >> PAGE_SHIFT)
            fault.slot = vcpu.memslots.find(fault.gfn)
            fault.max_level = max_level or fault.max_level
            result = yield from kvm_tdp_mmu_page_fault(vcpu, fault)
        if result is not RET_PF_RETRY:
            return result
        yield Spin("the fault")


def any_fault(vcpu: KvmVcpu, address: int, error_code: int = READ) -> Steps[RetPf]:
    """The same with whatever MMU, where nobody comes in between while the lock is held."""
    while True:
        with vcpu.kvm.srcu.read:
            yield from serve_requests(vcpu)
            yield from vcpu.kvm.mmu_lock.write.wait()
            result = kvm_mmu_page_fault(vcpu, address, error_code)
        if result is not RET_PF_RETRY:
            return result
        yield Spin("the fault")


def accesses(cpu: Cpu, what: Instruction) -> Steps[int | None]:
    """The guest accesses memory by its processor, with whatever is in the TLB; KVM serves the faults.

    What was read, or 0; None if there is no memory.
    """
    vcpu = cpu.vcpu
    while True:
        with vcpu.kvm.srcu.read:
            yield from vcpu_enter_guest(vcpu, cpu.prepare)
        yield "runs the guest"
        try:
            return cpu.execute(what)
        except VmExit as left:
            fault = left.fault
        finally:
            leave_guest_mode(vcpu)
        if fault:
            handle = faults if vcpu.mmu is vcpu.root_mmu else any_fault
            if (yield from handle(vcpu, *fault)) is RET_PF_EMULATE:
                return None


def writes(cpu: Cpu, address: int, *values: int) -> Steps[None]:
    """The guest writes these one after the other."""
    for value in values:
        yield from accesses(cpu, write(address, value))


def read(address: int) -> Instruction:
    """The guest reads 8 bytes."""
    return Instruction(access(Kind.READ, user=False), address, 8)


def write(address: int, value: int) -> Instruction:
    """The guest writes 8 bytes."""
    return Instruction(access(Kind.WRITE, user=False), address, 8, value)


def obtains_root(vcpu: KvmVcpu) -> Steps[None]:
    """The vCPU needs a root to enter the guest."""
    yield from serve_requests(vcpu)


def lets_go(vcpu: KvmVcpu) -> Steps[None]:
    """The vCPU lets go of its root."""
    yield from kvm_mmu_free_roots(vcpu.kvm, vcpu.root_mmu, [vcpu.root_mmu.root])


def migrates(vm: VirtualMachine, hva: Hva) -> Steps[None]:
    """The host moves a page of the process."""
    end = Hva(hva + PAGE)
    yield from invalidate_range_start(vm.kvm, hva, end)
    yield "moves the page"
    vm.process.migrate(hva)
    yield from invalidate_range_end(vm.kvm, hva, end)


def harvests(vm: VirtualMachine, slot: KvmMemorySlot, into: dict[Gfn, int]) -> Steps[None]:
    """The process fetches the dirty log, and copies the first word of every page that is in it."""
    with_log = yield from get_dirty_log(vm.kvm, slot)
    yield "copies what was written"
    for gfn in with_log:
        into[gfn] = vm.memory.read(gfn << PAGE_SHIFT)


def zaps_all(vm: VirtualMachine) -> Steps[None]:
    """Everything that KVM has built is to go, as when a slot does."""
    yield from vm.kvm.slots_lock.wait()
    with vm.kvm.slots_lock:
        yield from zap_all.kvm_mmu_zap_all_fast(vm.kvm)


def two_vcpus(kernel: str, *, loaded: bool = True, host_level: int = PG_LEVEL_4K) -> tuple[Scene, Cpu]:
    """A VM of the TDP MMU with a second vCPU; both have a root if `loaded`."""
    scene = guest(kernel, MmuKind.TDP, host_level=host_level)
    second = scene.vm.add_cpu()
    if loaded:
        for cpu in (scene.cpu, second):
            finish(serve_requests(cpu.vcpu))
    return scene, second

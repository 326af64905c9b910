"""What a vCPU does before it enters the guest again, because somebody asked for it (kvm_host.h: KVM_REQ_*)."""

import pytest

from conformance.looking import structs
from conformance.scenes import MIB, Scene, editing_guest, guest, nested_guest
from mmu_model.hardware import CR4_PCIDE
from mmu_model.hardware.control import CR3_NO_FLUSH
from mmu_model.kvm.registers import kvm_set_cr3
from mmu_model.kvm.requests import check_request, make_request
from mmu_model.kvm.shadow_walk import reading_shadow_page_tables
from mmu_model.kvm.task import WouldWaitForEver
from mmu_model.kvm.vcpu import (
    KVM_REQ_LOAD_MMU_PGD,
    KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
    KVM_REQ_MMU_SYNC,
    KVM_REQ_TLB_FLUSH,
    KVM_REQ_TLB_FLUSH_CURRENT,
    KVM_REQ_TLB_FLUSH_GUEST,
    KVM_REQ_TRIPLE_FAULT,
    Request,
    VcpuMode,
)
from mmu_model.machine import TripleFault
from mmu_model.snapshot import MmuKind

NUMBERS = {
    KVM_REQ_TLB_FLUSH: 0,
    KVM_REQ_TRIPLE_FAULT: 8 + 2,
    KVM_REQ_MMU_SYNC: 8 + 3,
    KVM_REQ_LOAD_MMU_PGD: 8 + 5,
    KVM_REQ_TLB_FLUSH_CURRENT: 8 + 26,
    KVM_REQ_TLB_FLUSH_GUEST: 8 + 27,
    KVM_REQ_MMU_FREE_OBSOLETE_ROOTS: 8 + 31,
}
"""Those of x86 are counted from 8 (KVM_ARCH_REQ)."""
WAITED_FOR = {KVM_REQ_TLB_FLUSH, KVM_REQ_TLB_FLUSH_GUEST, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS}


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_a_flushing_cr3_asks_for_the_guests_tlb_under_nested_paging(kernel: str, mmu: MmuKind) -> None:
    """KVM's tables are not concerned, but the processor may remember the PCID (x86.c: kvm_invalidate_pcid); the
    registers are others in any case."""
    cpu = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000}).cpu
    vcpu = cpu.vcpu
    cpu.mov_cr4(vcpu.registers.cr4 | CR4_PCIDE)
    for flags, flush in ((0, KVM_REQ_TLB_FLUSH_GUEST), (CR3_NO_FLUSH, 0)):
        vcpu.requests = 0

        kvm_set_cr3(vcpu, vcpu.registers.cr3 | flags)

        assert vcpu.requests == KVM_REQ_LOAD_MMU_PGD | flush


def test_each_request_is_the_bit_of_its_number() -> None:
    assert {request: request.bit_length() - 1 for request in NUMBERS} == NUMBERS
    assert all(request.bit_count() == 1 for request in NUMBERS)


@pytest.mark.parametrize("request_", NUMBERS)
def test_who_makes_a_request_waits_only_for_some(request_: Request) -> None:
    """A vCPU that walks sptes without a lock is out of the guest, and not yet to be relied on."""
    vcpu = guest("6.12", MmuKind.TDP).cpu.vcpu
    for mode, kicked in (
        (VcpuMode.OUTSIDE_GUEST_MODE, False),
        (VcpuMode.IN_GUEST_MODE, True),
        (VcpuMode.EXITING_GUEST_MODE, request_ in WAITED_FOR),
        (VcpuMode.READING_SHADOW_PAGE_TABLES, request_ in WAITED_FOR),
    ):
        vcpu.mode, vcpu.kicked, vcpu.requests = mode, False, 0
        make_request(vcpu, request_)
        assert (vcpu.kicked, vcpu.requests) == (kicked, request_)


def test_a_request_is_served_once() -> None:
    """And the others are not."""
    vcpu = guest("6.12", MmuKind.TDP).cpu.vcpu
    vcpu.requests = KVM_REQ_TLB_FLUSH | KVM_REQ_MMU_SYNC
    assert [check_request(vcpu, KVM_REQ_MMU_SYNC) for _ in range(2)] == [True, False]
    assert vcpu.requests == KVM_REQ_TLB_FLUSH


def test_nobody_frees_what_a_walk_without_lock_may_see() -> None:
    """A flush waits for it to be over, however it ends."""
    scene = guest("6.12", MmuKind.TDP)
    vcpu, kvm = scene.cpu.vcpu, scene.vm.kvm
    with reading_shadow_page_tables(vcpu), pytest.raises(WouldWaitForEver):
        kvm.flush_remote_tlbs()
    kvm.flush_remote_tlbs()
    with pytest.raises(ZeroDivisionError), reading_shadow_page_tables(vcpu):
        raise ZeroDivisionError
    assert vcpu.mode is VcpuMode.OUTSIDE_GUEST_MODE
    kvm.flush_remote_tlbs()
    assert kvm.stat["remote_tlb_flush"] == 3


def edited(kernel: str, mmu: MmuKind) -> Scene:
    """A guest that has read 66 at an address, maps it elsewhere by now, to 77, and has not flushed."""
    scene = editing_guest(kernel, {0x5000: 0x6000}, mmu=mmu)
    scene.vm.memory.write(0x6000, 66)
    scene.vm.memory.write(0x7000, 77)
    scene.reads(0x5000)
    scene.edit(0x5000, 0x7067)
    assert scene.reads(0x5000) == 66
    return scene


@pytest.mark.parametrize(
    ("mmu", "request_", "seen"),
    [
        (MmuKind.TDP, KVM_REQ_MMU_SYNC, 66),
        (MmuKind.TDP, KVM_REQ_TLB_FLUSH, 77),
        (MmuKind.TDP, KVM_REQ_TLB_FLUSH_CURRENT, 77),
        (MmuKind.TDP, KVM_REQ_TLB_FLUSH_GUEST, 77),
        (MmuKind.DIRECT, KVM_REQ_TLB_FLUSH_GUEST, 77),
        (MmuKind.SHADOW, KVM_REQ_TLB_FLUSH, 66),
        (MmuKind.SHADOW, KVM_REQ_TLB_FLUSH_CURRENT, 66),
        (MmuKind.SHADOW, KVM_REQ_TLB_FLUSH_GUEST, 77),
        (MmuKind.SHADOW, KVM_REQ_MMU_SYNC | KVM_REQ_TLB_FLUSH_CURRENT, 77),
    ],
)
def test_what_a_flush_is_of(kernel: str, mmu: MmuKind, request_: Request, seen: int) -> None:
    """With shadow paging the guest's own flush is more than one of the processor's TLB: what it edited counts."""
    scene = edited(kernel, mmu)
    scene.vm.kvm.make_all_cpus_request(request_)

    assert scene.reads(0x5000) == seen
    assert not scene.cpu.vcpu.requests


def test_the_guest_does_not_go_on_after_a_triple_fault(kernel: str, mmu: MmuKind) -> None:
    scene = guest(kernel, mmu)
    scene.cpu.read(0x5000)
    make_request(scene.cpu.vcpu, KVM_REQ_TRIPLE_FAULT)
    with pytest.raises(TripleFault):
        scene.cpu.read(0x5000)


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_obsolete_roots_of_inner_guests_are_let_go_of_too(kernel: str, mmu: MmuKind) -> None:
    """Those that the vCPU has for its hypervisor and those for the guest of it, whichever of them runs."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000})
    scene.reads(0x5000)
    scene.cpu.leave_nested()
    assert scene.vm.snapshot().vcpus[0].guest_mmu.root.kind == "page"

    scene.vm.remove_memory(scene.vm.add_memory(1 << 33, MIB))
    scene.reads(32 * MIB)

    assert scene.vm.snapshot().vcpus[0].guest_mmu.root.kind == "none"
    assert not [sp for sp in structs(scene.vm) if sp.role.invalid]

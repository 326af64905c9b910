"""What a fault comes to if another CPU, or the processor, changes things while KVM handles it."""

import pytest

from conformance.looking import structs
from conformance.races.actors import TOUCHED, WRITE_PROTECTED, faults, two_vcpus, zaps_all
from conformance.scenes import PAGE, Scene, guest
from mmu_model.hardware import Gfn
from mmu_model.kernels import KERNELS
from mmu_model.kvm.dirty_log import kvm_clear_dirty_log, kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.enter_guest import vcpu_enter_guest
from mmu_model.kvm.fault import RET_PF_FIXED, RET_PF_RETRY, RET_PF_SPURIOUS, RetPf
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.page_fault import kvm_mmu_page_fault
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.vcpu import VcpuMode
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

pytestmark = pytest.mark.parametrize("kernel", KERNELS)

EXCHANGE = "exchanges the spte without the lock"
ACCESSED = 1 << 5


def protected(kernel: str) -> tuple[Scene, Steps[RetPf], Steps[RetPf]]:
    """A page that is write-protected for its log, and faults of two vCPUs that write to it."""
    scene, second = two_vcpus(kernel)
    (slot,) = scene.vm.kvm.memslots[0]
    scene.cpu.write(TOUCHED, 1)
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    for vcpu in scene.vm.kvm.vcpus:
        vcpu.requests = 0
        vcpu.stat.clear()
    first, other = (faults(cpu.vcpu, TOUCHED, WRITE_PROTECTED) for cpu in (scene.cpu, second))
    return scene, first, other


def logged(vm: VirtualMachine) -> set[int]:
    """What the dirty log has."""
    (slot,) = vm.kvm.memslots[0]
    return set(kvm_vm_ioctl_get_dirty_log(vm.kvm, slot))


def test_of_two_fast_faults_one_mends_the_spte(kernel: str) -> None:
    """The other finds that all is well when it looks again."""
    scene, first, other = protected(kernel)
    while next(first) != EXCHANGE:
        pass

    assert finish(other) is RET_PF_FIXED
    assert finish(first) is RET_PF_SPURIOUS
    assert [vcpu.stat["pf_fast"] for vcpu in scene.vm.kvm.vcpus] == [1, 1]
    assert logged(scene.vm) == {TOUCHED // PAGE}


@pytest.mark.parametrize(("changes", "fast"), [(0, 1), (1, 1), (4, 1), (5, 0)])
def test_a_fast_fault_tries_five_times(kernel: str, changes: int, fast: int) -> None:
    """The processor sets and clears A as often between the look and the exchange; at last it takes the lock."""
    scene, fault, _ = protected(kernel)
    host = scene.vm.host
    (sptep,) = (sp.sptep(TOUCHED // PAGE) for sp in structs(scene.vm) if sp.role.level == 1)
    exchanges, result = 0, None
    try:
        while True:
            if next(fault) == EXCHANGE:
                exchanges += 1
                if exchanges <= changes:
                    host.write(sptep, host.read(sptep) ^ ACCESSED)
    except StopIteration as end:
        result = end.value

    assert result is RET_PF_FIXED
    assert exchanges == min(changes + 1, 5)
    assert scene.cpu.vcpu.stat["pf_fast"] == fast
    assert logged(scene.vm) == {TOUCHED // PAGE}


@pytest.mark.parametrize("paging", ["off", "32-bit", "PAE", "4-level"])
@pytest.mark.parametrize("mmu", list(MmuKind), ids=lambda mmu: mmu.value)
def test_a_fault_on_a_root_that_is_to_go_is_tried_again(kernel: str, mmu: MmuKind, paging: str) -> None:
    """Everything was zapped since the guest left for KVM: nothing is mapped below what it still has loaded."""
    mapped = None if paging == "off" else {0x5000: 0x5000, 0x6000: 0x6000}
    scene = guest(kernel, mmu, paging, mapped=mapped)
    scene.reads(0x5000)
    finish(zaps_all(scene.vm))
    pages = {sp.spt: scene.vm.host.words(sp.spt) for sp in structs(scene.vm)}

    result = kvm_mmu_page_fault(scene.cpu.vcpu, 0x6000, 0)

    assert result is RET_PF_RETRY
    assert {sp.spt: scene.vm.host.words(sp.spt) for sp in structs(scene.vm)} == pages
    assert scene.reads(0x6000) == 0


@pytest.mark.parametrize("pml", [False, True])
@pytest.mark.parametrize("clears", [False, True])
def test_whoever_wants_the_log_has_it_brought_up_to_date(kernel: str, pml: bool, clears: bool) -> None:
    """A vCPU in the guest is kicked if its processor logs writes, so that it hands over what it has; it is not
    waited for (kvm_arch_sync_dirty_log)."""
    scene = guest(kernel, MmuKind.TDP, tdp_format=TdpFormat.EPT, pml=pml)
    (slot,) = scene.vm.kvm.memslots[0]
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    vcpu = scene.cpu.vcpu
    finish(vcpu_enter_guest(vcpu, scene.cpu.prepare))

    if clears:
        kvm_clear_dirty_log(scene.vm.kvm, slot, {Gfn(5)})
    else:
        assert logged(scene.vm) == set()

    assert vcpu.kicked is pml
    assert vcpu.mode is (VcpuMode.EXITING_GUEST_MODE if pml else VcpuMode.IN_GUEST_MODE)

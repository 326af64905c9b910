"""What a vCPU's MMUs are set up for when it is made, and what its first entry does."""

import pytest

from conformance.races.actors import read, write
from conformance.scenes import GIB, MIB, guest
from mmu_model.kernels import KERNELS
from mmu_model.kvm.emulate import MmioExit, x86_emulate_instruction
from mmu_model.kvm.enter_guest import vcpu_enter_guest
from mmu_model.kvm.memory_region import replace_slot
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from mmu_model.kvm.task import finish
from mmu_model.kvm.vcpu import VcpuMode
from mmu_model.snapshot import MmuKind

pytestmark = pytest.mark.parametrize("kernel", KERNELS)


def test_the_mmu_that_is_not_used_has_no_role(kernel: str, mmu: MmuKind) -> None:
    """Its role is 0, but since KVM_SET_CPUID2 of newer kernels for the invalid bit (kvm_mmu_after_set_cpuid)."""
    vcpu = guest(kernel, mmu).vm.snapshot().vcpus[0]

    assert vcpu.guest_mmu.root_role == (0 if kernel == "6.1" else 1 << 11)
    assert vcpu.guest_mmu.cpu_role == 0
    assert [root.kind for root in (vcpu.guest_mmu.root, *vcpu.guest_mmu.prev_roots)] == ["none"] * 4
    assert [root.kind for root in (vcpu.root_mmu.root, *vcpu.root_mmu.prev_roots)] == ["none"] * 4


def test_a_vcpu_that_enters_has_a_root(kernel: str, mmu: MmuKind) -> None:
    """And nothing is left to be done."""
    scene = guest(kernel, mmu)
    vcpu = scene.cpu.vcpu

    finish(vcpu_enter_guest(vcpu, scene.cpu.prepare))

    assert scene.vm.snapshot().vcpus[0].root_mmu.root.kind != "none"
    assert (vcpu.requests, vcpu.mode) == (0, VcpuMode.IN_GUEST_MODE)


@pytest.mark.parametrize("flags", [0, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY])
def test_what_is_emulated_finds_no_memory_in_a_slot_that_goes(kernel: str, mmu: MmuKind, flags: int) -> None:
    """The process gets the access, as where there is no slot."""
    scene = guest(kernel, mmu)
    slot = scene.vm.add_memory(GIB, MIB, flags=flags)
    scene.vm.memory.write(GIB, 77)
    assert x86_emulate_instruction(scene.cpu.vcpu, read(GIB)) == 77
    generation = scene.vm.kvm.memslots[0].generation
    steps = replace_slot(scene.vm.kvm, slot, None)
    while scene.vm.kvm.memslots[0].generation != generation + 2:
        next(steps)

    for instruction in read(GIB), write(GIB, 5), read(2 * GIB):
        with pytest.raises(MmioExit) as exit_to_process:
            x86_emulate_instruction(scene.cpu.vcpu, instruction)
        assert exit_to_process.value.gpa == instruction.address
    steps.close()

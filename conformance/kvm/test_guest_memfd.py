"""Private memory: what is refused, and what becomes of it in between."""

import pytest

from conformance.looking import reached
from conformance.scenes import MIB, PAGE
from mmu_model.hardware import Gfn
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.guest_memfd import set_memory_attributes
from mmu_model.kvm.memory_region import move_memory_region, set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind


def protected() -> VirtualMachine:
    """A VM whose frames may have private memory, and 4 MiB for which there is some."""
    vm = VirtualMachine("6.12", MmuKind.TDP, private_memory=True)
    vm.add_memory(0, 4 * MIB, flags=KVM_MEM_GUEST_MEMFD)
    return vm


def test_a_slot_with_private_memory_can_only_be_deleted() -> None:
    vm = protected()
    (slot,) = vm.kvm.memslots[0]

    with pytest.raises(KvmError, match="can only be deleted"):
        move_memory_region(vm.kvm, slot, 8 * MIB)
    with pytest.raises(KvmError, match="can only be deleted"):
        set_memory_region_flags(vm.kvm, slot, slot.flags | KVM_MEM_LOG_DIRTY_PAGES)
    vm.remove_memory(slot)

    assert list(vm.kvm.memslots[0]) == []


@pytest.mark.parametrize("more", [KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY])
def test_it_has_no_other_flags(more: int) -> None:
    with pytest.raises(KvmError, match="do not exist"):
        protected().add_memory(8 * MIB, MIB, flags=KVM_MEM_GUEST_MEMFD | more)


def test_only_a_protected_vm_has_attributes() -> None:
    vm = VirtualMachine("6.12", MmuKind.TDP)

    with pytest.raises(KvmError, match="no attributes"):
        set_memory_attributes(vm.kvm, Gfn(5), 1, private=True)


def test_only_the_tdp_mmu_has_such_vms() -> None:
    with pytest.raises(ValueError, match="needs the TDP MMU"):
        VirtualMachine("6.12", MmuKind.DIRECT, private_memory=True)


@pytest.mark.parametrize("gpa", [8 * MIB, 16 * MIB], ids=["a slot without", "no slot"])
def test_a_private_frame_without_private_memory_ends_the_run(gpa: int) -> None:
    vm = protected()
    vm.add_memory(8 * MIB, MIB)
    cpu = vm.add_cpu()
    set_memory_attributes(vm.kvm, Gfn(gpa >> 12), 1, private=True)

    with pytest.raises(LookupError, match="EFAULT"):
        cpu.read(gpa)


def test_private_memory_keeps_its_contents_while_the_frame_is_shared() -> None:
    vm = protected()
    cpu = vm.add_cpu()
    seen = []
    for private, value in ((True, 1), (False, 2), (True, None), (False, None)):
        set_memory_attributes(vm.kvm, Gfn(5), 2, private=private)
        if value is not None:
            cpu.write(0x5000, value)
        seen.append((cpu.read(0x5000), cpu.read(0x6000)))

    assert seen == [(1, 0), (2, 0), (1, 0), (2, 0)]


def test_what_maps_a_frame_goes_when_its_attribute_changes() -> None:
    vm = protected()
    cpu = vm.add_cpu()
    for gfn in range(4, 8):
        cpu.write(gfn * PAGE, 1)

    set_memory_attributes(vm.kvm, Gfn(5), 2, private=True)

    assert {leaf.offset for leaf in reached(vm.snapshot())} == {4, 7}

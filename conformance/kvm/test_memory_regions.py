"""Slots that move, whose flags change, and whose writes are logged: what is refused, and what it leaves."""

import pytest

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.dirty_log import kvm_clear_dirty_log, kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.memory_region import delete_memory_region, move_memory_region, set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

MIB = 1 << 20


@pytest.fixture(params=list(MmuKind), ids=lambda kind: kind.value)
def vm(request: pytest.FixtureRequest) -> VirtualMachine:
    vm = VirtualMachine("6.12", request.param)
    vm.add_memory(0, 2 * MIB)
    return vm


def test_a_moved_slot_is_elsewhere_with_its_memory(vm: VirtualMachine) -> None:
    slot = vm.add_memory(4 * MIB, 6 * MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)
    cpu = vm.add_cpu()
    for offset in (0x2000, 5 * MIB):
        cpu.write(4 * MIB + offset, offset)
    generation = vm.kvm.memslots[0].generation

    moved = move_memory_region(vm.kvm, slot, 16 * MIB)

    assert [cpu.read(16 * MIB + offset) for offset in (0x2000, 5 * MIB)] == [0x2000, 5 * MIB]
    assert moved.dirty_bitmap == {Gfn(0x1002), Gfn(0x1500)}
    assert vm.kvm.memslots[0].generation == generation + 4  # invalid, then moved
    assert vm.kvm.memslots[0].find(4 * MIB >> 12) is None


@pytest.mark.parametrize(("to", "complaint"), [(MIB, "overlaps slot 0"), (8 * MIB + 1, "not a multiple")])
def test_a_slot_that_cannot_move_stays(vm: VirtualMachine, to: int, complaint: str) -> None:
    slot = vm.add_memory(4 * MIB, MIB)
    before = vm.snapshot()

    with pytest.raises(KvmError, match=complaint):
        move_memory_region(vm.kvm, slot, to)

    assert vm.snapshot() == before


def test_a_slot_may_move_to_where_it_overlaps_itself(vm: VirtualMachine) -> None:
    slot = vm.add_memory(4 * MIB, 2 * MIB)

    assert move_memory_region(vm.kvm, slot, 5 * MIB).base_gfn == 5 * MIB >> 12


def test_only_dirty_logging_can_be_switched(vm: VirtualMachine) -> None:
    slot = vm.add_memory(4 * MIB, MIB)

    with pytest.raises(KvmError, match="only dirty logging"):
        set_memory_region_flags(vm.kvm, slot, KVM_MEM_READONLY)

    generation = vm.kvm.memslots[0].generation
    set_memory_region_flags(vm.kvm, slot, slot.flags)
    assert vm.kvm.memslots[0].generation == generation


def test_the_log_tells_each_write_once(vm: VirtualMachine) -> None:
    slot = vm.add_memory(4 * MIB, MIB)
    cpu = vm.add_cpu()
    cpu.write(4 * MIB, 1)
    set_memory_region_flags(vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    cpu.write(4 * MIB, 2)
    cpu.write(4 * MIB, 3)

    assert kvm_vm_ioctl_get_dirty_log(vm.kvm, slot) == {Gfn(0x400)}
    assert kvm_vm_ioctl_get_dirty_log(vm.kvm, slot) == set()
    cpu.write(4 * MIB, 4)
    assert kvm_vm_ioctl_get_dirty_log(vm.kvm, slot) == {Gfn(0x400)}


def test_by_hand_only_what_is_cleared_is_logged_again(vm: VirtualMachine) -> None:
    vm.kvm.manual_dirty_log_protect = True
    slot = vm.add_memory(4 * MIB, MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)
    cpu = vm.add_cpu()
    cpu.write(4 * MIB, 1)
    cpu.write(4 * MIB + 0x1000, 1)

    assert kvm_vm_ioctl_get_dirty_log(vm.kvm, slot) == {Gfn(0x400), Gfn(0x401)}
    kvm_clear_dirty_log(vm.kvm, slot, {Gfn(0x401), Gfn(0x402)})
    assert kvm_vm_ioctl_get_dirty_log(vm.kvm, slot) == {Gfn(0x400)}


def test_without_a_log_there_is_nothing_to_get(vm: VirtualMachine) -> None:
    slot = vm.add_memory(4 * MIB, MIB)

    with pytest.raises(KvmError, match="no dirty log"):
        kvm_vm_ioctl_get_dirty_log(vm.kvm, slot)
    with pytest.raises(KvmError, match="no dirty log"):
        kvm_clear_dirty_log(vm.kvm, slot, set())


def test_the_limit_of_shadow_pages_follows_the_memory(vm: VirtualMachine) -> None:
    assert vm.kvm.n_max_mmu_pages == 64
    slot = vm.add_memory(64 * MIB, 64 * MIB)
    assert vm.kvm.n_max_mmu_pages == (512 + 16384) // 50
    delete_memory_region(vm.kvm, slot)
    assert vm.kvm.n_max_mmu_pages == 64

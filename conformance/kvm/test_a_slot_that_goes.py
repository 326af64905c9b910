"""While a slot is deleted or moved: it is there until all that was made of it is gone, and of no use to anybody."""

import pytest

from conformance.looking import reached
from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from mmu_model.kernels import KERNELS
from mmu_model.kvm.fault import RET_PF_RETRY
from mmu_model.kvm.memory_region import move_memory_region, replace_slot
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KvmMemorySlot
from mmu_model.kvm.page_fault import kvm_mmu_page_fault
from mmu_model.kvm.roots import serve_requests
from mmu_model.kvm.task import Steps, finish
from mmu_model.snapshot import MmuKind

pytestmark = pytest.mark.parametrize("kernel", KERNELS)
UNUSED = GIB + 64 * PAGE
"""In the slot, and far from what the guest used."""

FLAGS = pytest.mark.parametrize("flags", [0, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY])


def going(kernel: str, mmu: MmuKind, flags: int) -> tuple[Scene, KvmMemorySlot, Steps[None]]:
    """A guest that has used a slot at 1 GiB; the slot is to go, and is invalid by now."""
    scene = guest(kernel, mmu)
    slot = scene.vm.add_memory(GIB, MIB, flags=flags)
    scene.vm.memory.write(GIB, 77)
    assert scene.reads(GIB) == 77
    generation = scene.vm.kvm.memslots[0].generation
    steps = replace_slot(scene.vm.kvm, slot, None)
    while scene.vm.kvm.memslots[0].generation != generation + 2:
        next(steps)
    return scene, slot, steps


@FLAGS
def test_nobody_gets_at_the_memory_of_a_slot_that_goes(kernel: str, mmu: MmuKind, flags: int) -> None:
    """Faults are tried again, and neither KVM nor the process finds anything; afterwards there is no memory."""
    scene, slot, steps = going(kernel, mmu, flags)

    found = scene.vm.kvm.memslots[0].find(GIB // PAGE)
    assert found is slot
    assert scene.vm.memory.hpa(GIB) is None
    with pytest.raises(LookupError, match="no memory at guest-physical 0x40000000"):
        scene.vm.memory.read(GIB)
    with pytest.raises(LookupError):
        scene.vm.memory.write(GIB + 8, 1)
    finish(serve_requests(scene.cpu.vcpu))
    for error_code in (0, 2):
        assert kvm_mmu_page_fault(scene.cpu.vcpu, UNUSED, error_code) is RET_PF_RETRY
    assert UNUSED // PAGE not in {leaf.offset for leaf in reached(scene.vm.snapshot())}

    finish(steps)
    scene.vm.devices[GIB] = 5
    assert scene.reads(GIB) == 5
    assert scene.vm.kvm.memslots[0].find(GIB // PAGE) is None


@FLAGS
def test_a_slot_that_moved_is_of_use_again(kernel: str, mmu: MmuKind, flags: int) -> None:
    """With the flags and the memory that it had."""
    scene = guest(kernel, mmu)
    slot = scene.vm.add_memory(GIB, MIB, flags=flags)
    scene.vm.memory.write(GIB, 77)
    scene.reads(GIB)

    moved = move_memory_region(scene.vm.kvm, slot, 2 * GIB)

    assert (moved.flags, moved.id, moved.as_id) == (flags, slot.id, slot.as_id)
    assert scene.reads(2 * GIB) == 77
    assert scene.vm.memory.hpa(GIB) is None
    assert scene.vm.memory.hpa(2 * GIB + 8) == scene.vm.process.hpa(slot.userspace_addr + 8)

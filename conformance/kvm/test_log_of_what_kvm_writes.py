"""What KVM writes to the guest's memory for the guest is in the dirty log; what the process writes is not."""

import pytest

from conformance.looking import reached
from conformance.scenes import PAGE, USED, Scene, editing_guest, guest
from mmu_model.hardware import Gfn
from mmu_model.kernels import KERNELS
from mmu_model.kvm.dirty_log import get_dirty_log, kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.snapshot import MmuKind

pytestmark = pytest.mark.parametrize("kernel", KERNELS)


def start_logging(scene: Scene) -> None:
    """Writes to the guest's memory are logged from now on."""
    (slot,) = scene.vm.kvm.memslots[0]
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)


def logged(scene: Scene) -> set[Gfn]:
    """What was written since this was last asked."""
    (slot,) = scene.vm.kvm.memslots[0]
    return kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot)


def tables_of(scene: Scene, address: int) -> dict[int, int]:
    """The frame of the guest's table of each level that translates an address."""
    assert scene.tables is not None
    return {level: scene.tables.entry_address(address, level) // PAGE for level in (1, 2, 3, 4)}


def test_flags_that_kvm_sets_in_the_guests_tables_are_logged(kernel: str) -> None:
    """With shadow paging: A at all levels by a read, D at the last by a write; nothing if they are set already."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    start_logging(scene)
    tables = tables_of(scene, 0x5000)

    scene.reads(0x5000)
    assert logged(scene) == set(tables.values())
    scene.cpu.write(0x5000, 1)
    assert logged(scene) == {tables[1], 6}
    scene.cpu.write(0x5000, 2)
    assert logged(scene) == {6}
    scene.reads(0x5000)
    assert logged(scene) == set()


def test_flags_that_are_set_are_not_written_again(kernel: str) -> None:
    """The guest has marked its entries itself: its tables stay as they are."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000}, mapped_flags=USED)
    scene.cpu.read(0x5000)
    scene.cpu.set_registers(scene.cpu.vcpu.registers)
    start_logging(scene)

    scene.cpu.write(0x5000, 1)

    assert logged(scene) == {6}


def test_a_write_that_is_emulated_is_logged(kernel: str) -> None:
    """To an upper table of the guest that is shadowed: at every write KVM wants to see it."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.reads(0x5000)
    scene.reads(scene.gpte(0x5000, 2))
    start_logging(scene)
    table = tables_of(scene, 0x5000)[2]

    for _ in range(2):
        scene.edit(0x5000, scene.cpu.read(scene.gpte(0x5000, 2)), 2)
        assert table in logged(scene)
    assert scene.reads(0x5000) == 0


def test_what_the_process_writes_is_not_logged(kernel: str, mmu: MmuKind) -> None:
    """It knows that it did."""
    scene = guest(kernel, mmu)
    scene.cpu.write(0x5000, 1)
    start_logging(scene)

    scene.vm.memory.write(0x5000, 2)

    assert logged(scene) == set()
    assert scene.reads(0x5000) == 2
    assert logged(scene) == set()


def test_flags_that_kvm_sets_do_not_disturb_it(kernel: str) -> None:
    """That an entry of the guest changed since it was read would be a reason to try again; that one is no change."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000, 0x7000: 0x8000})
    stat = scene.cpu.vcpu.stat

    scene.cpu.write(0x5000, 1)
    scene.reads(0x7000)

    assert (stat["pf_taken"], stat["pf_fixed"], stat["pf_retry"]) == (2, 2, 0)


def test_a_frame_leaves_the_log_before_it_is_protected(kernel: str, mmu: MmuKind) -> None:
    """A write in between is lost from neither: it has gone to memory before the process copies that. The other way
    round, the fault of a write would note a frame that then leaves the log."""
    scene = guest(kernel, mmu)
    start_logging(scene)
    scene.cpu.write(0x5000, 1)
    (slot,) = scene.vm.kvm.memslots[0]
    bitmap = slot.dirty_bitmap
    assert bitmap == {5}

    def state() -> tuple[bool, bool]:
        (leaf,) = (leaf for leaf in reached(scene.vm.snapshot()) if leaf.offset == 5)
        return bool(bitmap), leaf.spte.writable

    seen = [state() for _ in get_dirty_log(scene.vm.kvm, slot)]

    assert list(dict.fromkeys([*seen, state()])) == [(True, True), (False, True), (False, False)]

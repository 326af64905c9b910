"""Page-modification logging under KVM: what the processor logged is in the dirty log after each exit."""

import pytest

from conformance.scenes import MIB, NESTED_TABLES, PAGE, TABLES, Scene, guest, nested_guest
from mmu_model.hardware import PageFault
from mmu_model.hardware.pml import PageModificationLog
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind


def start_logging(scene: Scene) -> None:
    """Of the memory at 0; all that was dirty until then is clean."""
    slot = scene.vm.kvm.memslots[0].by_id(0)
    assert slot is not None
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    dirty(scene)


def dirty(scene: Scene) -> set[int]:
    """What the process is told of, and clean from then on."""
    slot = scene.vm.kvm.memslots[0].by_id(0)
    assert slot is not None
    return set(kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot))


def logging_guest(kernel: str, paging: str = "off") -> Scene:
    """A guest that maps 0x5000 to 1 MiB, unless it has no paging."""
    mapped = {} if paging == "off" else {0x5000: MIB}
    scene = guest(
        kernel, MmuKind.TDP, paging, mapped=mapped, mapped_flags=3, tdp_format=TdpFormat.EPT, pml=True
    )
    start_logging(scene)
    return scene


def test_the_log_is_empty_outside_of_the_guest(kernel: str) -> None:
    """Each page that was written to is noted once, by its frame."""
    scene = logging_guest(kernel)
    for address in (0x5000, 0x5FF8, 0x7010):
        scene.cpu.write(address, 1)
        assert scene.cpu.vcpu.pml is not None
        assert len(scene.cpu.vcpu.pml) == 0

    assert dirty(scene) == {5, 7}
    scene.cpu.write(0x7000, 2)
    assert dirty(scene) == {7}


def test_what_was_logged_before_a_fault_is_noted_too(kernel: str) -> None:
    """The user has no access to the page; but the processor has written to the tables of the guest."""
    scene = logging_guest(kernel, "4-level")

    with pytest.raises(PageFault):
        scene.cpu.read(0x5000, cpl=3)

    assert dirty(scene) == {(TABLES >> 12) + n for n in range(4)}


def test_a_full_log_is_no_obstacle(kernel: str) -> None:
    """The processor leaves the guest before the write; KVM notes what is in the log, and it goes on."""
    scene = logging_guest(kernel)
    scene.cpu.read(0x5000)
    dirty(scene)
    log = scene.cpu.vcpu.pml
    assert log is not None
    for number in range(PageModificationLog.ENTRIES):
        log.append(MIB + number * PAGE)
    before = scene.cpu.vcpu.stat["pf_taken"]

    scene.cpu.write(0x5000, 7)

    assert scene.vm.memory.read(0x5000) == 7
    assert dirty(scene) == {5, *range(256, 256 + PageModificationLog.ENTRIES)}
    assert scene.cpu.vcpu.stat["pf_taken"] == before


def test_a_guest_of_the_guest_logs_nothing(kernel: str) -> None:
    """What would be logged are its own addresses; its writes are noticed by write protection instead."""
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x9000: 0x5000}, tdp_format=TdpFormat.EPT, pml=True)
    scene.cpu.read(0x9000)
    start_logging(scene)

    scene.cpu.write(0x9000, 9)

    assert scene.vm.memory.read(0x5000) == 9
    tables = set(range(NESTED_TABLES >> 12, (NESTED_TABLES >> 12) + 8))
    assert dirty(scene) - tables == {5}

"""Guest memory that is not simply there: swapped out, dropped, merged, or not to be written to."""

import pytest

from conformance.scenes import GIB, MIB, PAGE, guest, paging_registers
from mmu_model.hardware import Mode, PageFault
from mmu_model.hardware.tables import PageTables, frames_from
from mmu_model.kernels import KERNELS
from mmu_model.kvm.memslot import KVM_MEM_READONLY
from mmu_model.kvm.types import Hva, pa
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

pytestmark = pytest.mark.parametrize("kernel", KERNELS)


def hva(vm: VirtualMachine, gpa: int) -> Hva:
    """Where the process has a guest-physical address."""
    slot = vm.kvm.memslots[0].find(gpa // PAGE)
    assert slot is not None
    return slot.hva(gpa // PAGE)


def test_the_process_gets_at_what_was_swapped_out(kernel: str) -> None:
    """A read or a write of it brings the page back, with all else that was in it."""
    vm = guest(kernel, MmuKind.TDP).vm
    for gpa in (0x5000, 0x6008):
        vm.memory.write(gpa, gpa)
        vm.process.swap_out(hva(vm, gpa))
        assert vm.memory.hpa(gpa) is None

    assert vm.memory.read(0x5000) == 0x5000
    vm.memory.write(0x6000, 7)
    assert (vm.memory.read(0x6000), vm.memory.read(0x6008)) == (7, 0x6008)


def test_dropped_memory_is_zero(kernel: str) -> None:
    """For readers and for writers; only these get frames."""
    vm = guest(kernel, MmuKind.TDP).vm
    for gpa in (0x5000, 0x6000, 0x6008):
        vm.memory.write(gpa, gpa)
    vm.process.madvise_dontneed(hva(vm, 0x5000), 2)

    assert vm.memory.read(0x5000) == 0
    vm.memory.write(0x6000, 7)
    assert (vm.memory.read(0x6000), vm.memory.read(0x6008)) == (7, 0)
    assert vm.memory.hpa(0x5000) == pa(vm.host.zero_page)
    assert vm.host.words(vm.host.zero_page) == [0] * 512


def test_merged_pages_are_parted_by_whoever_writes(kernel: str, mmu: MmuKind) -> None:
    """The process, and the guest; each time the other page stays as it was."""
    scene = guest(kernel, mmu)
    vm = scene.vm
    for gpa in (0x5000, 0x6000):
        vm.memory.write(gpa, 3)
        scene.cpu.read(gpa)

    vm.process.merge(hva(vm, 0x5000), hva(vm, 0x6000))
    vm.memory.write(0x5000, 4)
    assert (scene.reads(0x5000), scene.reads(0x6000)) == (4, 3)

    vm.memory.write(0x5000, 3)
    vm.process.merge(hva(vm, 0x5000), hva(vm, 0x6000))
    scene.cpu.write(0x6000, 5)
    assert (vm.memory.read(0x5000), vm.memory.read(0x6000)) == (3, 5)


@pytest.mark.parametrize("readonly", ["slot", "process"])
def test_tables_that_cannot_be_written_keep_their_flags(kernel: str, readonly: str) -> None:
    """With shadow paging KVM walks them and sets neither A nor D; the guest gets its memory none the less."""
    scene = guest(kernel, MmuKind.SHADOW)
    flags = KVM_MEM_READONLY if readonly == "slot" else 0
    scene.vm.add_memory(GIB, MIB, flags=flags)
    tables = PageTables(scene.vm.memory, Mode.FOUR_LEVEL, frames_from(GIB))
    tables.map(0x5000, 0x6000)
    tables.map(0x7000, 0x8000, flags=5)
    if readonly == "process":
        scene.vm.process.mprotect(hva(scene.vm, GIB), MIB // PAGE, writable=False)
    entries = [tables.entry_address(address, level) for address in (0x5000, 0x7000) for level in (1, 2, 3, 4)]
    before = [scene.vm.memory.read(entry) for entry in entries]
    scene.cpu.set_registers(paging_registers(Mode.FOUR_LEVEL, tables.root))

    scene.vm.memory.write(0x6000, 77)
    assert scene.reads(0x5000) == 77
    scene.cpu.write(0x5008, 5)
    assert scene.vm.memory.read(0x6008) == 5
    with pytest.raises(PageFault):
        scene.cpu.write(0x7000, 1)
    assert [scene.vm.memory.read(entry) for entry in entries] == before

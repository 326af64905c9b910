"""When KVM flushes TLBs, and when it spares it; what the process may ask for, and what is refused."""

from collections.abc import Callable

import pytest

from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from mmu_model.kvm.dirty_log import kvm_clear_dirty_log, kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.memory_region import (
    add_memory_region,
    delete_memory_region,
    move_memory_region,
    set_memory_region_flags,
)
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KvmMemorySlot
from mmu_model.kvm.types import Hva
from mmu_model.snapshot import MmuKind

SIZE = 2 * MIB
END = 1 << 64


def slot_of(scene: Scene) -> KvmMemorySlot:
    """The slot at 1 GiB."""
    slot = scene.vm.kvm.memslots[0].by_id(1)
    assert slot is not None
    return slot


def drop(scene: Scene, page: int) -> None:
    """The process does without a page of it."""
    scene.vm.process.madvise_dontneed(Hva(slot_of(scene).userspace_addr + page * PAGE), 1)


def log(scene: Scene, *, on: bool) -> None:
    """Dirty logging of the slot."""
    set_memory_region_flags(scene.vm.kvm, slot_of(scene), KVM_MEM_LOG_DIRTY_PAGES * on)


def read_log(scene: Scene) -> None:
    """What was written, from now on anew."""
    kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot_of(scene))


def ask(scene: Scene) -> None:
    """The host asks what was used."""
    scene.vm.process.was_used(slot_of(scene).userspace_addr, SIZE // PAGE)


def read_again(scene: Scene) -> None:
    """The guest goes on reading, here and elsewhere."""
    for n in range(8):
        scene.reads(GIB + n * PAGE)


def drop_first(scene: Scene) -> None:
    """A page that the guest uses."""
    drop(scene, 0)


def drop_another(scene: Scene) -> None:
    """A page that it does not use."""
    drop(scene, 9)


def write_and_log(scene: Scene) -> None:
    """The guest writes to what is logged."""
    log(scene, on=True)
    scene.cpu.write(GIB, 3)


def write_log_and_read(scene: Scene) -> None:
    """And the process reads the log."""
    write_and_log(scene)
    read_log(scene)


@pytest.mark.parametrize(
    ("before", "event", "flushes"),
    [
        (read_again, read_again, 0),
        (read_again, drop_first, 1),
        (read_again, drop_another, 0),
        (drop_first, drop_first, 0),
        (write_and_log, read_log, 1),
        (write_log_and_read, read_log, 0),
        (ask, read_again, 0),
        (ask, ask, 0),
    ],
)
def test_a_flush_has_a_reason(
    kernel: str, mmu: MmuKind, before: Callable[[Scene], None], event: Callable[[Scene], None], flushes: int
) -> None:
    """One for what was mapped or writable and is not to be any more; none where nothing was."""
    scene = guest(kernel, mmu, memory={GIB: SIZE})
    for n in range(2):
        scene.cpu.write(GIB + n * PAGE, n)
    before(scene)
    stat = scene.vm.kvm.stat
    earlier = stat["remote_tlb_flush"]

    event(scene)

    assert stat["remote_tlb_flush"] - earlier == flushes


@pytest.mark.parametrize(
    ("slot_id", "gpa", "size", "offset", "flags", "as_id", "complaint"),
    [
        (2, GIB, PAGE, 0, 0, 0, "overlaps slot 1"),
        (2, GIB + SIZE - PAGE, SIZE, 0, 0, 0, "overlaps slot 1"),
        (2, GIB - SIZE, SIZE + PAGE, 0, 0, 0, "overlaps slot 1"),
        (1, 2 * GIB, PAGE, 0, 0, 0, "slot 1"),
        (2, 2 * GIB + 1, PAGE, 0, 0, 0, "its address"),
        (2, 2 * GIB, PAGE + 8, 0, 0, 0, "its size"),
        (2, 2 * GIB, PAGE, 0x800, 0, 0, "address in the process"),
        (2, 2 * GIB, 0, 0, 0, 0, "is empty"),
        (2, END - PAGE, 2 * PAGE, 0, 0, 0, "wraps around"),
        (2, -PAGE, PAGE, 0, 0, 0, "wraps around"),
        (2, 2 * GIB, PAGE, 0, 1 << 2, 0, "do not exist"),
        (2, 2 * GIB, PAGE, 0, 0, 2, "does not exist"),
        (2, 2 * GIB, PAGE, 0, 0, -1, "does not exist"),
    ],
)
def test_slots_that_cannot_be(
    slot_id: int, gpa: int, size: int, offset: int, flags: int, as_id: int, complaint: str
) -> None:
    """They are refused, and the VM is as it was."""
    scene = guest("6.12", MmuKind.TDP, memory={GIB: SIZE})
    before = scene.vm.snapshot()
    hva = Hva(slot_of(scene).userspace_addr + offset)

    with pytest.raises(KvmError, match=complaint):
        add_memory_region(scene.vm.kvm, slot_id, gpa, size, hva, flags=flags, as_id=as_id)

    assert scene.vm.snapshot() == before
    assert sum(1 for _ in scene.vm.kvm.memslots[0]) == 2


@pytest.mark.parametrize(
    ("slot_id", "gpa", "size", "flags", "as_id"),
    [
        (2, GIB + SIZE, PAGE, 0, 0),
        (2, GIB - PAGE, PAGE, KVM_MEM_READONLY, 0),
        (7, 2 * GIB, PAGE, KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY, 0),
        (1, GIB, PAGE, 0, 1),
    ],
)
def test_slots_that_can_be(slot_id: int, gpa: int, size: int, flags: int, as_id: int) -> None:
    """Side by side, read-only, of SMM."""
    scene = guest("6.12", MmuKind.TDP, memory={GIB: SIZE})
    hva = slot_of(scene).userspace_addr

    slot = add_memory_region(scene.vm.kvm, slot_id, gpa, size, hva, flags=flags, as_id=as_id)

    found = scene.vm.kvm.memslots[as_id].find(gpa >> 12)
    assert found is slot
    assert (slot.base_gfn, slot.npages, slot.flags, slot.id) == (gpa >> 12, size >> 12, flags, slot_id)


@pytest.mark.parametrize(
    ("to", "possible"), [(GIB + MIB, True), (MIB, False), (GIB + 8, False), (END - MIB, False)]
)
def test_where_a_slot_may_move(to: int, possible: bool) -> None:
    """Over itself, but not over another."""
    scene = guest("6.12", MmuKind.TDP, memory={GIB: SIZE})
    if possible:
        assert move_memory_region(scene.vm.kvm, slot_of(scene), to).base_gfn == to >> 12
        return
    with pytest.raises(KvmError):
        move_memory_region(scene.vm.kvm, slot_of(scene), to)
    assert slot_of(scene).base_gfn == GIB >> 12


def test_a_log_is_of_slots_that_log() -> None:
    """Nothing is to be read or cleared elsewhere, and a slot does not become read-only."""
    scene = guest("6.12", MmuKind.TDP, memory={GIB: SIZE})
    kvm, slot = scene.vm.kvm, slot_of(scene)
    with pytest.raises(KvmError):
        kvm_vm_ioctl_get_dirty_log(kvm, slot)
    with pytest.raises(KvmError):
        kvm_clear_dirty_log(kvm, slot, set())
    for flags in (KVM_MEM_READONLY, KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY, 1 << 2):
        with pytest.raises(KvmError):
            set_memory_region_flags(kvm, slot, flags)

    delete_memory_region(kvm, slot)
    assert kvm.memslots[0].by_id(1) is None


@pytest.mark.parametrize(
    ("sizes", "pages"), [({}, 64 * MIB // PAGE // 50), ({GIB: 64 * MIB}, 128 * MIB // PAGE // 50)]
)
def test_how_many_shadow_pages_there_may_be(sizes: dict[int, int], pages: int) -> None:
    """One for each 50 pages of memory, and 64 at least."""
    scene = guest("6.12", MmuKind.SHADOW, memory=sizes)
    assert scene.vm.snapshot().n_max_mmu_pages == pages

    for slot in list(scene.vm.kvm.memslots[0]):
        delete_memory_region(scene.vm.kvm, slot)
    assert scene.vm.snapshot().n_max_mmu_pages == 64

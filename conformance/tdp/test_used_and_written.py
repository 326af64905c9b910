"""What the TDP MMU tells of use: pages that were accessed since the host asked, and the log of writes."""

import pytest

from conformance.looking import backing
from conformance.races.actors import harvests
from conformance.races.truths import leaf, leafs
from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from conformance.tdp.touched import ADDRESSES, KERNEL, the_slot, touched_guest
from mmu_model.hardware import Gfn
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.locks import LockNotHeld
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.spte import is_writable_pte
from mmu_model.kvm.task import finish
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind
from mmu_model.tdp.notifier import kvm_tdp_mmu_age_gfn_range, kvm_tdp_mmu_test_age_gfn
from mmu_model.tdp.protect import kvm_tdp_mmu_clear_dirty_slot, kvm_tdp_mmu_wrprot_slot


@pytest.fixture
def scene() -> Scene:
    """A guest that has touched a few pages."""
    return touched_guest()


@pytest.mark.parametrize("tdp_format", TdpFormat)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value)
def test_the_host_is_told_once_whether_a_page_was_used(mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """By the accessed flag, or, where there is none, because the page faults when it is used again."""
    scene = guest(KERNEL, mmu, tdp_format=tdp_format)
    for address in ADDRESSES:
        scene.cpu.write(address, address + 1)
    process, hva = scene.vm.process, the_slot(scene).hva(5)
    found = [process.was_used(hva, 1, forget=forget) for forget in (False, True, True, False)]
    assert scene.reads(0x5000) == 0x5001
    found += [process.was_used(hva, 1), process.was_used(the_slot(scene).hva(0), 1)]

    assert found == [True, True, False, False, True, True]


def old_page() -> Scene:
    """A guest without accessed flags has written to a page; the host was told, and has cleaned it."""
    scene = guest(KERNEL, MmuKind.TDP, tdp_format=TdpFormat.EPT_WITHOUT_AD)
    scene.cpu.write(0x5000, 7)
    assert scene.vm.process.was_used(the_slot(scene).hva(5), 1)
    return scene


def test_without_accessed_flags_an_old_page_permits_nothing() -> None:
    """R and X are kept elsewhere in the spte; that it was written the frame knows now."""
    scene = old_page()
    aged = scene.vm.host.read(leaf(scene.vm, 0x5000))

    assert (aged & 7, aged >> 54 & 7) == (0, 0b101)
    assert scene.vm.kvm.masks.is_access_track(aged)
    assert backing(scene.vm, 5) in scene.vm.host.dirty


@pytest.mark.parametrize(("write", "rights"), [(False, 0b101), (True, 0b111)])
def test_an_old_page_is_used_again_without_the_lock(write: bool, rights: int) -> None:
    """A read gets R and X back, and a write W too, for nothing forbids it."""
    scene = old_page()
    if write:
        scene.cpu.write(0x5000, 8)
    else:
        scene.cpu.read(0x5000)

    spte = scene.vm.host.read(leaf(scene.vm, 0x5000))
    assert (spte & 7, spte >> 54 & 7) == (rights, 0)
    assert scene.cpu.vcpu.stat["pf_fast"] == 1
    assert scene.reads(0x5000) == 7 + write


def test_an_old_page_whose_writes_are_logged_is_logged_when_it_is_written() -> None:
    scene = guest(KERNEL, MmuKind.TDP, tdp_format=TdpFormat.EPT_WITHOUT_AD)
    slot = scene.vm.add_memory(GIB, MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)
    scene.cpu.write(GIB, 1)
    finish(harvests(scene.vm, slot, {}))
    assert scene.vm.process.was_used(slot.userspace_addr, 1)

    scene.cpu.read(GIB)
    assert not slot.dirty_bitmap
    scene.cpu.write(GIB, 2)

    assert slot.dirty_bitmap == {GIB // PAGE}
    assert scene.cpu.vcpu.stat["pf_fast"] == 2


def test_only_who_holds_the_lock_makes_pages_old(scene: Scene) -> None:
    kvm, slot = scene.vm.kvm, the_slot(scene)
    with pytest.raises(LockNotHeld):
        finish(kvm_tdp_mmu_age_gfn_range(kvm, slot, Gfn(5), Gfn(6)))
    with pytest.raises(LockNotHeld):
        kvm_tdp_mmu_test_age_gfn(kvm, slot, Gfn(5), Gfn(6))


def test_writes_are_logged_again_after_the_log_was_fetched() -> None:
    """The first write is in the log; then W is gone; the next write gets it back without mmu_lock."""
    scene = guest(KERNEL, MmuKind.TDP)
    slot = scene.vm.add_memory(GIB, MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)
    scene.cpu.write(GIB, 1)
    log: dict[Gfn, int] = {}
    finish(harvests(scene.vm, slot, log))

    assert log == {GIB // PAGE: 1}
    assert not is_writable_pte(scene.vm.host.read(leaf(scene.vm, GIB)))
    assert not slot.dirty_bitmap
    scene.cpu.write(GIB, 2)
    assert slot.dirty_bitmap == {GIB // PAGE}
    assert scene.cpu.vcpu.stat["pf_fast"] == 1


@pytest.mark.parametrize("pml", [False, True], ids=["W", "D"])
def test_the_log_has_every_page_that_was_written_since_it_was_fetched(pml: bool) -> None:
    """By a fault at the first write to each, or, where the processor logs writes, without any."""
    scene = guest(KERNEL, MmuKind.TDP, tdp_format=TdpFormat.EPT, pml=pml)
    slot = scene.vm.add_memory(GIB, MIB)
    pages = range(GIB, GIB + 3 * PAGE, PAGE)
    for page in pages:
        scene.cpu.write(page, 1)
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    logged, faults_before = [], scene.cpu.vcpu.stat["pf_taken"]
    for written in (pages[:2], pages[1:], ()):
        for page in written:
            scene.cpu.write(page, 2)
        logged.append(kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot))

    assert logged == [{page // PAGE for page in written} for written in (pages[:2], pages[1:], ())]
    assert scene.cpu.vcpu.stat["pf_taken"] - faults_before == (0 if pml else 4)


def test_a_log_of_the_processor_needs_dirty_flags_and_the_tdp_mmu() -> None:
    with pytest.raises(ValueError, match="page-modification logging needs"):
        guest(KERNEL, MmuKind.TDP, pml=True)
    with pytest.raises(ValueError, match="page-modification logging needs"):
        guest(KERNEL, MmuKind.DIRECT, tdp_format=TdpFormat.EPT, pml=True)


def test_a_whole_slot_is_write_protected_or_made_clean(scene: Scene) -> None:
    kvm, slot = scene.vm.kvm, the_slot(scene)
    with kvm.mmu_lock.read:
        clean = [finish(kvm_tdp_mmu_clear_dirty_slot(kvm, slot)) for _ in range(2)]
        dirty = [kvm.masks.is_dirty(spte) for _, _, spte in leafs(scene.vm)]
        protected = [finish(kvm_tdp_mmu_wrprot_slot(kvm, slot)) for _ in range(2)]

    assert clean == protected == [True, False]
    assert not any(dirty)
    assert not any(is_writable_pte(spte) for _, _, spte in leafs(scene.vm))

"""Section "Reaction to events": the host puts another page in the place of one, and says which (change_pte)."""

import pytest

from conformance.looking import backing
from conformance.scenes import Scene, guest
from mmu_model.hardware import Gfn, Pfn
from mmu_model.kvm import notifier
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.process import HostMapping
from mmu_model.kvm.spte import PT_WRITABLE_MASK
from mmu_model.kvm.task import finish
from mmu_model.snapshot import MmuKind, Spte
from mmu_model.snapshot.spte import Kind

DROP = "reaction-to-events/notifier-drop/translations"
GFN = Gfn(5)


def written(kernel: str, mmu: MmuKind) -> tuple[Scene, KvmMemorySlot]:
    """A guest that has written 7 to a page, and the slot."""
    scene = guest(kernel, mmu)
    scene.cpu.write(GFN << 12, 7)
    (slot,) = scene.vm.kvm.memslots[0]
    return scene, slot


def leaves(scene: Scene, pfn: int | None) -> list[Spte]:
    """The sptes of level 1 that map a frame of the host."""
    sptes = [spte for page in scene.vm.snapshot().pages for spte in page.sptes().values()]
    return [spte for spte in sptes if spte.kind is Kind.LEAF and spte.level == 1 and spte.pfn == pfn]


@pytest.mark.spec(DROP)
@pytest.mark.parametrize("writable", [False, True])
def test_sptes_of_a_page_that_is_replaced_are_dropped(kernel: str, mmu: MmuKind, writable: bool) -> None:
    """6.1 listens to what the new page is; but the change was announced before, so the sptes have gone by then. In
    both kernels the guest faults the new page in."""
    scene, slot = written(kernel, mmu)
    old = backing(scene.vm, GFN)

    new = scene.vm.process.replace_page(slot.hva(GFN), writable=writable)

    assert (len(leaves(scene, old)), len(leaves(scene, new))) == (0, 0)
    assert scene.reads(GFN << 12) == 7
    assert [bool(spte.raw & PT_WRITABLE_MASK) for spte in leaves(scene, new)] == [writable]


@pytest.mark.spec(DROP)
@pytest.mark.parametrize("writable", [False, True])
def test_sptes_that_were_left_would_be_updated(kernel: str, mmu: MmuKind, writable: bool) -> None:
    """Edge: if an spte were left by then, 6.1 would make it map the new page, without the right to write, or drop it
    if the page may be written to. 6.12 would not."""
    scene, slot = written(kernel, mmu)
    vm, old, new = scene.vm, backing(scene.vm, GFN), Pfn(0x12_3456)
    vm.kvm.mn_active_invalidate_count += 1
    with vm.kvm.mmu_lock.write:
        notifier.mmu_invalidate_begin(vm.kvm)

    finish(notifier.change_pte(vm.kvm, slot.hva(GFN), HostMapping(new, 1, writable)))

    updated = [bool(spte.raw & PT_WRITABLE_MASK) for spte in leaves(scene, new)]
    if kernel == "6.12":
        assert (len(leaves(scene, old)), updated) == (1, [])
    else:
        assert (len(leaves(scene, old)), updated) == (0, [] if writable else [False])

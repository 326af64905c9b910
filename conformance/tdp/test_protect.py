"""Which sptes of the TDP MMU lose W, D or A, and whether the caller is told to flush; what it refuses."""

import pytest

from conformance.looking import backing
from conformance.races.actors import lets_go, obtains_root
from conformance.races.truths import leaf, leafs
from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from conformance.tdp.touched import KERNEL, the_slot, touched_guest
from mmu_model.hardware import Gfn, Pfn
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.process import HostMapping
from mmu_model.kvm.spte import PT_WRITABLE_MASK, is_writable_pte, spte_to_pfn
from mmu_model.kvm.task import Task, WouldWaitForEver, finish, running
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind
from mmu_model.tdp.notifier import (
    kvm_tdp_mmu_age_gfn_range,
    kvm_tdp_mmu_set_spte_gfn,
    kvm_tdp_mmu_test_age_gfn,
)
from mmu_model.tdp.protect import (
    kvm_tdp_mmu_clear_dirty_pt_masked,
    kvm_tdp_mmu_clear_dirty_slot,
    kvm_tdp_mmu_write_protect_gfn,
    kvm_tdp_mmu_wrprot_slot,
)
from mmu_model.tdp.zap import kvm_tdp_mmu_zap_invalidated_roots, kvm_tdp_mmu_zap_sp, tdp_mmu_zap_root


def writable(scene: Scene) -> list[int]:
    """The frames of the guest that it may write to without a fault."""
    return sorted(
        sp.gfn + (index << 9 * (sp.role.level - 1))
        for sp, index, spte in leafs(scene.vm)
        if is_writable_pte(spte)
    )


@pytest.mark.parametrize("level", [1, 2])
def test_one_frame_is_protected_once(level: int) -> None:
    """By whatever size of page it is mapped, and no other; a second time there is nothing to flush."""
    scene = guest(KERNEL, MmuKind.TDP, host_level=level)
    pages = [0x5000, 0x6000, 0x7000] if level == 1 else [0, 2 * MIB, 4 * MIB]
    for page in pages:
        scene.cpu.write(page, 1)
    kvm, gfn = scene.vm.kvm, Gfn((pages[1] >> 12) + (3 if level == 2 else 0))

    with kvm.mmu_lock.write:
        told = [finish(kvm_tdp_mmu_write_protect_gfn(kvm, the_slot(scene), gfn)) for _ in range(2)]
        nothing = finish(kvm_tdp_mmu_write_protect_gfn(kvm, the_slot(scene), Gfn(8 * MIB >> 12)))

    assert (told, nothing) == ([True, False], False)
    assert writable(scene) == [pages[0] >> 12, pages[2] >> 12]
    assert len(list(leafs(scene.vm))) == 3


def test_what_is_write_protected_only_for_the_log_is_protected_for_a_table_as_well() -> None:
    """A fault may give W back after the one, and not after the other."""
    scene = touched_guest()
    kvm, slot = scene.vm.kvm, the_slot(scene)
    with kvm.mmu_lock.read:
        finish(kvm_tdp_mmu_wrprot_slot(kvm, slot))
    before = scene.vm.host.read(leaf(scene.vm, 0x5000))
    with kvm.mmu_lock.write:
        told = finish(kvm_tdp_mmu_write_protect_gfn(kvm, slot, Gfn(5)))
    after = scene.vm.host.read(leaf(scene.vm, 0x5000))

    assert told
    assert (kvm.masks.is_mmu_writable(before), kvm.masks.is_mmu_writable(after)) == (True, False)


@pytest.mark.parametrize("pml", [False, True])
def test_the_log_is_about_small_pages_that_were_asked_for(pml: bool) -> None:
    """Large ones stay as they are, and other frames; the host is told that those were written."""
    scene = guest(KERNEL, MmuKind.TDP, tdp_format=TdpFormat.EPT, pml=pml)
    scene.vm.add_memory(GIB, 4 * MIB, level=2)
    for address in (0x5000, 0x6000, 0x7000, GIB):
        scene.cpu.write(address, 1)
    kvm, slot = scene.vm.kvm, the_slot(scene)
    *_, large = kvm.memslots[0]
    before = {(sp, index): spte for sp, index, spte in leafs(scene.vm)}
    scene.vm.host.dirty.clear()

    with kvm.mmu_lock.write:
        finish(kvm_tdp_mmu_clear_dirty_pt_masked(kvm, slot, [Gfn(7), Gfn(5), Gfn(8)], wrprot=not pml))
        finish(kvm_tdp_mmu_clear_dirty_pt_masked(kvm, large, [Gfn(GIB >> 12)], wrprot=not pml))

    bit = kvm.masks.dirty if pml else PT_WRITABLE_MASK
    changed = {
        sp.gfn + index: before[sp, index] ^ spte
        for sp, index, spte in leafs(scene.vm)
        if spte != before[sp, index]
    }
    assert changed == {5: bit, 7: bit}
    assert scene.vm.host.dirty == {backing(scene.vm, 5), backing(scene.vm, 7)}


@pytest.mark.parametrize(("min_level", "left"), [(1, []), (2, [5]), (3, [5, GIB >> 12])])
def test_pages_may_be_protected_from_a_size_up(min_level: int, left: list[int]) -> None:
    """Those smaller are left to the processor's log."""
    scene = guest(KERNEL, MmuKind.TDP)
    *_, large = scene.vm.kvm.memslots[0], scene.vm.add_memory(GIB, 4 * MIB, level=2)
    scene.cpu.write(0x5000, 1)
    scene.cpu.write(GIB, 1)
    kvm = scene.vm.kvm
    with kvm.mmu_lock.read:
        told = [finish(kvm_tdp_mmu_wrprot_slot(kvm, slot, min_level)) for slot in kvm.memslots[0]]

    assert writable(scene) == left
    assert told == [5 not in left, GIB >> 12 not in left]
    assert large is not None


@pytest.mark.parametrize("work", [kvm_tdp_mmu_wrprot_slot, kvm_tdp_mmu_clear_dirty_slot])
def test_a_slot_ends_where_it_ends(work: object) -> None:
    """Its neighbours on both sides are left alone."""
    scene = guest(KERNEL, MmuKind.TDP)
    slots = [scene.vm.add_memory(GIB + number * 4 * PAGE, 4 * PAGE) for number in range(3)]
    pages = range(GIB, GIB + 12 * PAGE, PAGE)
    for page in pages:
        scene.cpu.write(page, 1)
    before = [scene.vm.host.read(leaf(scene.vm, page)) for page in pages]
    with scene.vm.kvm.mmu_lock.read:
        assert finish(work(scene.vm.kvm, slots[1]))  # type: ignore[operator]

    changed = [
        scene.vm.host.read(leaf(scene.vm, page)) != was for page, was in zip(pages, before, strict=True)
    ]
    assert changed == [False] * 4 + [True] * 4 + [False] * 4


@pytest.mark.parametrize("tdp_format", TdpFormat)
def test_use_is_asked_for_frame_by_frame(tdp_format: TdpFormat) -> None:
    """Of a range, its frames and no others; what is not mapped was not used."""
    scene = guest(KERNEL, MmuKind.TDP, tdp_format=tdp_format)
    for page in (0x4000, 0x5000, 0x6000):
        scene.cpu.write(page, 1)
    kvm, slot = scene.vm.kvm, the_slot(scene)

    def young(first: int, behind: int) -> bool:
        return kvm_tdp_mmu_test_age_gfn(kvm, slot, Gfn(first), Gfn(behind))

    with kvm.mmu_lock.write:
        before = [young(4, 5), young(5, 6), young(6, 7), young(7, 9)]
        made_old = [finish(kvm_tdp_mmu_age_gfn_range(kvm, slot, Gfn(5), Gfn(6))) for _ in range(2)]
        after = [young(4, 5), young(5, 6), young(6, 7), young(4, 7)]

    assert before == [True, True, True, False]
    assert made_old == [True, False]
    assert after == [True, False, True, True]


@pytest.mark.parametrize(("level", "found"), [(1, True), (2, False)])
@pytest.mark.parametrize("can_write", [False, True])
def test_small_sptes_are_made_to_map_what_replaced_their_page(
    level: int, found: bool, can_write: bool
) -> None:
    """6.1: one that may be written to goes instead, for it is another page's business. Large ones are none of it."""
    scene = guest("6.1", MmuKind.TDP, host_level=level)
    scene.cpu.write(0, 1)
    kvm = scene.vm.kvm
    ((_, _, before),) = leafs(scene.vm)
    new = Pfn(spte_to_pfn(before) + 0x40)

    with kvm.mmu_lock.write:
        told = [
            finish(kvm_tdp_mmu_set_spte_gfn(kvm, the_slot(scene), Gfn(gfn), HostMapping(new, 1, can_write)))
            for gfn in (1, 0)
        ]

    assert told == [False, found]
    after = [spte for _, _, spte in leafs(scene.vm)]
    if level == 2:
        assert after == [before]
    elif can_write:
        assert after == []
    else:
        assert [(spte_to_pfn(spte), is_writable_pte(spte)) for spte in after] == [(new, False)]


def test_what_is_refused() -> None:
    """The kernel warns of it, and goes on."""
    scene = touched_guest()
    kvm, (root,) = scene.vm.kvm, scene.vm.kvm.tdp_mmu_roots
    with kvm.mmu_lock.write, pytest.raises(KvmBug, match="by the spte that points at it"):
        finish(kvm_tdp_mmu_zap_sp(kvm, root))
    root.tdp_mmu_scheduled_root_to_zap = True
    with pytest.raises(KvmBug, match="still valid"):
        finish(kvm_tdp_mmu_zap_invalidated_roots(kvm))
    root.tdp_mmu_root_count = 0
    with kvm.mmu_lock.read, pytest.raises(KvmBug, match="nobody has a reference to"):
        finish(tdp_mmu_zap_root(kvm, root))
    assert len(list(leafs(scene.vm))) == 4


def test_roots_are_got_by_readers_together_or_by_one_alone(kernel: str) -> None:
    """6.1: by who holds mmu_lock for write. To let go of one is for readers."""
    scene = guest(kernel, MmuKind.TDP)
    scene.cpu.read(0)
    second, reader = scene.vm.add_cpu().vcpu, Task("reader")
    lock = scene.vm.kvm.mmu_lock
    with running(reader):
        lock.read.acquire()
    waits = obtains_root(second)
    if kernel == "6.1":
        with pytest.raises(WouldWaitForEver, match=r"mmu_lock \(read\) is held by reader"):
            finish(waits)
    else:
        finish(waits)
    finish(lets_go(scene.cpu.vcpu))
    with running(reader):
        lock.read.release()
    finish(obtains_root(second))
    assert second.root_mmu.root.hpa == scene.vm.kvm.tdp_mmu_roots[0].hpa
    assert second.root_mmu.root.pgd == 0

"""The TDP MMU, one operation at a time."""

import pytest

from conformance.looking import backing, structs
from conformance.races.actors import faults, zaps_all
from conformance.races.truths import leaf, leafs, whole
from conformance.scenes import MIB, PAGE, Scene, guest, nested_guest
from conformance.tdp.touched import KERNEL, the_slot, touched_guest
from mmu_model.hardware import Gfn, Registers
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.locks import LockNotHeld
from mmu_model.kvm.notifier import gfn_range, invalidate_range_end, invalidate_range_start
from mmu_model.kvm.spte import is_writable_pte, spte_to_pfn
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import PG_LEVEL_2M, Hva
from mmu_model.schedule import Race, blocked_steps
from mmu_model.snapshot import MmuKind
from mmu_model.tdp.changed import handle_changed_spte, tdp_mmu_set_spte_atomic
from mmu_model.tdp.iter import TdpIter
from mmu_model.tdp.root import kvm_tdp_mmu_put_root
from mmu_model.tdp.zap import kvm_tdp_mmu_invalidate_all_roots, tdp_mmu_zap_leafs


@pytest.fixture
def scene() -> Scene:
    """A guest that has touched a few pages."""
    return touched_guest()


def mapped(scene: Scene) -> list[int]:
    """The addresses that a leaf of level 1 maps."""
    return sorted((sp.gfn + index) * PAGE for sp, index, _ in leafs(scene.vm) if sp.role.level == 1)


def test_a_walk_visits_every_entry_a_table_before_what_is_below(scene: Scene) -> None:
    kvm = scene.vm.kvm
    (root,) = kvm.tdp_mmu_roots
    with kvm.rcu.read:
        place = TdpIter(kvm, root, Gfn(0))
        seen = []
        while place.valid:
            seen.append((place.gfn, -place.level))
            place.next()

    assert seen == sorted(seen)
    assert len(seen) == 512 * len(structs(scene.vm))


def test_a_walk_that_yielded_goes_on_from_the_root(scene: Scene) -> None:
    """Not from a table that may be gone, and to where it was on its way to."""
    kvm = scene.vm.kvm
    (root,) = kvm.tdp_mmu_roots
    with kvm.rcu.read:
        place = TdpIter(kvm, root, Gfn(0))
        while place.gfn != 512 or place.level != 1:
            place.next()
        assert place.has_made_progress()
        place.yielded = True
        place.next()
        assert (place.level, place.gfn, place.next_last_level_gfn) == (4, 0, 512)
        assert not place.has_made_progress()
        while place.level != 1:
            place.next()

    assert place.gfn == 512


def test_a_walk_outside_a_read_side_section_is_refused(scene: Scene) -> None:
    (root,) = scene.vm.kvm.tdp_mmu_roots
    with pytest.raises(LockNotHeld, match="outside a read-side section"):
        TdpIter(scene.vm.kvm, root, Gfn(0))


def test_a_frozen_spte_belongs_to_who_froze_it(scene: Scene) -> None:
    kvm = scene.vm.kvm
    scene.vm.host.write(leaf(scene.vm, 0x7000), kvm.kernel.frozen_spte)
    with kvm.rcu.read, kvm.mmu_lock.read:
        place = TdpIter(kvm, kvm.tdp_mmu_roots[0], Gfn(7))
        while place.try_step_down():
            pass
        with pytest.raises(KvmBug, match="frozen"):
            finish(tdp_mmu_set_spte_atomic(kvm, place, 0))


def test_a_leaf_does_not_change_its_frame_in_place(scene: Scene) -> None:
    spte = scene.vm.host.read(leaf(scene.vm, 0x5000))
    with pytest.raises(KvmBug, match="another frame"):
        handle_changed_spte(scene.vm.kvm, Gfn(5), spte, spte + PAGE, 1)
    with pytest.raises(KvmBug, match="both lead nowhere"):
        handle_changed_spte(scene.vm.kvm, Gfn(5), 0, 1 << 63, 1)


def test_a_range_is_unmapped_and_no_more(scene: Scene) -> None:
    kvm, (root,) = scene.vm.kvm, scene.vm.kvm.tdp_mmu_roots
    with pytest.raises(LockNotHeld):
        finish(tdp_mmu_zap_leafs(kvm, root, Gfn(0), Gfn(1)))
    with kvm.mmu_lock.write:
        flush = finish(tdp_mmu_zap_leafs(kvm, root, Gfn(5), Gfn(513)))

    assert flush
    assert mapped(scene) == [0, 40 * MIB]
    whole(scene.vm)


def test_zapping_gives_the_lock_to_who_waits(scene: Scene) -> None:
    """With mmu_lock held for write the zap goes on from where it was, and all goes."""
    kvm, (root,) = scene.vm.kvm, scene.vm.kvm.tdp_mmu_roots

    def zaps() -> Steps[None]:
        yield from kvm.mmu_lock.write.wait()
        with kvm.mmu_lock.write:
            yield from tdp_mmu_zap_leafs(kvm, root, Gfn(0), Gfn(1 << 20))

    def reads() -> Steps[None]:
        yield "begins"
        yield from kvm.mmu_lock.read.wait()
        with kvm.mmu_lock.read:
            yield "has the lock"

    waited = blocked_steps(Race({"zaps": zaps(), "reads": reads()}))

    assert 1 <= waited["reads"] <= 2
    assert mapped(scene) == []


def test_roots_are_invalidated_under_the_write_lock_only(scene: Scene) -> None:
    with pytest.raises(LockNotHeld), scene.vm.kvm.mmu_lock.read:
        kvm_tdp_mmu_invalidate_all_roots(scene.vm.kvm)


def test_the_last_reference_to_a_valid_root_is_a_bug(scene: Scene) -> None:
    kvm, (root,) = scene.vm.kvm, scene.vm.kvm.tdp_mmu_roots
    finish(kvm_tdp_mmu_put_root(kvm, root))
    with pytest.raises(KvmBug, match="still valid"):
        finish(kvm_tdp_mmu_put_root(kvm, root))
    with pytest.raises(KvmBug, match="more references"):
        finish(kvm_tdp_mmu_put_root(kvm, root))


def test_frames_learn_what_their_sptes_knew(scene: Scene) -> None:
    """Of a page that was written, and of one that was only read."""
    scene.cpu.read(0x9000)
    frames = {address: backing(scene.vm, address // PAGE) for address in (0x5000, 0x9000)}

    finish(zaps_all(scene.vm))

    assert set(frames.values()) <= scene.vm.host.accessed
    assert frames[0x5000] in scene.vm.host.dirty


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value)
def test_the_host_moves_a_page_behind_the_guests_back(kernel: str, mmu: MmuKind) -> None:
    """The guest reads what it wrote, from the new frame; while the host is at it, faults are tried again."""
    scene = guest(kernel, mmu)
    scene.cpu.write(0x5000, 77)
    vm, hva = scene.vm, the_slot(scene).hva(5)
    before = backing(vm, 5)

    finish(invalidate_range_start(vm.kvm, hva, Hva(hva + PAGE)))
    assert scene.reads(0x5000) == "the guest makes no progress"
    vm.process.migrate(hva)
    finish(invalidate_range_end(vm.kvm, hva, Hva(hva + PAGE)))

    assert scene.reads(0x5000) == 77
    assert backing(vm, 5) != before


def test_what_backs_no_guest_memory_is_no_business_of_kvm(scene: Scene) -> None:
    """And a range that reaches beyond a slot concerns the slot's part of it."""
    slot = the_slot(scene)
    elsewhere = Hva(slot.userspace_addr + (slot.npages + 1) * PAGE)
    finish(invalidate_range_start(scene.vm.kvm, elsewhere, Hva(elsewhere + PAGE)))

    assert scene.vm.kvm.mmu_invalidate_in_progress == 0
    assert gfn_range(slot, Hva(slot.userspace_addr - PAGE), Hva(slot.userspace_addr + PAGE)) == (0, 1)
    with pytest.raises(LookupError, match="nothing mapped"):
        scene.vm.process.migrate(Hva(0x1000))


def test_a_table_that_is_shadowed_is_write_protected_in_the_tdp_mmu() -> None:
    """The hypervisor has written to its nested tables, so they were writable; shadowed, they are not, and no
    fault may change that by itself."""
    scene = nested_guest(KERNEL, MmuKind.TDP, mapped={0x5000: 0x6000})
    assert scene.tables is not None
    table = scene.frames[-2]
    scene.cpu.leave_nested()
    finish(faults(scene.cpu.vcpu, table, 0b110))
    before = scene.vm.host.read(leaf(scene.vm, table))
    scene.cpu.enter_nested(scene.tables.root, Registers(maxphyaddr=46))
    scene.reads(0x5000)
    after = scene.vm.host.read(leaf(scene.vm, table))

    masks = scene.vm.kvm.masks
    assert is_writable_pte(before)
    assert masks.is_mmu_writable(before)
    assert not is_writable_pte(after)
    assert not masks.is_mmu_writable(after)


def test_a_huge_page_is_split_where_a_small_one_is_wanted() -> None:
    """All of it stays mapped, by 512 sptes with the frames that it had."""
    scene = guest(KERNEL, MmuKind.TDP, host_level=PG_LEVEL_2M)
    scene.cpu.write(4 * MIB, 1)
    ((_, _, huge),) = leafs(scene.vm)
    scene.vm.host.write(
        next(sp.sptep(index) for sp, index, _ in leafs(scene.vm)), huge & ~2
    )  # so that the next write faults
    finish(faults(scene.cpu.vcpu, 4 * MIB + PAGE, 0b100, max_level=1))

    small = [spte_to_pfn(spte) for _, _, spte in leafs(scene.vm)]
    assert small == [spte_to_pfn(huge) + index for index in range(512)]
    whole(scene.vm)

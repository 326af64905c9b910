"""An spte of the TDP MMU is changed while others change it too, and a table goes while others are in it."""

import pytest

from conformance.looking import backing, structs
from conformance.races.actors import faults
from conformance.races.truths import leaf, whole
from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from conformance.tdp.touched import KERNEL, the_slot, touched_guest
from mmu_model.hardware import Gfn
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.fault import KvmPageFault
from mmu_model.kvm.locks import LockNotHeld
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.spte import PT_DIRTY_MASK
from mmu_model.kvm.task import Steps, Task, WouldWaitForEver, finish, running
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import Kvm, TdpFormat
from mmu_model.snapshot import MmuKind
from mmu_model.tdp.changed import tdp_mmu_iter_set_spte, tdp_mmu_set_spte, tdp_mmu_set_spte_atomic, unlink_sp
from mmu_model.tdp.iter import TdpIter
from mmu_model.tdp.map import kvm_tdp_mmu_page_fault
from mmu_model.tdp.protect import kvm_tdp_mmu_wrprot_slot
from mmu_model.tdp.zap import kvm_tdp_mmu_zap_sp


@pytest.fixture
def scene() -> Scene:
    """A guest that has touched a few pages."""
    return touched_guest()


def walk_to(kvm: Kvm, gfn: int) -> TdpIter:
    """A walk that is at the lowest entry for a frame; only inside an RCU read-side section."""
    place = TdpIter(kvm, kvm.tdp_mmu_roots[0], Gfn(gfn))
    while place.try_step_down():
        pass
    return place


def table(scene: Scene, gfn: int, level: int) -> KvmMmuPage:
    """The page of that level that translates a frame."""
    span = 512**level
    (found,) = (sp for sp in structs(scene.vm) if sp.role.level == level and sp.gfn == gfn // span * span)
    return found


def run_until(steps: Steps[object], what: str) -> None:
    """As far as the next place of that name where somebody else may run."""
    for stop in steps:
        if str(stop) == what:
            return
    pytest.fail(f"it never {what}")


def test_an_exchange_that_comes_too_late_changes_nothing(scene: Scene) -> None:
    """The walk knows what the entry is now, and can try again."""
    vm, kvm = scene.vm, scene.vm.kvm
    with kvm.rcu.read, kvm.mmu_lock.read:
        place = walk_to(kvm, 5)
        newer = place.old_spte ^ PT_DIRTY_MASK
        vm.host.write(place.sptep, newer)
        assert not finish(tdp_mmu_set_spte_atomic(kvm, place, 0))
        assert (vm.host.read(place.sptep), place.old_spte) == (newer, newer)
        whole(vm)
        assert finish(tdp_mmu_set_spte_atomic(kvm, place, 0))
    assert vm.host.read(leaf(vm, 0x5000)) == 0
    whole(vm)


def test_how_mmu_lock_is_to_be_held(scene: Scene) -> None:
    """For read to exchange, which others do too; for write to store."""
    kvm = scene.vm.kvm
    with kvm.rcu.read:
        place = walk_to(kvm, 5)
        with kvm.mmu_lock.write, pytest.raises(LockNotHeld, match="read"):
            finish(tdp_mmu_set_spte_atomic(kvm, place, 0))
        with kvm.mmu_lock.read, pytest.raises(LockNotHeld, match="write"):
            finish(tdp_mmu_iter_set_spte(kvm, place, 0))
        with kvm.mmu_lock.read, pytest.raises(LockNotHeld, match="write"):
            finish(tdp_mmu_set_spte(kvm, place.sptep, place.old_spte, 0, place.gfn, place.level))
        assert kvm.host.read(place.sptep) == place.old_spte


def test_what_was_read_before_the_lock_was_given_away_is_not_relied_on(scene: Scene) -> None:
    kvm = scene.vm.kvm
    with kvm.rcu.read:
        place = walk_to(kvm, 5)
        place.yielded = True
        with kvm.mmu_lock.read, pytest.raises(KvmBug, match="read before yielding"):
            finish(tdp_mmu_set_spte_atomic(kvm, place, 0))
        with kvm.mmu_lock.write, pytest.raises(KvmBug, match="read before yielding"):
            finish(tdp_mmu_iter_set_spte(kvm, place, 0))


def test_a_walk_does_not_outlive_its_read_side_section(scene: Scene) -> None:
    """Outside of it the table that it is in may be freed."""
    kvm = scene.vm.kvm
    with kvm.rcu.read:
        place = walk_to(kvm, 5)
    with kvm.mmu_lock.write:
        finish(kvm_tdp_mmu_zap_sp(kvm, table(scene, 5, 1)))
    with kvm.mmu_lock.read, pytest.raises(KvmBug, match="freed while a walk was in it"):
        finish(tdp_mmu_set_spte_atomic(kvm, place, 0))


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_table_goes_with_all_that_is_below_it(kernel: str, level: int) -> None:
    """And only that. Readers see the tables to the end of their section, and can make nothing in them."""
    scene = guest(kernel, MmuKind.TDP, memory={GIB: 4 * MIB, 600 * GIB: MIB})
    for address in (0, 0x5000, 2 * MIB, GIB):
        scene.cpu.write(address, 1)
    finish(faults(scene.cpu.vcpu, 600 * GIB))
    kvm = scene.vm.kvm
    top = table(scene, 0, level)
    going = [sp for sp in structs(scene.vm) if sp.role.level <= level and sp.gfn // 512**level == 0]
    there = {
        sp: [index for index, word in enumerate(kvm.host.words(sp.spt)) if word & 1 << 11] for sp in going
    }
    left = set(structs(scene.vm)) - set(going)

    with kvm.rcu.read:
        with kvm.mmu_lock.write:
            finish(kvm_tdp_mmu_zap_sp(kvm, top))
        frozen = {sp: [kvm.host.read(sp.sptep(index)) for index in there[sp]] for sp in going}
        assert all(set(words) == {kvm.kernel.frozen_spte} for words in frozen.values())
        assert set(structs(scene.vm)) == left | set(going)

    assert set(structs(scene.vm)) == left
    whole(scene.vm)
    assert {backing(scene.vm, gfn) for gfn in (0, 5, 512)} & scene.vm.host.dirty
    assert scene.reads(0x5000) == 1


def test_with_others_about_every_entry_of_a_table_that_goes_is_frozen(scene: Scene) -> None:
    """Those that led nowhere, too: else a fault that is still in the table would make something there."""
    kvm = scene.vm.kvm
    low = table(scene, 5, 1)
    with kvm.rcu.read:
        with kvm.mmu_lock.read:
            place = TdpIter(kvm, kvm.tdp_mmu_roots[0], Gfn(5), 2)
            while place.try_step_down():
                pass
            assert finish(tdp_mmu_set_spte_atomic(kvm, place, kvm.kernel.frozen_spte))
        assert set(kvm.host.words(low.spt)) == {kvm.kernel.frozen_spte}
        assert low in structs(scene.vm)
    assert low not in structs(scene.vm)


def test_an_entry_that_somebody_else_froze_is_waited_for(scene: Scene) -> None:
    """He is about to set it: the table is not given back before."""
    kvm, vm = scene.vm.kvm, scene.vm
    low, sptep = table(scene, 5, 1), leaf(scene.vm, 0x5000)
    spte = vm.host.read(sptep)
    vm.host.write(sptep, kvm.kernel.frozen_spte)
    with kvm.mmu_lock.read, kvm.rcu.read:
        place = TdpIter(kvm, kvm.tdp_mmu_roots[0], Gfn(5), 2)
        while place.try_step_down():
            pass
        removing = tdp_mmu_set_spte_atomic(kvm, place, kvm.kernel.frozen_spte)
        run_until(removing, "somebody else to go on, to try again: an spte is frozen")
        run_until(removing, "somebody else to go on, to try again: an spte is frozen")
        assert low in structs(vm)
        vm.host.write(sptep, spte)
        finish(removing)
    assert low not in structs(vm)
    assert kvm.stat["pages_4k"] == 2


@pytest.mark.parametrize("whose", ["leaf", "table"])
def test_a_write_of_the_processor_in_the_last_moment_is_not_lost(whose: str) -> None:
    """It sets D after KVM has read the spte and before KVM stores another."""
    scene = touched_guest()
    vm, kvm = scene.vm, scene.vm.kvm
    sptep, frame = leaf(vm, 0x5000), backing(vm, 5)
    vm.host.write(sptep, vm.host.read(sptep) & ~PT_DIRTY_MASK)
    with kvm.rcu.read, kvm.mmu_lock.write:
        if whose == "leaf":
            changing: Steps[object] = tdp_mmu_iter_set_spte(kvm, walk_to(kvm, 5), 0)
            run_until(changing, "writes an spte")
        else:
            changing = kvm_tdp_mmu_zap_sp(kvm, table(scene, 5, 1))
            run_until(changing, "freezes an spte")
            run_until(changing, "freezes an spte")  # the first is that of gfn 0
        vm.host.write(sptep, vm.host.read(sptep) | PT_DIRTY_MASK)
        finish(changing)

    assert frame in vm.host.dirty


@pytest.mark.parametrize("tdp_format", [TdpFormat.NPT, TdpFormat.EPT_WITHOUT_AD])
def test_frames_are_told_what_their_sptes_forget(tdp_format: TdpFormat) -> None:
    """Without dirty flags W says that a page may have been written. What the spte goes on knowing, it keeps."""
    scene = guest(KERNEL, MmuKind.TDP, tdp_format=tdp_format)
    scene.cpu.write(0x5000, 1)
    vm, kvm, frame = scene.vm, scene.vm.kvm, backing(scene.vm, 5)
    with kvm.mmu_lock.read:
        finish(kvm_tdp_mmu_wrprot_slot(kvm, the_slot(scene)))
    without_w = frame in vm.host.dirty, frame in vm.host.accessed
    with kvm.mmu_lock.write:
        finish(kvm_tdp_mmu_zap_sp(kvm, table(scene, 5, 1)))

    assert without_w == (tdp_format is TdpFormat.EPT_WITHOUT_AD, False)
    assert (frame in vm.host.dirty, frame in vm.host.accessed) == (True, True)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_leafs_are_counted_by_size(level: int) -> None:
    scene = guest(KERNEL, MmuKind.TDP, memory={GIB: 3 * GIB}, host_level=level)
    sizes = (PAGE, 2 * MIB, GIB)
    for number in range(3):
        scene.cpu.read(GIB + number * sizes[level - 1])
    whole(scene.vm)
    name = ("pages_4k", "pages_2m", "pages_1g")[level - 1]
    counted = [scene.vm.kvm.stat[name]]

    *_, slot = scene.vm.kvm.memslots[0]
    scene.vm.process.madvise_dontneed(slot.hva((GIB + sizes[level - 1]) // PAGE), 1)
    counted.append(scene.vm.kvm.stat[name])

    assert counted == [3, 2]
    whole(scene.vm)


def test_a_page_that_goes_is_off_the_list_under_its_lock(scene: Scene) -> None:
    """Others change that list too, who hold mmu_lock for read as well."""
    kvm, low = scene.vm.kvm, table(scene, 5, 1)
    low.nx_huge_page_disallowed = True
    kvm.possible_nx_huge_pages[low] = None
    with kvm.mmu_lock.read:
        with running(Task("other")), kvm.mmu_lock.read:
            kvm.tdp_mmu_pages_lock.acquire()
        with pytest.raises(WouldWaitForEver, match="tdp_mmu_pages_lock"):
            finish(unlink_sp(kvm, low))


def test_a_fault_needs_a_root(scene: Scene) -> None:
    """Which the vCPU has from the requests that it served."""
    new = scene.vm.add_cpu().vcpu
    with pytest.raises(KvmBug, match="without a root"):
        faults_at_once(new, 0b100)
    with pytest.raises(KvmBug, match="without a root"):
        faults_at_once(new, 0b111)


def faults_at_once(vcpu: KvmVcpu, error_code: int) -> None:
    """It touches a page without having served a request."""
    fault = KvmPageFault(0x5000, error_code, prefetch=False, is_tdp=True, nx_huge_pages=False)
    fault.gfn, fault.slot = Gfn(5), vcpu.memslots.find(5)
    finish(kvm_tdp_mmu_page_fault(vcpu, fault))

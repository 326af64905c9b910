"""At which places of KVM's work another CPU may come in between, and which locks are waited for.

What the explorer finds rests on these places: one that is missing hides every race that needs it.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest

from conformance.looking import structs
from conformance.races.actors import faults, lets_go, migrates, obtains_root, zaps_all
from conformance.scenes import MIB, PAGE, USED, Scene, editing_guest, guest
from conformance.tdp.touched import KERNEL, the_slot, touched_guest
from mmu_model.hardware import Gfn
from mmu_model.kvm.dirty_log import kvm_mmu_slot_apply_flags
from mmu_model.kvm.fault import KvmPageFault
from mmu_model.kvm.locks import Hold
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.notifier import clear_flush_young
from mmu_model.kvm.task import Steps, Task, WouldWaitForEver, finish, running
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vm import TdpFormat
from mmu_model.shadow.nx import kvm_recover_nx_huge_pages
from mmu_model.shadow.unsync import mmu_try_to_unsync_pages
from mmu_model.snapshot import MmuKind
from mmu_model.tdp.changed import tdp_mmu_set_spte_atomic
from mmu_model.tdp.iter import TdpIter
from mmu_model.tdp.map import kvm_tdp_mmu_page_fault
from mmu_model.tdp.protect import kvm_tdp_mmu_clear_dirty_pt_masked
from mmu_model.tdp.zap import (
    kvm_tdp_mmu_invalidate_all_roots,
    kvm_tdp_mmu_zap_invalidated_roots,
    kvm_tdp_mmu_zap_sp,
)

EXCHANGES = "compares and exchanges an spte"
WRITES = "writes an spte"
TAKES, LETS_GO = "takes a reference to a root", "lets go of a reference to a root"


def places(steps: Steps[object]) -> list[str]:
    """Where others may run, besides before a lock is taken, in their order."""
    return [stop for stop in steps if isinstance(stop, str)]


def under(lock: Hold, steps: Steps[object]) -> list[str]:
    """The same, of what is done with a lock held."""
    with lock:
        return places(steps)


def test_of_a_fault() -> None:
    """Before the host is asked, and before every store; and between two levels, for each reads an entry."""
    scene = guest(KERNEL, MmuKind.TDP)
    scene.cpu.read(2 * MIB)
    mapping = ["looks for the host's frame", "steps down", "steps down"]

    assert places(faults(scene.cpu.vcpu, 0x5000)) == [*mapping, EXCHANGES, "steps down", EXCHANGES]
    assert places(faults(scene.cpu.vcpu, 0x6000)) == [*mapping, "steps down", EXCHANGES]


def test_of_a_fault_that_needs_no_lock() -> None:
    scene = guest(KERNEL, MmuKind.TDP, tdp_format=TdpFormat.EPT_WITHOUT_AD)
    scene.cpu.write(0x5000, 1)
    assert scene.vm.process.was_used(the_slot(scene).hva(5), 1)
    finish(obtains_root(scene.cpu.vcpu))

    found = places(faults(scene.cpu.vcpu, 0x5000, 0b100))

    assert found[:4] == ["looks for the last spte", *["steps down"] * 3]


def test_of_roots() -> None:
    """Both counts, and what looks for a root among those that there are."""
    scene = touched_guest()
    second = scene.vm.add_cpu()

    assert places(obtains_root(second.vcpu)) == [TAKES]
    assert places(lets_go(second.vcpu)) == [LETS_GO]


def test_of_the_end_of_a_root() -> None:
    """Each small page by an exchange, then each table that is empty by now; with a reference to the root."""
    scene = touched_guest()
    with scene.vm.kvm.mmu_lock.write:
        kvm_tdp_mmu_invalidate_all_roots(scene.vm.kvm)

    found = places(kvm_tdp_mmu_zap_invalidated_roots(scene.vm.kvm))

    tables = [EXCHANGES, "freezes a table that was unlinked"] * 5
    assert found == [TAKES, *[EXCHANGES] * 4, *tables, LETS_GO, LETS_GO]


def test_of_a_table_that_goes() -> None:
    """At each spte that led somewhere, for the processor may be using it."""
    scene = touched_guest()
    (low,) = (sp for sp in structs(scene.vm) if sp.role.level == 1 and sp.gfn == 0)

    found = under(scene.vm.kvm.mmu_lock.write, kvm_tdp_mmu_zap_sp(scene.vm.kvm, low))

    assert found == [WRITES, "freezes a table that was unlinked", "freezes an spte", "freezes an spte"]


def test_of_a_table_that_goes_among_others() -> None:
    """The same, with an exchange in the place of the store."""
    scene = touched_guest()
    kvm = scene.vm.kvm
    with kvm.rcu.read:
        place = TdpIter(kvm, kvm.tdp_mmu_roots[0], Gfn(5), 2)
        while place.try_step_down():
            pass
        found = under(kvm.mmu_lock.read, tdp_mmu_set_spte_atomic(kvm, place, kvm.kernel.frozen_spte))

    assert found == [EXCHANGES, "freezes a table that was unlinked", "freezes an spte", "freezes an spte"]


def test_of_the_hosts_doings() -> None:
    """It takes a page, and asks for use: at each spte."""
    scene = touched_guest()
    hva = the_slot(scene).hva(5)

    assert places(clear_flush_young(scene.vm.kvm, hva, Hva(hva + PAGE))) == ["makes an spte old"]
    assert places(migrates(scene.vm, hva)) == [TAKES, WRITES, LETS_GO, "moves the page"]


def test_of_the_dirty_log() -> None:
    scene = touched_guest()
    kvm, slot = scene.vm.kvm, the_slot(scene)

    read = kvm_tdp_mmu_clear_dirty_pt_masked(kvm, slot, [Gfn(0), Gfn(5), Gfn(7)], wrprot=True)
    assert under(kvm.mmu_lock.write, read) == ["clears a bit of an spte"] * 2
    slot.flags, slot.dirty_bitmap = KVM_MEM_LOG_DIRTY_PAGES, set()
    assert places(kvm_mmu_slot_apply_flags(kvm, slot)) == [
        TAKES,
        LETS_GO,
        TAKES,
        EXCHANGES,
        EXCHANGES,
        LETS_GO,
    ]


def unsync_table(kernel: str) -> tuple[Scene, Gfn]:
    """A guest whose table for 0x5000 is shadowed and in step, and the frame that it is in."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.reads(0x5000)
    assert scene.tables is not None
    return scene, Gfn(scene.tables.entry_address(0x5000, 1) >> 12)


def test_of_a_table_that_becomes_unsync(kernel: str) -> None:
    """The page is marked, then each page above in two stores."""
    scene, gfn = unsync_table(kernel)
    (slot,) = scene.vm.kvm.memslots[0]
    steps = mmu_try_to_unsync_pages(scene.vm.kvm, slot, gfn, can_unsync=True, prefetch=False)

    found = under(scene.vm.kvm.mmu_lock.read, steps)

    above = ["notes that an spte leads to an unsync page", "counts it"]
    assert found == ["marks a page unsync", *above * 3]


def waits(steps: Steps[object], lock: Hold) -> bool:
    """Whether it waits for a lock that somebody else has."""
    try:
        finish(steps)
    except WouldWaitForEver as error:
        return lock.name in str(error)
    finally:
        steps.close()
    return False


def somebody_has(lock: Hold) -> Callable[[], None]:
    """Somebody else takes the lock; how he gives it back."""
    other = Task("other")
    with running(other):
        lock.acquire()

    def back() -> None:
        with running(other):
            lock.release()

    return back


@pytest.mark.parametrize(
    ("hold", "work"),
    [
        ("write", lambda scene: kvm_tdp_mmu_zap_invalidated_roots(scene.vm.kvm)),
        ("write", lambda scene: kvm_recover_nx_huge_pages(scene.vm.kvm)),
        ("read", lambda scene: kvm_recover_nx_huge_pages(scene.vm.kvm)),
        ("write", lambda scene: faults(scene.cpu.vcpu, 0x9000)),
        ("write", lambda scene: obtains_root(scene.vm.add_cpu().vcpu)),
        ("write", lambda scene: lets_go(scene.cpu.vcpu)),
        ("write", lambda scene: zaps_all(scene.vm)),
    ],
    ids=["zap", "recovery", "recovery and readers", "fault", "root", "lets go", "zap all"],
)
def test_mmu_lock_is_waited_for(hold: str, work: Callable[[Scene], Steps[object]]) -> None:
    """And nothing goes wrong: who has to wait, waits."""
    scene = touched_guest()
    lock: Hold = getattr(scene.vm.kvm.mmu_lock, hold)
    back = somebody_has(lock)
    assert waits(work(scene), scene.vm.kvm.mmu_lock.write) or waits(work(scene), scene.vm.kvm.mmu_lock.read)
    back()


def test_synchronizing_waits_for_mmu_lock(kernel: str) -> None:
    """Where one root says that all is in step it is not needed."""
    scene, _ = unsync_table(kernel)
    kvm, vcpu = scene.vm.kvm, scene.cpu.vcpu
    back = somebody_has(kvm.mmu_lock.write)
    finish(kvm.shadow.kvm_mmu_sync_roots(vcpu))
    back()
    scene.cpu.write(scene.gpte(0x9000), 0x6000 | USED)  # type: ignore[attr-defined]
    back = somebody_has(kvm.mmu_lock.write)
    assert waits(kvm.shadow.kvm_mmu_sync_roots(vcpu), kvm.mmu_lock.write)
    back()


@pytest.mark.parametrize("what", ["fault", "root", "unsync", "last reference"])
def test_the_inner_locks_are_waited_for(what: str) -> None:
    """Of those who hold mmu_lock for read together."""
    if what == "unsync":
        scene, gfn = unsync_table(KERNEL)
        (slot,) = scene.vm.kvm.memslots[0]
        kvm = scene.vm.kvm
        lock = kvm.mmu_unsync_pages_lock
        steps: Steps[object] = mmu_try_to_unsync_pages(kvm, slot, gfn, can_unsync=True, prefetch=False)
    else:
        scene = guest(KERNEL, MmuKind.TDP, host_level=2)
        kvm = scene.vm.kvm
        kvm.parameters = replace(kvm.parameters, nx_huge_pages=True)
        lock = kvm.tdp_mmu_pages_lock
        steps = obtains_root(scene.cpu.vcpu)
        if what != "root":
            scene.cpu.read(2 * MIB)
            steps = last_reference(scene) if what == "last reference" else nx_fault(scene)
    other = Task("other")
    with running(other):
        kvm.mmu_lock.read.acquire()
        lock.acquire()
    if what == "unsync":
        with kvm.mmu_lock.read:
            assert waits(steps, lock)
    else:
        assert waits(steps, lock)


def nx_fault(scene: Scene) -> Steps[object]:
    """A fetch that makes small pages of a large one."""
    fault = KvmPageFault(2 * MIB, 0b10100, prefetch=False, is_tdp=True, nx_huge_pages=True)
    fault.gfn, fault.slot = Gfn(2 * MIB >> 12), the_slot(scene)
    return kvm_tdp_mmu_page_fault(scene.cpu.vcpu, fault)


def last_reference(scene: Scene) -> Steps[object]:
    """The only vCPU lets go of a root that is invalid and empty."""
    finish(zaps_all(scene.vm))
    return lets_go(scene.cpu.vcpu)

"""The end of shadow pages: what goes with one, who holds it back, and whose turn it is when there are too many."""

import pytest

from conformance.kvm.invariants import counts_are_right
from conformance.looking import structs
from conformance.scenes import GIB, MIB, PAGE, USED, Editor, Scene, editing_guest, guest, nested_guest
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.locks import LockNotHeld
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.requests import leave_guest_mode
from mmu_model.kvm.rmap import pte_list
from mmu_model.kvm.roots import serve_requests
from mmu_model.kvm.task import Steps, WouldWaitForEver, finish
from mmu_model.kvm.vcpu import KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, VcpuMode
from mmu_model.kvm.zap_all import kvm_mmu_zap_all_fast
from mmu_model.schedule import Race, blocked_steps
from mmu_model.shadow.recycle import kvm_mmu_zap_oldest_mmu_pages, make_mmu_pages_available
from mmu_model.shadow.zap import InvalidList, kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page
from mmu_model.snapshot import MmuKind

HERE = 0x6000


@pytest.fixture
def kernel() -> str:
    """The newest: none of this differs between kernels."""
    return "6.12"


def page_at(scene: Scene, address: int, level: int) -> KvmMmuPage:
    """The page of that level that shadows the guest's table for an address."""
    assert scene.tables is not None
    gfn = scene.tables.entry_address(address, level) >> 12
    (sp,) = (sp for sp in structs(scene.vm) if sp.gfn == gfn and sp.role.level == level)
    return sp


def two_tables(kernel: str, *, unsync: bool) -> Editor:
    """A guest that has used two tables below one directory; it has written to the second if it is to be unsync."""
    scene = editing_guest(kernel, {0x5000: HERE, 2 * MIB: HERE})
    scene.reads(0x5000)
    scene.reads(2 * MIB)
    if unsync:
        scene.edit(2 * MIB + PAGE, HERE | USED)
    return scene


def prepare(scene: Scene, sp: KvmMmuPage) -> tuple[int, InvalidList]:
    """Zap a page, and do not free anything yet."""
    invalid_list: InvalidList = []
    with scene.vm.kvm.mmu_lock.write:
        return kvm_mmu_prepare_zap_page(scene.vm.kvm, sp, invalid_list), invalid_list


def commit(scene: Scene, invalid_list: InvalidList) -> None:
    """Free what was zapped."""
    with scene.vm.kvm.mmu_lock.write:
        kvm_mmu_commit_zap_page(scene.vm.kvm, invalid_list)


@pytest.mark.parametrize("unsync", [False, True])
def test_a_page_goes_and_its_children_stay_unless_they_are_unsync(kernel: str, unsync: bool) -> None:
    """Nothing leads to it or from it any more; what was in step can be found again by its gfn."""
    scene = two_tables(kernel, unsync=unsync)
    kvm, directory = scene.vm.kvm, page_at(scene, 0x5000, 2)
    first, second = page_at(scene, 0x5000, 1), page_at(scene, 2 * MIB, 1)
    above = [page_at(scene, 0x5000, level) for level in (3, 4)]
    zapped_before, (parent,) = kvm.stat["mmu_shadow_zapped"], pte_list(kvm.host, directory.parent_ptes)

    count, invalid_list = prepare(scene, directory)

    going = [directory, second] if unsync else [directory]
    assert count == len(going)
    assert set(invalid_list) == set(going)
    assert kvm.stat["mmu_shadow_zapped"] - zapped_before == len(going)
    assert [bool(sp.role.invalid) for sp in (directory, first, second)] == [True, False, unsync]
    assert kvm.host.read(parent) == kvm.kernel.shadow_nonpresent_value
    assert [pte_list(kvm.host, sp.parent_ptes) for sp in (directory, first, second)] == [[], [], []]
    assert set(kvm.host.words(directory.spt)) == {kvm.kernel.shadow_nonpresent_value}
    assert directory in structs(scene.vm)
    assert not scene.cpu.vcpu.requests & KVM_REQ_MMU_FREE_OBSOLETE_ROOTS
    flushes = kvm.stat["remote_tlb_flush"]
    commit(scene, invalid_list)
    assert kvm.stat["remote_tlb_flush"] - flushes == 1
    assert not set(going) & set(structs(scene.vm))
    assert invalid_list == []
    assert kvm.stat["mmu_unsync"] == 0
    counts_are_right(scene.vm)
    assert not any(sp.role.invalid for sp in above)
    assert (scene.reads(0x5000), scene.reads(2 * MIB)) == (0, 0)
    assert (page_at(scene, 0x5000, 1) is first, page_at(scene, 2 * MIB, 1) is second) == (True, not unsync)


def test_an_unsync_page_that_goes_is_none_any_more(kernel: str) -> None:
    scene = two_tables(kernel, unsync=True)
    page = page_at(scene, 2 * MIB, 1)
    assert (page.unsync, scene.vm.kvm.stat["mmu_unsync"]) == (True, 1)

    count, invalid_list = prepare(scene, page)

    assert (count, page.unsync, scene.vm.kvm.stat["mmu_unsync"]) == (1, False, 0)
    commit(scene, invalid_list)
    counts_are_right(scene.vm)


def test_pages_are_zapped_by_who_holds_mmu_lock_for_write(kernel: str) -> None:
    scene = two_tables(kernel, unsync=False)
    page = page_at(scene, 0x5000, 1)
    with scene.vm.kvm.mmu_lock.read, pytest.raises(LockNotHeld):
        kvm_mmu_prepare_zap_page(scene.vm.kvm, page, [])
    assert not page.role.invalid


def test_a_root_that_is_zapped_is_freed_by_who_lets_go_of_it_last(kernel: str) -> None:
    """It is not on the list; every vCPU is asked to let go."""
    scene = two_tables(kernel, unsync=False)
    second = scene.vm.add_cpu(scene.cpu.vcpu.registers)
    second.read(0x5000)
    kvm, root = scene.vm.kvm, page_at(scene, 0x5000, 4)
    assert root.root_count == 2
    used = kvm.n_used_mmu_pages

    count, invalid_list = prepare(scene, root)

    assert (count, invalid_list, root.role.invalid, kvm.n_used_mmu_pages) == (0, [], 1, used)
    assert all(vcpu.requests & KVM_REQ_MMU_FREE_OBSOLETE_ROOTS for vcpu in kvm.vcpus)
    left = []
    for cpu in (scene.cpu, second):
        finish(serve_requests(cpu.vcpu))
        left.append((root.root_count, root in structs(scene.vm)))
    assert left == [(1, True), (0, False)]
    counts_are_right(scene.vm)
    assert scene.reads(0x5000) == 0


def test_a_root_that_is_obsolete_already_asks_nobody_again(kernel: str) -> None:
    """Who made it so has asked."""
    scene = two_tables(kernel, unsync=False)
    kvm, root = scene.vm.kvm, page_at(scene, 0x5000, 4)
    kvm.mmu_valid_gen = 1 - kvm.mmu_valid_gen
    scene.cpu.vcpu.requests = 0

    prepare(scene, root)

    assert root.role.invalid
    assert not scene.cpu.vcpu.requests & KVM_REQ_MMU_FREE_OBSOLETE_ROOTS


def test_a_root_that_nobody_holds_any_more_stays_if_it_is_valid(kernel: str) -> None:
    """The next vCPU in the mode finds it."""
    scene = two_tables(kernel, unsync=False)
    root = page_at(scene, 0x5000, 4)
    scene.cpu.set_registers(scene.cpu.vcpu.registers)
    assert (root.root_count, root in structs(scene.vm)) == (0, True)
    scene.reads(0x5000)
    assert root.root_count == 1


def test_nothing_is_freed_before_who_walks_it_is_through(kernel: str) -> None:
    """A vCPU that reads sptes without the lock."""
    scene = two_tables(kernel, unsync=False)
    page = page_at(scene, 0x5000, 1)
    _, invalid_list = prepare(scene, page)
    scene.cpu.vcpu.mode = VcpuMode.READING_SHADOW_PAGE_TABLES
    with pytest.raises(WouldWaitForEver):
        commit(scene, invalid_list)
    assert page in structs(scene.vm)
    leave_guest_mode(scene.cpu.vcpu)
    commit(scene, invalid_list)
    assert page not in structs(scene.vm)


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize("emulated", [False, True])
def test_nested_tables_that_nothing_leads_to_go_with_what_led_there(
    kernel: str, mmu: MmuKind, emulated: bool
) -> None:
    """The hypervisor is done with them, most likely. Not if it writes to an entry that led there: it may come back."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: HERE})
    scene.reads(0x5000)
    shadows = {sp.role.level: sp for sp in structs(scene.vm) if not sp.role.direct and sp.role.guest_mode}
    if emulated:
        scene.vm.kvm.shadow.kvm_mmu_track_write(scene.cpu.vcpu, shadows[2].gfn << 12, 8)
    else:
        commit(scene, prepare(scene, shadows[2])[1])

    assert [sp in structs(scene.vm) for sp in (shadows[2], shadows[1])] == [emulated, emulated]
    assert pte_list(scene.vm.host, shadows[1].parent_ptes) == []


def test_nested_tables_that_are_somebodys_root_stay(kernel: str) -> None:
    """They would be zapped with what led there, but for the vCPU that holds them (mmu.c: mmu_page_zap_pte)."""
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: HERE})
    scene.reads(0x5000)
    shadows = {sp.role.level: sp for sp in structs(scene.vm) if not sp.role.direct and sp.role.guest_mode}
    shadows[1].root_count += 1

    commit(scene, prepare(scene, shadows[2])[1])

    assert [sp in structs(scene.vm) for sp in (shadows[2], shadows[1])] == [False, True]
    assert not shadows[1].role.invalid


def test_without_nested_paging_tables_of_nested_guests_stay_as_others_do(kernel: str) -> None:
    """A guest's own tables are likely to be linked again (mmu.c: mmu_page_zap_pte, tdp_enabled)."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: HERE})
    scene.cpu.enter_nested(None, scene.cpu.vcpu.registers)
    scene.reads(0x5000)
    shadows = {sp.role.level: sp for sp in structs(scene.vm) if not sp.role.direct and sp.role.guest_mode}

    commit(scene, prepare(scene, shadows[2])[1])

    assert [sp in structs(scene.vm) for sp in (shadows[2], shadows[1])] == [False, True]
    assert pte_list(scene.vm.host, shadows[1].parent_ptes) == []


def test_tables_that_two_lead_to_stay_for_the_other(kernel: str) -> None:
    """The same table of the hypervisor twice in a directory of its nested tables, and that twice above."""
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: HERE})
    assert scene.tables is not None
    upper = scene.tables.entry_address(0, 3)
    scene.vm.memory.write(upper + 8, scene.vm.memory.read(upper))
    lower = scene.tables.entry_address(0, 2)
    other = 50 * MIB
    scene.vm.memory.write(other, scene.vm.memory.read(lower))
    scene.vm.memory.write(upper + 8, scene.vm.memory.read(upper) & PAGE - 1 | other)
    scene.reads(0x5000)
    scene.reads(GIB + 0x5000)
    (last,) = (sp for sp in structs(scene.vm) if sp.role.guest_mode and sp.role.level == 1)
    directory = next(sp for sp in structs(scene.vm) if sp.gfn == lower >> 12)
    assert len(pte_list(scene.vm.host, last.parent_ptes)) == 2

    commit(scene, prepare(scene, directory)[1])

    assert (directory in structs(scene.vm), last in structs(scene.vm)) == (False, True)
    assert len(pte_list(scene.vm.host, last.parent_ptes)) == 1


def test_pages_of_a_generation_that_is_over_go_in_batches(kernel: str) -> None:
    """Ten, and then others who wait have mmu_lock."""
    scene = guest(kernel, MmuKind.DIRECT)
    kvm, seen = scene.vm.kvm, list[int]()
    for number in range(30):
        scene.cpu.read(number * 2 * MIB)

    def all_fast() -> Steps[None]:
        yield from kvm.slots_lock.wait()
        with kvm.slots_lock:
            yield from kvm_mmu_zap_all_fast(kvm)

    def looks() -> Steps[None]:
        yield "begins"
        yield from kvm.mmu_lock.write.wait()
        with kvm.mmu_lock.write:
            seen.append(len(kvm.active_mmu_pages))
            yield "has the lock"

    waited = blocked_steps(Race({"zaps": all_fast(), "looks": looks()}))

    assert seen == [32 - 10]
    assert 10 <= waited["looks"] <= 20
    finish(serve_requests(scene.cpu.vcpu))
    assert [sp.role.level for sp in structs(scene.vm)] == [4]
    counts_are_right(scene.vm)


def test_only_what_is_over_goes(kernel: str) -> None:
    """Pages that were made since stay."""
    scene = guest(kernel, MmuKind.DIRECT)
    scene.cpu.read(0)
    kvm = scene.vm.kvm
    with kvm.slots_lock:
        finish(kvm_mmu_zap_all_fast(kvm))
    scene.cpu.read(0)
    pages = structs(scene.vm)

    with kvm.mmu_lock.write:
        finish(kvm.shadow.kvm_zap_obsolete_pages(kvm))

    assert structs(scene.vm) == pages


def limited(kernel: str, tables: int, limit: int) -> Scene:
    """A guest that has used so many tables, and may have no more than so many pages from now on."""
    scene = guest(kernel, MmuKind.DIRECT, memory={GIB: GIB})
    for number in range(tables):
        scene.cpu.read(GIB + number * 2 * MIB)
    scene.vm.kvm.n_max_mmu_pages = limit
    return scene


@pytest.mark.parametrize(
    ("free", "left"), [(30, 40), (5, 40), (4, 40 - 21), (1, 40 - 24), (0, 40 - 25), (-3, 40 - 25)]
)
def test_the_oldest_make_room_when_fewer_than_five_are_free(kernel: str, free: int, left: int) -> None:
    """So many that there are 25, for the next faults."""
    scene = limited(kernel, 37, 40 + free)
    kvm = scene.vm.kvm
    assert kvm.n_used_mmu_pages == 40
    newest = list(kvm.active_mmu_pages)[-1]
    with kvm.mmu_lock.write:
        make_mmu_pages_available(kvm)

    assert kvm.n_used_mmu_pages == left
    assert kvm.stat["mmu_recycled"] == 40 - left
    assert newest in kvm.active_mmu_pages
    counts_are_right(scene.vm)
    assert scene.reads(GIB) == 0


@pytest.mark.parametrize(("count", "gone"), [(0, 0), (1, 1), (7, 7), (1000, 39)])
def test_so_many_of_the_oldest_go_but_roots_in_use(kernel: str, count: int, gone: int) -> None:
    scene = limited(kernel, 37, 400)
    kvm, before = scene.vm.kvm, list(scene.vm.kvm.active_mmu_pages)
    with kvm.mmu_lock.write:
        zapped = kvm_mmu_zap_oldest_mmu_pages(kvm, count)

    assert zapped == gone
    assert list(kvm.active_mmu_pages) == [before[0], *before[1 + gone :]]
    assert before[0].root_count == 1


@pytest.mark.parametrize(
    ("mmu", "paging"), [(MmuKind.DIRECT, "off"), (MmuKind.SHADOW, "off"), (MmuKind.SHADOW, "4-level")]
)
def test_no_fault_exceeds_the_limit(kernel: str, mmu: MmuKind, paging: str) -> None:
    """However much the guest uses, the pages for it are found among the oldest; nothing is lost."""
    addresses = [number * 2 * MIB for number in range(1, 31)]
    mapped = {address: MIB + address // 2 // MIB * PAGE for address in addresses} if paging != "off" else {}
    scene = guest(kernel, mmu, paging, mapped=mapped, mapped_flags=USED)
    kvm, most = scene.vm.kvm, 0
    kvm.n_max_mmu_pages = 20
    for address in addresses:
        scene.cpu.write(address, address)
        most = max(most, kvm.n_used_mmu_pages)
        counts_are_right(scene.vm)

    assert 15 <= most <= 20
    assert [scene.reads(address) for address in addresses] == addresses
    assert kvm.stat["mmu_recycled"] > 20


def test_roots_alone_fill_the_limit(kernel: str) -> None:
    scene = limited(kernel, 1, 1)
    with scene.vm.kvm.mmu_lock.write, pytest.raises(KvmBug, match="all 1 shadow pages are in use as roots"):
        make_mmu_pages_available(scene.vm.kvm)

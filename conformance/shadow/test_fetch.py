"""A fault of a guest whose tables are shadowed: what can change under it, what makes room, what is mapped besides."""

from collections.abc import Callable

import pytest

from conformance.looking import backing, structs
from conformance.races.actors import any_fault
from conformance.scenes import GIB, MIB, PAGE, USED, Scene, editing_guest, guest, page_tables
from mmu_model.hardware import Gfn, Mode
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.fault import KvmPageFault, RetPf
from mmu_model.kvm.faultin import kvm_faultin_pfn
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from mmu_model.kvm.notifier import invalidate_range_end, invalidate_range_start
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.process import HostMapping
from mmu_model.kvm.rmap import pte_list
from mmu_model.kvm.roots import serve_requests
from mmu_model.kvm.spte import is_large_pte, is_shadow_present_pte, spte_to_pfn
from mmu_model.kvm.task import finish
from mmu_model.kvm.types import Hva, Sptep
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind

HERE, OTHER = 0x6000, 0x7000
DEVICE = 1 << 40
READ_ONLY = USED & ~2


@pytest.fixture
def kernel() -> str:
    """The newest: none of this differs between kernels."""
    return "6.12"


def meanwhile(scene: Scene, gpa: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Something happens the first time that KVM asks the host for a page: it has walked the guest's tables by then."""
    original, done = scene.vm.process.fault_in, list[bool]()
    (slot,) = scene.vm.kvm.memslots[0]

    def fault_in(hva: int, *, write: bool) -> HostMapping | None:
        found = original(hva, write=write)
        if hva == slot.hva(gpa >> 12) and not done:
            done.append(True)
            act()
        return found

    monkeypatch.setattr(scene.vm.process, "fault_in", fault_in)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("before", [False, True])
def test_a_walk_whose_entries_changed_is_made_anew(
    kernel: str, level: int, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another vCPU takes the entry away while KVM looks for the frame: no spte stands for it."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: HERE, 0x9000: HERE}, mapped_flags=USED)
    assert scene.tables is not None
    if before:
        scene.reads(0x9000)
    entry = scene.tables.entry_address(0x5000, level)
    meanwhile(scene, HERE, lambda: scene.vm.memory.write(entry, 0), monkeypatch)

    assert scene.reads(0x5000) == "page fault at 0x5000, error code 0x0"

    made = [sp for sp in structs(scene.vm) if sp.role.level == 1]
    assert [
        spte for sp in made for spte in [scene.vm.host.read(sp.sptep(5))] if is_shadow_present_pte(spte)
    ] == []


def test_a_table_that_was_swapped_out_meanwhile_is_walked_again(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its unsync page cannot be synchronized, and is replaced."""
    scene = editing_guest(kernel, {0x5000: HERE, 2 * MIB: HERE})
    assert scene.tables is not None
    scene.vm.memory.write(OTHER, 7)
    scene.reads(0x5000)
    scene.edit(0x5000, OTHER | USED)
    table = scene.tables.entry_address(0x5000, 1) & -PAGE
    (old,) = (sp for sp in structs(scene.vm) if sp.gfn == table >> 12)
    scene.edit(0, scene.vm.memory.read(scene.tables.entry_address(0, 2)), level=2)
    (slot,) = scene.vm.kvm.memslots[0]
    swapped = list[bool]()

    def faultin(vcpu: KvmVcpu, fault: KvmPageFault, access: int) -> RetPf:
        if not swapped:
            swapped.append(True)
            scene.vm.process.swap_out(slot.hva(Gfn(table >> 12)))
        return kvm_faultin_pfn(vcpu, fault, access)

    monkeypatch.setattr("mmu_model.shadow.fetch.kvm_faultin_pfn", faultin)
    assert old.unsync
    assert scene.reads(0x5000) == 7

    assert old not in structs(scene.vm)
    assert [sp.unsync for sp in structs(scene.vm) if sp.gfn == table >> 12] == [False]


def test_tables_that_appear_behind_a_root_of_nothing_are_used() -> None:
    """6.12 loads a root of zeroes where CR3 names no memory; memory comes before the guest touches any."""
    scene = guest("6.12", MmuKind.SHADOW, "4-level", mapped={0x5000: HERE}, mapped_flags=USED)
    scene.cpu.mov_cr3(GIB)
    finish(serve_requests(scene.cpu.vcpu))
    scene.vm.add_memory(GIB, MIB)
    page_tables(scene.vm, Mode.FOUR_LEVEL, GIB, []).map(0x5000, HERE, flags=USED)
    scene.vm.memory.write(HERE, 7)

    assert scene.reads(0x5000) == 7


@pytest.mark.parametrize(("mmu", "paging"), [(MmuKind.SHADOW, "off"), (MmuKind.SHADOW, "PAE")])
def test_what_no_table_translates_cannot_be_mapped(kernel: str, mmu: MmuKind, paging: str) -> None:
    """One of the four roots has gone, and nobody says so."""
    scene = guest(kernel, mmu, paging, mapped={0x5000: HERE})
    scene.reads(0x5000)
    table = scene.cpu.vcpu.mmu.pae_root
    assert table is not None
    scene.vm.host.write(Sptep(table), 0)
    with pytest.raises(KvmBug, match="no table of KVM translates 0x5000"):
        finish(any_fault(scene.cpu.vcpu, 0x5000, 0b100))


def small(scene: Scene, page: int = 0) -> KvmMmuPage:
    """The only page of small sptes for guest-physical or linear addresses from there on."""
    found = [
        sp for sp in structs(scene.vm) if sp.role.level == 1 and (not sp.role.direct or sp.gfn == page >> 12)
    ]
    if scene.tables is not None:
        gfn = scene.tables.entry_address(page, 1) >> 12
        found = [sp for sp in found if sp.gfn == gfn]
    (sp,) = found
    return sp


def mapped(scene: Scene, page: int = 0) -> list[int]:
    """Which sptes of it map memory."""
    masks, words = scene.vm.kvm.masks, scene.vm.host.words(small(scene, page).spt)
    return [n for n, spte in enumerate(words) if is_shadow_present_pte(spte) and not masks.is_mmio(spte)]


def test_a_leaf_for_another_frame_makes_room(kernel: str) -> None:
    """The guest maps another page, does not flush, and writes, which the old spte did not permit."""
    scene = editing_guest(kernel, {0x5000: HERE}, flags=READ_ONLY)
    scene.reads(0x5000)
    scene.edit(0x5000, OTHER | USED)
    flushes = scene.vm.kvm.stat["remote_tlb_flush"]

    scene.cpu.write(0x5000, 9)

    assert (scene.vm.memory.read(HERE), scene.vm.memory.read(OTHER)) == (0, 9)
    (slot,) = scene.vm.kvm.memslots[0]
    lists = [pte_list(scene.vm.host, slot.gfn_to_rmap(gpa >> 12, 1)) for gpa in (HERE, OTHER)]
    assert lists == [[], [small(scene).sptep(5)]]
    assert scene.vm.kvm.stat["remote_tlb_flush"] - flushes == 1


@pytest.mark.parametrize(("mmu", "paging"), [(MmuKind.DIRECT, "off"), (MmuKind.SHADOW, "4-level")])
def test_a_large_leaf_makes_room_for_itself(kernel: str, mmu: MmuKind, paging: str) -> None:
    """While writes were logged the page was made of small ones; then one of them is touched for the first time."""
    scene = guest(kernel, mmu, paging, mapped={2 * MIB: 2 * MIB}, mapped_level=2, host_level=2)
    (slot,) = scene.vm.kvm.memslots[0]
    slot.dirty_bitmap = set()
    scene.cpu.write(2 * MIB, 1)
    (table,) = (sp for sp in structs(scene.vm) if sp.role.level == 1 and sp.gfn == 2 * MIB >> 12)
    (sptep,) = pte_list(scene.vm.host, table.parent_ptes)
    slot.dirty_bitmap = None
    flushes = scene.vm.kvm.stat["remote_tlb_flush"]

    assert scene.reads(2 * MIB + 0x1F_F000) == 0

    spte = scene.vm.host.read(sptep)
    assert is_large_pte(spte)
    assert spte_to_pfn(spte) == backing(scene.vm, 2 * MIB >> 12)
    assert pte_list(scene.vm.host, table.parent_ptes) == []
    assert pte_list(scene.vm.host, slot.gfn_to_rmap(2 * MIB >> 12, 2)) == [sptep]
    assert scene.vm.kvm.stat["remote_tlb_flush"] - flushes == 1
    assert scene.reads(2 * MIB) == 1


def test_a_table_makes_room_for_itself_in_the_place_of_a_large_leaf(kernel: str) -> None:
    """Writes are logged from now on: the next one is to a small page; TLBs forget the large one."""
    scene = guest(kernel, MmuKind.DIRECT, host_level=2)
    scene.cpu.write(2 * MIB, 1)
    (slot,) = scene.vm.kvm.memslots[0]
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    flushes = scene.vm.kvm.stat["remote_tlb_flush"]

    scene.cpu.write(2 * MIB + PAGE, 2)

    assert scene.vm.kvm.stat["remote_tlb_flush"] - flushes == 1
    assert slot.dirty_bitmap == {(2 * MIB >> 12) + 1}
    assert pte_list(scene.vm.host, slot.gfn_to_rmap(2 * MIB >> 12, 2)) == []
    assert scene.reads(2 * MIB) == 1


ALL = {n * PAGE: (0x100 + n) * PAGE for n in range(24)}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, range(8, 16)),
        ({13: 0}, range(8, 13)),
        ({13: 0x10D000 | USED & ~1}, range(8, 13)),
        ({13: 0x10D000 | 0x47}, range(8, 13)),
        ({13: 0x10D000 | USED | 1 << 51}, range(8, 13)),
        ({8: 0}, [11]),
        ({12: DEVICE | USED}, range(8, 12)),
        ({16: 0, 7: 0}, range(8, 16)),
    ],
    ids=["all", "absent", "with P clear", "not accessed", "malformed", "the first", "no memory", "outside"],
)
def test_the_eight_around_a_page_are_mapped_with_it_up_to_one_that_cannot(
    kernel: str, changed: dict[int, int], expected: list[int]
) -> None:
    """By what the guest's entries say, in their order; those that were not accessed count for nothing."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped=ALL, mapped_flags=USED)
    assert scene.tables is not None
    for number, entry in changed.items():
        scene.vm.memory.write(scene.tables.entry_address(number * PAGE, 1), entry)

    scene.reads(11 * PAGE)

    assert mapped(scene) == list(expected)
    for index in expected:
        spte = scene.vm.host.read(small(scene).sptep(index))
        assert spte_to_pfn(spte) == backing(scene.vm, 0x100 + index)
        assert scene.vm.kvm.masks.is_accessed(spte) == (index == 11)


def test_what_is_mapped_already_is_left_as_it_is(kernel: str) -> None:
    """And the rest of the eight comes."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped=ALL, mapped_flags=USED)
    assert scene.tables is not None
    entry = scene.tables.entry_address(10 * PAGE, 1)
    value = scene.vm.memory.read(entry)
    scene.vm.memory.write(entry, 0)
    scene.reads(8 * PAGE)
    assert mapped(scene) == [8, 9]
    scene.vm.memory.write(entry, value)
    accessed = scene.vm.host.read(small(scene).sptep(8))

    scene.reads(15 * PAGE)

    assert mapped(scene) == list(range(8, 16))
    assert scene.vm.host.read(small(scene).sptep(8)) == accessed


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ({GIB: 64}, range(8, 16)),
        ({GIB: 13}, range(8, 11)),
        ({GIB + 10 * PAGE: 64}, []),
        ({GIB + 8 * PAGE: 3, GIB + 11 * PAGE: 64}, range(8, 16)),
        ({GIB + 8 * PAGE: 5, GIB + 13 * PAGE: 64}, range(8, 11)),
    ],
    ids=["all", "ends", "begins", "two", "two in a run"],
)
def test_direct_pages_are_mapped_in_runs_that_lie_in_one_slot(
    kernel: str, memory: dict[int, int], expected: list[int]
) -> None:
    """The frames before the one that faulted are a run, and those behind it: the second is not tried if the first
    failed (direct_pte_prefetch)."""
    scene = guest(kernel, MmuKind.DIRECT)
    for gpa, pages in memory.items():
        scene.vm.add_memory(gpa, pages * PAGE)

    scene.cpu.read(GIB + 11 * PAGE)

    assert mapped(scene, GIB) == sorted({*expected, 11})


@pytest.mark.parametrize(
    ("how", "prefetches"),
    [
        ("plain", True),
        ("logged", False),
        ("read-only", False),
        ("read-only for the process", False),
        ("absent", False),
    ],
)
def test_what_is_never_mapped_in_advance(kernel: str, how: str, prefetches: bool) -> None:
    """What a write would have to be noticed of, or is not to be written to, or the host does not have at hand."""
    scene = guest(kernel, MmuKind.DIRECT)
    flags = {"logged": KVM_MEM_LOG_DIRTY_PAGES, "read-only": KVM_MEM_READONLY}.get(how, 0)
    slot = scene.vm.add_memory(GIB, MIB, flags=flags, writable=how != "read-only for the process")
    if how == "absent":
        scene.vm.process.madvise_dontneed(Hva(slot.userspace_addr), 256)

    scene.cpu.read(GIB + 11 * PAGE)

    assert mapped(scene, GIB) == (list(range(8, 16)) if prefetches else [11])
    assert (slot.dirty_bitmap or set()) <= {GIB // PAGE + 11}


def test_without_accessed_flags_direct_pages_are_not_mapped_in_advance(kernel: str) -> None:
    """They would count as used."""
    scene = guest(kernel, MmuKind.DIRECT, tdp_format=TdpFormat.EPT_WITHOUT_AD)
    scene.cpu.read(11 * PAGE)

    assert mapped(scene) == [11]


def test_nothing_is_mapped_in_advance_while_the_host_changes_mappings(kernel: str) -> None:
    """A fault on a device needs none of them, and is answered."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={**ALL, 11 * PAGE: DEVICE}, mapped_flags=USED)
    (slot,) = scene.vm.kvm.memslots[0]
    start, end = slot.hva(Gfn(0x300)), slot.hva(Gfn(0x301))
    finish(invalidate_range_start(scene.vm.kvm, start, end))
    scene.reads(11 * PAGE)
    meanwhile_mapped = mapped(scene)
    finish(invalidate_range_end(scene.vm.kvm, start, end))
    scene.reads(18 * PAGE)

    assert meanwhile_mapped == []
    assert mapped(scene) == list(range(16, 24))


def test_a_frame_that_too_many_sptes_map_loses_all_of_them(kernel: str) -> None:
    """The list would take too long to go through: when it has more than a thousand, the next one ends it."""
    count = 1008
    scene = guest(
        kernel, MmuKind.SHADOW, "4-level", mapped={n * PAGE: HERE for n in range(count)}, mapped_flags=USED
    )
    (slot,) = scene.vm.kvm.memslots[0]
    head, lengths = slot.gfn_to_rmap(HERE >> 12, 1), []
    scene.reads(0)
    for number in range(0, count, 8):
        flushes = scene.vm.kvm.stat["remote_tlb_flush"]
        finish(any_fault(scene.cpu.vcpu, number * PAGE, 0))
        lengths.append(len(pte_list(scene.vm.host, head)))

    assert lengths[:-1] == list(range(8, count, 8))
    assert lengths[-1] == 6
    assert scene.vm.kvm.stat["remote_tlb_flush"] - flushes == 1

"""Section "Large pages"."""

import pytest

from conformance.looking import Leaf, backing, leaves, roots
from conformance.pictures import Camera
from conformance.scenes import GIB, MIB, PAGE, USED, Scene, editing_guest, guest
from mmu_model.kvm.memory_region import add_memory_region
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.types import Hva
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

NESTED_PAGING = [MmuKind.TDP, MmuKind.DIRECT]
SIZES = {1: PAGE, 2: 2 * MIB, 3: GIB}
FAR = 2 * GIB
"""Where the guest has memory to map with large pages."""


def large_guest(
    kernel: str,
    mmu: MmuKind,
    *,
    guest_level: int,
    host_level: int,
    flags: int = USED,
    paging: str = "4-level",
) -> Scene:
    """A guest that maps FAR with a page of one level, on a host that does with pages of another."""
    return guest(
        kernel,
        mmu,
        paging,
        memory={FAR: 2 * GIB - 64 * MIB if paging == "32-bit" else 2 * GIB},
        host_level=host_level,
        mapped={FAR: FAR},
        mapped_level=guest_level,
        mapped_flags=flags,
    )


def leaf_for(scene: Scene, gpa: int) -> Leaf:
    """The spte that maps a guest-physical address; there must be exactly one."""
    snapshot = scene.vm.snapshot()
    found = [
        leaf
        for root in roots(snapshot)
        for leaf in leaves(snapshot, root, root.role.level)
        if covers(scene, leaf, gpa)
    ]
    assert len(found) == 1
    return found[0]


def covers(scene: Scene, leaf: Leaf, gpa: int) -> bool:
    """Whether the frames that an spte maps have the one behind a guest-physical address."""
    pfn = backing(scene.vm, gpa >> 12)
    assert pfn is not None
    span: int = 512 ** (leaf.holder.role.level - 1)
    return leaf.spte.pfn <= pfn < leaf.spte.pfn + span


def slot_at(scene: Scene, gpa: int) -> KvmMemorySlot:
    """The slot that has a guest-physical address."""
    slot = scene.vm.kvm.memslots[0].find(gpa >> 12)
    assert slot is not None
    return slot


@pytest.mark.spec("large-pages/combinations/all-sizes")
@pytest.mark.parametrize("host_level", [1, 2, 3])
@pytest.mark.parametrize("guest_level", [1, 2, 3])
def test_every_size_of_the_guest_goes_with_every_size_of_the_host(
    kernel: str, guest_level: int, host_level: int
) -> None:
    """The guest reads its memory, and the spte is as large as both allow."""
    scene = large_guest(kernel, MmuKind.SHADOW, guest_level=guest_level, host_level=host_level)
    scene.vm.memory.write(FAR + SIZES[guest_level] - 8, 77)

    assert scene.reads(FAR + SIZES[guest_level] - 8) == 77

    assert leaf_for(scene, FAR + SIZES[guest_level] - 8).holder.role.level == min(guest_level, host_level)


@pytest.mark.spec("large-pages/combinations/4k-2m-4m-1g")
@pytest.mark.parametrize(
    ("paging", "level", "size"),
    [("4-level", 1, PAGE), ("4-level", 2, 2 * MIB), ("32-bit", 2, 4 * MIB), ("4-level", 3, GIB)],
)
def test_pages_of_each_size_work(kernel: str, paging: str, level: int, size: int) -> None:
    """The guest maps a page of 4 KiB, 2 MiB, 4 MiB or 1 GiB, and reads its last word through a page as large
    as that, or through one of two halves."""
    scene = large_guest(kernel, MmuKind.SHADOW, guest_level=level, host_level=level, paging=paging)
    scene.vm.memory.write(FAR + size - 8, 77)

    assert scene.reads(FAR + size - 8) == 77

    assert leaf_for(scene, FAR + size - 8).holder.role.level == level


@pytest.mark.spec("large-pages/combinations/4m-as-two-2m")
def test_a_page_of_4_mib_is_two_of_2_mib(kernel: str, picture: Camera) -> None:
    """A 32-bit guest's large page has two sptes, made one by one as they are used, under PAE roots."""
    scene = large_guest(kernel, MmuKind.SHADOW, guest_level=2, host_level=2, paging="32-bit")

    scene.reads(FAR)
    first = leaf_for(scene, FAR)
    scene.reads(FAR + 2 * MIB)
    second = leaf_for(scene, FAR + 2 * MIB)

    assert (first.holder.role.level, second.holder.role.level) == (2, 2)
    assert second.spte.pfn == first.spte.pfn + 512
    assert scene.vm.snapshot().vcpus[0].root_mmu.root.kind == "pae"
    picture("Two sptes of 2 MiB for a page of 4 MiB", scene.vm)


@pytest.mark.spec("large-pages/combinations/4m-as-two-2m")
def test_other_guests_are_not_run_with_pae_paging(kernel: str) -> None:
    """Edge: the shadow of a 4-level guest has four levels itself."""
    scene = large_guest(kernel, MmuKind.SHADOW, guest_level=2, host_level=2)
    scene.reads(FAR)

    assert [page.role.level for page in roots(scene.vm.snapshot())] == [4]


@pytest.mark.spec("large-pages/constraints/lead-in")
@pytest.mark.parametrize("reason", ["none", "dirty logging", "out of step"])
def test_there_are_more_reasons_against_a_large_spte(kernel: str, mmu: MmuKind, reason: str) -> None:
    """Edge: all of the four are satisfied. There is a large spte only if the slot does not log writes, and
    guest and process agree on where large pages begin."""
    scene = guest(kernel, mmu, host_level=2)
    flags = KVM_MEM_LOG_DIRTY_PAGES if reason == "dirty logging" else 0
    hva = scene.vm.process.mmap(2048, 2)
    hva = Hva(hva + PAGE) if reason == "out of step" else hva
    add_memory_region(scene.vm.kvm, 7, GIB, 4 * MIB, hva, flags=flags)

    scene.reads(GIB)

    assert leaf_for(scene, GIB).holder.role.level == (2 if reason == "none" else 1)


@pytest.mark.spec("large-pages/host-page/large")
@pytest.mark.parametrize("level", [1, 2, 3])
def test_an_spte_is_not_larger_than_the_hosts_page(
    kernel: str, mmu: MmuKind, level: int, picture: Camera
) -> None:
    """The guest maps 1 GiB; the host's pages are the limit."""
    scene = large_guest(kernel, mmu, guest_level=3, host_level=level)
    scene.reads(FAR)

    assert leaf_for(scene, FAR).holder.role.level == level
    picture(f"Host pages of level {level}, {mmu.value}", scene.vm)


@pytest.mark.spec("large-pages/guest-pte/at-least-as-large")
@pytest.mark.parametrize("level", [1, 2, 3])
def test_an_spte_is_not_larger_than_the_guests_page(kernel: str, mmu: MmuKind, level: int) -> None:
    """The host has 1 GiB; with shadow paging the guest's page is the limit, under nested paging nothing is."""
    scene = large_guest(kernel, mmu, guest_level=level, host_level=3)
    scene.reads(FAR)

    assert leaf_for(scene, FAR).holder.role.level == (level if mmu is MmuKind.SHADOW else 3)


@pytest.mark.spec("large-pages/write-protected/no-overlap", refutes=True)
@pytest.mark.parametrize("flags", [USED, USED & ~0x2])
def test_a_page_with_a_protected_table_in_it_is_never_large(kernel: str, flags: int, picture: Camera) -> None:
    """Whether the spte would be writable makes no difference. The page beside, without tables, is large."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000}, host_level=2)
    scene.map({GIB: 32 * MIB, GIB + 2 * MIB: 36 * MIB}, level=2, flags=flags)
    scene.reads(0x5000)

    scene.reads(GIB + MIB)
    scene.reads(GIB + 2 * MIB)

    assert leaf_for(scene, 33 * MIB).holder.role.level == 1
    assert leaf_for(scene, 36 * MIB).holder.role.level == 2
    picture("Small sptes where a protected table is", scene.vm)


@pytest.mark.spec("large-pages/one-slot/wholly-contained")
def test_a_large_spte_lies_within_one_slot(kernel: str, mmu: MmuKind, picture: Camera) -> None:
    """Two slots side by side, in the guest as in the process; the border is inside a large page of the host."""
    scene = guest(kernel, mmu, host_level=2)
    hva = scene.vm.process.mmap(1536, 2)
    add_memory_region(scene.vm.kvm, 7, GIB, 3 * MIB, hva)
    add_memory_region(scene.vm.kvm, 8, GIB + 3 * MIB, 3 * MIB, Hva(hva + 3 * MIB))

    for address in (GIB, GIB + 2 * MIB, GIB + 4 * MIB):
        scene.reads(address)

    levels = {at: leaf_for(scene, GIB + at).holder.role.level for at in (0, 2 * MIB, 4 * MIB)}
    assert levels == {0: 2, 2 * MIB: 1, 4 * MIB: 2}
    picture(f"Slots that end within a large page, {mmu.value}", scene.vm)


@pytest.mark.spec("large-pages/disallow_lpage/arrays-per-slot-and-size")
def test_reasons_are_counted_by_slot_and_size(kernel: str) -> None:
    """A table in one slot counts there, once for 2 MiB and once for 1 GiB, and in no other slot."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000}, memory={GIB: GIB})
    before = [slot.disallow_lpage for slot in scene.vm.snapshot().memslots]

    scene.reads(0x5000)

    first, second = (slot.disallow_lpage for slot in scene.vm.snapshot().memslots)
    tables = len(scene.frames)
    assert second == before[1] == ()
    assert set(first) - set(before[0]) == {(2, 16, tables), (3, 0, tables + 1)}


@pytest.mark.spec("large-pages/disallow_lpage/write-protection-increments")
def test_a_shadowed_table_is_a_reason(kernel: str) -> None:
    """As long as it is shadowed; and while it is, the page around it is mapped in parts."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000}, host_level=2, memory={GIB: MIB})
    slot = slot_at(scene, 32 * MIB)
    assert slot.largepage_disallowed(32 * MIB >> 12, 2) == 0

    scene.reads(0x5000)

    assert slot.largepage_disallowed(32 * MIB >> 12, 2) == len(scene.frames)
    scene.vm.remove_memory(slot_at(scene, GIB))
    assert slot.largepage_disallowed(32 * MIB >> 12, 2) == 0


@pytest.mark.spec("large-pages/disallow_lpage/write-protection-increments")
def test_a_table_that_may_be_written_is_a_reason_too(kernel: str) -> None:
    """Edge: a page that has become unsync is protected no more, and counts as before. Logging never counts."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.reads(0x5000)
    slot = slot_at(scene, 32 * MIB)
    assert scene.tables is not None
    table = scene.tables.entry_address(0x5000, 1) >> 12
    scene.reads(scene.window)
    before = slot.largepage_disallowed(table, 2)

    scene.edit(0x9000, 0)

    assert slot.largepage_disallowed(table, 2) == before > 0
    logged = scene.vm.add_memory(GIB, 4 * MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)
    assert logged.disallow_lpage[0] == {}


@pytest.mark.spec("large-pages/disallow_lpage/unaligned-ends-inflated")
@pytest.mark.parametrize(
    ("start", "end", "inflated"),
    [(0, 4, []), (0, 3, [1]), (1, 4, [0]), (1, 3, [0, 1]), (1, 5, [0, 2])],
)
def test_both_ends_of_an_unaligned_slot_are_excluded(start: int, end: int, inflated: list[int]) -> None:
    """In MiB: where the first or the last large page is not all there, it has one reason more than others."""
    vm = VirtualMachine()
    hva = vm.process.mmap(4096, 2)

    slot = add_memory_region(vm.kvm, 0, GIB + start * MIB, (end - start) * MIB, Hva(hva + start * MIB))

    assert {index for index, count in slot.disallow_lpage[0].items() if count} == set(inflated)

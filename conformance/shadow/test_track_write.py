"""KVM writes to a shadowed table for the guest: which sptes go, and when the page goes with them."""

import pytest

from conformance.looking import structs
from conformance.scenes import MIB, PAGE, USED, Scene, guest
from mmu_model.hardware import Gfn
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.spte import is_shadow_present_pte, is_writable_pte
from mmu_model.kvm.types import PG_LEVEL_2M
from mmu_model.snapshot import MmuKind

HERE = 0x6000


@pytest.fixture
def kernel() -> str:
    """The newest: none of this differs between kernels."""
    return "6.12"


def table_page(scene: Scene, address: int, level: int, quadrant: int = 0) -> KvmMmuPage:
    """The page that shadows the guest's table of that level for an address."""
    assert scene.tables is not None
    gfn = scene.tables.entry_address(address, level) >> 12
    (sp,) = (
        sp
        for sp in structs(scene.vm)
        if (sp.gfn, sp.role.level, sp.role.quadrant) == (gfn, level, quadrant) and not sp.role.direct
    )
    return sp


def present(scene: Scene, sp: KvmMmuPage) -> set[int]:
    """Which sptes of a page lead anywhere."""
    return {n for n, spte in enumerate(scene.vm.host.words(sp.spt)) if is_shadow_present_pte(spte)}


def wrote(scene: Scene, gpa: int, size: int) -> None:
    """KVM emulated a write of the guest (kvm_page_track_write)."""
    scene.vm.kvm.shadow.kvm_mmu_track_write(scene.cpu.vcpu, gpa, size)


def flushes(scene: Scene) -> int:
    """How often all TLBs were flushed."""
    return scene.vm.kvm.stat["remote_tlb_flush"]


@pytest.mark.parametrize(
    ("paging", "offset", "size", "goes"),
    [
        ("4-level", 0, 8, False),
        ("4-level", 0, 4, False),
        ("4-level", 4, 4, False),
        ("4-level", 0, 1, False),
        ("4-level", 1, 1, True),
        ("4-level", 4, 1, True),
        ("4-level", 0, 2, True),
        ("4-level", 6, 2, True),
        ("4-level", 4, 8, True),
        ("4-level", 6, 4, True),
        ("4-level", 0, 16, True),
        ("32-bit", 0, 4, False),
        ("32-bit", 4, 4, False),
        ("32-bit", 4, 1, False),
        ("32-bit", 2, 4, True),
        ("32-bit", 0, 8, True),
        ("32-bit", 5, 1, True),
    ],
)
def test_who_writes_in_odd_pieces_has_no_table_there(
    kernel: str, paging: str, offset: int, size: int, goes: bool
) -> None:
    """A write within one entry is to an entry; a byte at its beginning, too (clear_bit() of Linux)."""
    scene = guest(kernel, MmuKind.SHADOW, paging, mapped={0x5000: HERE}, mapped_flags=USED)
    scene.reads(0x5000)
    page = table_page(scene, 0x5000, 1)

    wrote(scene, (page.gfn << 12) + 128 + offset, size)

    assert (bool(page.role.invalid), page not in structs(scene.vm)) == (goes, goes)
    assert scene.vm.kvm.stat["mmu_flooded"] == goes


@pytest.mark.parametrize(
    ("paging", "level", "entry", "quadrant", "indices"),
    [
        ("4-level", 1, 5, 0, {5}),
        ("4-level", 2, 5, 0, {5}),
        ("PAE", 1, 511, 0, {511}),
        ("32-bit", 1, 5, 0, {5}),
        ("32-bit", 1, 512 + 5, 1, {5}),
        ("32-bit", 1, 1023, 1, {511}),
        ("32-bit", 2, 3, 0, {6, 7}),
        ("32-bit", 2, 256 + 3, 1, {6, 7}),
        ("32-bit", 2, 512 + 255, 2, {510, 511}),
        ("32-bit", 2, 768, 3, {0, 1}),
    ],
)
def test_the_sptes_of_the_entry_that_was_written_go(
    kernel: str, paging: str, level: int, entry: int, quadrant: int, indices: set[int]
) -> None:
    """Of a 32-bit guest's table there are two pages, of its directory four; two sptes stand for an entry of that."""
    span = {1: PAGE, 2: 4 * MIB if paging == "32-bit" else 2 * MIB}[level]
    around = [n for n in (entry - 1, entry, entry + 1) if 0 <= n < (1024 if paging == "32-bit" else 512)]
    mapped = {n * span + offset: HERE for n in around for offset in (0, span // 2 & -PAGE)}
    scene = guest(kernel, MmuKind.SHADOW, paging, mapped=mapped, mapped_flags=USED)
    for address in mapped:
        scene.reads(address)
    page = table_page(scene, entry * span, level, quadrant)
    before = present(scene, page)
    assert indices <= before
    earlier = flushes(scene)
    assert scene.tables is not None

    wrote(scene, scene.tables.entry_address(entry * span, level), 4 if paging == "32-bit" else 8)

    assert before - present(scene, page) == indices
    assert flushes(scene) - earlier == 1
    others = [sp for sp in structs(scene.vm) if sp.gfn == page.gfn and sp is not page]
    assert not any(sp.role.invalid for sp in others)


def test_what_leads_nowhere_needs_no_flush(kernel: str) -> None:
    """A write to an entry without an spte; to memory that is no table; without any table."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: HERE}, mapped_flags=USED)
    scene.reads(0x5000)
    page = table_page(scene, 0x5000, 1)
    before, earlier = present(scene, page), flushes(scene)

    wrote(scene, (page.gfn << 12) + 100 * 8, 8)
    wrote(scene, HERE, 8)

    assert (present(scene, page), flushes(scene)) == (before, earlier)
    without = guest(kernel, MmuKind.DIRECT)
    without.reads(0x5000)
    wrote(without, 0, 2)
    assert not any(sp.role.invalid for sp in structs(without.vm))


def test_an_mmio_spte_goes_with_its_entry(kernel: str) -> None:
    """It leads nowhere, so that no TLB knows it; but it remembers what the entry said."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 1 << 40}, mapped_flags=USED)
    scene.reads(0x5000)
    page = table_page(scene, 0x5000, 1)
    sptep, earlier = page.sptep(5), flushes(scene)
    assert scene.vm.kvm.masks.is_mmio(scene.vm.host.read(sptep))

    wrote(scene, (page.gfn << 12) + 5 * 8, 8)

    assert scene.vm.host.read(sptep) == scene.vm.kvm.kernel.shadow_nonpresent_value
    assert flushes(scene) == earlier


def test_direct_pages_stand_for_no_table(kernel: str) -> None:
    """One with the gfn of what was written is left alone."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={2 * MIB: 2 * MIB}, mapped_level=2)
    scene.reads(2 * MIB)
    (direct,) = (sp for sp in structs(scene.vm) if sp.role.direct)
    assert direct.gfn == 2 * MIB >> 12
    before = present(scene, direct)

    wrote(scene, 2 * MIB, 8)
    wrote(scene, 2 * MIB + 1, 1)

    assert (direct.role.invalid, present(scene, direct)) == (0, before)
    assert scene.vm.kvm.stat["mmu_flooded"] == 0


@pytest.mark.parametrize(("level", "goes"), [(1, False), (2, True), (4, True)])
def test_upper_tables_that_are_written_often_go(kernel: str, level: int, goes: bool) -> None:
    """With the third write; a table of the last level becomes unsync instead."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: HERE}, mapped_flags=USED)
    scene.reads(0x5000)
    page = table_page(scene, 0x5000, level)
    gone = []
    for number in range(4):
        wrote(scene, (page.gfn << 12) + (100 + number) * 8, 8)
        gone.append(bool(page.role.invalid))

    assert gone == [False, False, goes, goes]
    assert scene.vm.kvm.stat["mmu_flooded"] == goes


def test_use_as_a_table_is_told_by_a_write_that_faults_on_one(kernel: str) -> None:
    """The tables that translate a write to a protected table are in use: their counts begin anew."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: HERE}, mapped_flags=USED)
    assert scene.tables is not None
    directory = scene.tables.entry_address(0x5000, 2) & -PAGE
    scene.map({0x9000: directory}, flags=USED)
    scene.reads(0x5000)
    scene.reads(0x9000)
    page = table_page(scene, 0x5000, 3)
    wrote(scene, (page.gfn << 12) + 100 * 8, 8)
    counted = [page.write_flooding_count]

    scene.cpu.write(0x9000 + 100 * 8, 0)
    counted.append(page.write_flooding_count)

    assert counted == [1, 0]


def reasons(scene: Scene, gfn: int) -> tuple[int, int, int]:
    """What speaks against large pages of both sizes around a frame, and for seeing its writes."""
    (slot,) = scene.vm.kvm.memslots[0]
    return (
        slot.largepage_disallowed(gfn, PG_LEVEL_2M),
        slot.largepage_disallowed(gfn, PG_LEVEL_2M + 1),
        slot.gfn_write_track.get(gfn, 0),
    )


@pytest.mark.parametrize(("level", "tracked"), [(1, 0), (2, 1), (4, 1)])
def test_what_a_shadowed_table_demands_ends_with_its_page(kernel: str, level: int, tracked: int) -> None:
    """No large page around it; and if it is above the last level, that writes are seen."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: HERE}, mapped_flags=USED)
    assert scene.tables is not None
    gfn = scene.tables.entry_address(0x5000, level) >> 12
    kvm = scene.vm.kvm
    before, count = reasons(scene, gfn), kvm.indirect_shadow_pages
    scene.reads(0x5000)
    during = reasons(scene, gfn)
    assert kvm.indirect_shadow_pages - count == 4

    wrote(scene, (gfn << 12) + 1, 1)

    assert during[2] - before[2] == tracked
    assert (during[0] - before[0], during[1] - before[1]) == (4, 4)  # all four tables are within 2 MiB
    assert reasons(scene, gfn)[2] == before[2]
    assert kvm.indirect_shadow_pages - count == 3
    assert (reasons(scene, gfn)[0] - before[0], reasons(scene, gfn)[1] - before[1]) == (3, 3)


def test_a_frame_becomes_read_only_when_a_table_in_it_is_shadowed(kernel: str) -> None:
    """By every spte there is for it; and a TLB that knows better is flushed."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: HERE}, mapped_flags=USED)
    assert scene.tables is not None
    table = 40 * MIB
    scene.map({0x8000: table, 20 * MIB: table}, flags=USED)
    for address in (0x8000, 20 * MIB):
        scene.cpu.write(address, 0)
    ways = [table_page(scene, address, 1).sptep(address >> 12 & 511) for address in (0x8000, 20 * MIB)]
    assert all(is_writable_pte(scene.vm.host.read(way)) for way in ways)
    scene.vm.memory.write(table + 8, HERE | USED)
    scene.vm.memory.write(scene.tables.entry_address(0, 2) + 100 * 8, table | USED)
    earlier = flushes(scene)

    scene.reads(100 * 2 * MIB + PAGE)

    masks = scene.vm.kvm.masks
    now = [scene.vm.host.read(way) for way in ways]
    assert not any(is_writable_pte(spte) or masks.is_mmu_writable(spte) for spte in now)
    assert flushes(scene) - earlier == 1


def test_where_nothing_was_writable_nothing_is_flushed(kernel: str) -> None:
    """The guest cannot reach its tables, so that no TLB knows them."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: HERE}, mapped_flags=USED)
    scene.reads(0x5000)

    assert flushes(scene) == 0


def test_a_frame_is_written_again_when_its_tables_are_given_up(kernel: str) -> None:
    """Only of that frame, only tables; there may be none (kvm_mmu_unprotect_gfn)."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: HERE, 2 * MIB: HERE}, mapped_flags=USED)
    scene.reads(0x5000)
    scene.reads(2 * MIB)
    page, other = table_page(scene, 0x5000, 1), table_page(scene, 2 * MIB, 1)
    unprotect = scene.vm.kvm.shadow.unprotect_gfn
    with scene.vm.kvm.mmu_lock.write:
        found = [
            unprotect(scene.vm.kvm, page.gfn),
            unprotect(scene.vm.kvm, page.gfn),
            unprotect(scene.vm.kvm, Gfn(0x300)),
        ]

    assert found == [True, False, False]
    assert page not in structs(scene.vm)
    assert other in structs(scene.vm)

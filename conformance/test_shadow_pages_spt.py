"""Section "Shadow pages": spt."""

import pytest

from conformance.looking import children, links, parents, roots, structs
from conformance.pictures import Camera
from conformance.scenes import GIB, MIB, PAGE, TABLES, guest
from mmu_model.hardware import PAGE_SHIFT, Gfn
from mmu_model.kvm.rmap import KVM_RMAP_MANY
from mmu_model.kvm.types import pa
from mmu_model.snapshot import MmuKind, Snapshot
from mmu_model.snapshot.spte import ACCESSED, FRAME, Kind

VALUE = 0x1122_3344_5566_7788


@pytest.mark.spec("spt/pageful-of-sptes")
def test_a_page_holds_512_sptes_of_64_bits(kernel: str, mmu: MmuKind) -> None:
    """The guest reads through the first and the last entry of a page; what lies behind is in another one."""
    scene = guest(kernel, mmu)
    addresses = [4 * MIB, 6 * MIB - PAGE, 6 * MIB]
    for number, address in enumerate(addresses):
        scene.vm.memory.write(address, VALUE + number)

    assert [scene.reads(address) for address in addresses] == [VALUE, VALUE + 1, VALUE + 2]

    snapshot = scene.vm.snapshot()
    lowest = {page.gfn << PAGE_SHIFT: page for page in snapshot.pages if page.role.level == 1}
    assert {0, 511} <= set(lowest[4 * MIB].sptes()) <= set(range(512))
    assert 0 in lowest[6 * MIB].sptes()
    assert len({page.spt for page in snapshot.pages}) == len(snapshot.pages)


@pytest.mark.spec("spt/accessed-by-kvm-and-hardware")
@pytest.mark.parametrize("mmu", [MmuKind.DIRECT, MmuKind.SHADOW])
def test_the_processor_uses_the_very_sptes_that_kvm_wrote(kernel: str, mmu: MmuKind) -> None:
    """KVM maps a neighbour in advance, as not accessed. The guest reads it without a fault, and there A is set."""
    scene = guest(kernel, mmu)
    scene.reads(0x8000)
    faults = scene.cpu.vcpu.stat["pf_taken"]
    assert not flags_of_spte(scene.vm.snapshot(), 9) & ACCESSED

    scene.reads(0x9000)

    assert scene.cpu.vcpu.stat["pf_taken"] == faults
    assert flags_of_spte(scene.vm.snapshot(), 9) & ACCESSED


@pytest.mark.spec("spt/accessed-by-kvm-and-hardware")
def test_what_one_of_them_writes_the_other_reads(kernel: str, mmu: MmuKind) -> None:
    """KVM clears the accessed flag when the host asks for it; the processor sets it with the next use; KVM sees that."""
    scene = guest(kernel, mmu)
    (slot,) = scene.vm.kvm.memslots[0]
    scene.reads(0x5000)
    asked = []

    for _ in range(2):
        asked += [scene.vm.process.was_used(slot.hva(Gfn(5)), 1) for _ in range(2)]
        scene.vm.kvm.flush_remote_tlbs()
        faults = scene.cpu.vcpu.stat["pf_taken"]
        scene.reads(0x5000)
        assert scene.cpu.vcpu.stat["pf_taken"] == faults

    assert asked == [True, False, True, False]


@pytest.mark.spec("spt/page-private-points-back")
def test_the_frame_of_an_spt_names_its_shadow_page(kernel: str, mmu: MmuKind) -> None:
    """`page->private` of the frame with the sptes is the address of the struct."""
    scene = guest(kernel, mmu)
    scene.reads(0x5000)
    scene.reads(4 * MIB)

    pages = scene.vm.snapshot().pages

    assert len(pages) >= 4
    named = {int(page.id): int(scene.vm.host.page_private[page.spt]) for page in pages}
    assert named == {int(page.id): int(page.id) for page in pages}


@pytest.mark.spec("spt/points-at-guest-or-shadow-pages")
def test_present_sptes_lead_to_guest_memory_or_one_level_down(
    kernel: str, mmu: MmuKind, picture: Camera
) -> None:
    """Every present spte has the frame of a page of the guest, or of a shadow page of the next level."""
    scene = guest(kernel, mmu)
    for address in (0x5000, 4 * MIB, 40 * MIB):
        scene.reads(address)
    snapshot = scene.vm.snapshot()

    guests = {hpa >> PAGE_SHIFT for gpa in range(0, 64 * MIB, PAGE) if (hpa := scene.vm.memory.hpa(gpa))}
    levels = {int(page.spt): page.role.level for page in snapshot.pages}
    for page in snapshot.pages:
        for spte in page.sptes().values():
            if spte.kind is Kind.LEAF:
                assert spte.pfn in guests
            else:
                assert levels.get(spte.pfn) == page.role.level - 1
    picture(f"Where sptes lead, {mmu.value}", snapshot)


@pytest.mark.spec("spt/points-at-guest-or-shadow-pages")
def test_the_spte_of_an_address_without_memory_leads_nowhere(kernel: str, mmu: MmuKind) -> None:
    """Edge: it is there and holds a guest frame, but bit 51 makes the processor fault on it."""
    scene = guest(kernel, mmu)
    scene.reads(0xF000_0000)

    (spte,) = (
        spte for page in scene.vm.snapshot().pages for spte in page.sptes().values() if spte.kind is Kind.MMIO
    )

    assert spte.raw & FRAME == 1 << 51 | 0xF000_0000


@pytest.mark.spec("spt/nonleaf-is-pa-of-spt")
def test_a_nonleaf_spte_holds_the_physical_address_of_the_childs_sptes(kernel: str, mmu: MmuKind) -> None:
    """What the processor is sent to by an entry above the last level is `spt` of a shadow page."""
    scene = guest(kernel, mmu)
    scene.reads(0x5000)
    scene.reads(4 * MIB)
    snapshot = scene.vm.snapshot()

    spts = {pa(sp.spt) for sp in structs(scene.vm)}
    named = [
        spte.raw & FRAME
        for page in snapshot.pages
        for spte in page.sptes().values()
        if spte.kind is Kind.TABLE
    ]

    assert len(named) >= 2
    assert set(named) <= spts


@pytest.mark.spec("spt/child-points-back", refutes=True)
def test_a_child_points_back_at_the_spte_and_not_at_its_parent(
    kernel: str, mmu: MmuKind, picture: Camera
) -> None:
    """There is no `parent_pte`: `parent_ptes`, or `ptep`, holds the address of the entry in sp1->spt."""
    scene = guest(kernel, mmu)
    scene.reads(0x5000)

    found = links(scene.vm)

    assert found
    for link in found:
        back = link.child.ptep if link.child.tdp_mmu_page else link.child.parent_ptes.val
        assert back == link.sptep
        assert back != link.parent.address
        assert not hasattr(link.child, "parent_pte")
    picture(f"Children point back at entries, {mmu.value}", scene.vm)


@pytest.mark.spec("spt/dag")
def test_a_table_used_twice_is_shadowed_once(kernel: str, picture: Camera) -> None:
    """Shadow paging: two entries of the guest lead to one table, two sptes to one page."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    assert scene.tables is not None
    entry = scene.vm.memory.read(scene.tables.entry_address(0x5000, 3))
    scene.vm.memory.write(scene.tables.entry_address(GIB, 3), entry)
    scene.reads(0x5000)
    scene.reads(GIB + 0x5000)
    snapshot = scene.vm.snapshot()

    shared, *others = (page for page in snapshot.pages if page.role.level == 2)

    assert not others
    assert len(parents(snapshot, shared)) == 2
    assert sorted(parents(snapshot, shared)) == sorted((at.page, at.index) for at in shared.parent_ptes or ())
    assert (
        next(sp for sp in structs(scene.vm) if int(sp.address) == int(shared.id)).parent_ptes.val
        & KVM_RMAP_MANY
    )
    picture("A table used twice is shadowed once", snapshot)


@pytest.mark.spec("spt/dag")
def test_a_guest_table_that_leads_to_itself_makes_no_cycle(kernel: str, picture: Camera) -> None:
    """Shadow paging: a table is shadowed once for each level that the guest uses it at."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    root = scene.frames[0]
    scene.vm.memory.write(root + 8 * 256, root | 7)

    recursive = 0xFFFF_8000_0000_0000  # entry 256 of the top, then entry 0 down: a table seen as a page
    assert scene.reads(recursive) == scene.vm.memory.read(scene.frames[3])

    assert is_acyclic(scene.vm.snapshot())
    picture("A table that leads to itself makes no cycle", scene.vm)


@pytest.mark.spec("spt/dag")
@pytest.mark.parametrize("paging", ["off", "4-level"])
def test_pages_of_the_tdp_mmu_form_a_tree(kernel: str, paging: str, picture: Camera) -> None:
    """Edge: no page of the TDP MMU is shared; each but the root has exactly one entry that leads to it."""
    scene = guest(kernel, MmuKind.TDP, paging, mapped={0x5000: 0x5000, 0x6000: TABLES, 0x7000: 40 * MIB})
    for address in (0x5000, 0x6000, 0x7000):
        scene.reads(address)
    snapshot = scene.vm.snapshot()

    (root,) = roots(snapshot)

    assert len(snapshot.pages) >= 4
    assert {page.id: len(parents(snapshot, page)) for page in snapshot.pages} == {
        page.id: int(page is not root) for page in snapshot.pages
    }
    picture("Pages of the TDP MMU form a tree", snapshot)


def flags_of_spte(snapshot: Snapshot, index: int) -> int:
    """The raw spte of that index in the only page of level 1."""
    (page,) = (page for page in snapshot.pages if page.role.level == 1)
    return page.sptes()[index].raw


def is_acyclic(snapshot: Snapshot) -> bool:
    """Whether no way down the sptes comes back to a page: pages without parents can be taken off until none
    is left."""
    left = {page.id: page for page in snapshot.pages}
    while left:
        pointed_at = {child.id for page in left.values() for child in children(snapshot, page).values()}
        free = [page_id for page_id in left if page_id not in pointed_at]
        if not free:
            return False
        for page_id in free:
            del left[page_id]
    return True

"""Section "Shadow pages": ptep, tdp_mmu_page."""

import pytest

from conformance.looking import links, roots, structs
from conformance.pictures import Camera
from conformance.scenes import GIB, MIB, TABLES, Scene, guest, nested_guest
from mmu_model.kvm.rmap import KVM_RMAP_MANY
from mmu_model.kvm.types import PAGE_OFFSET
from mmu_model.snapshot import MmuKind


def both_mmus(kernel: str) -> Scene:
    """A nested guest that runs: its tables are shadowed, the memory of its hypervisor is not."""
    mapped = {0x5000: 0x6000, 2 * MIB: 0x7000}
    scene = nested_guest(kernel, MmuKind.TDP, mapped=mapped, memory={GIB: MIB})
    scene.reads(0x5000)
    scene.reads(2 * MIB)
    return scene


def remove_extra_memory(scene: Scene) -> None:
    """Take away the slot that nobody uses: which makes KVM drop everything."""
    extra = scene.vm.kvm.memslots[0].by_id(1)
    assert extra is not None
    scene.vm.remove_memory(extra)


@pytest.mark.spec("ptep/points-at-parent-spte")
def test_ptep_is_where_the_kernel_sees_the_spte_that_leads_here(kernel: str, picture: Camera) -> None:
    """It is an address of the kernel's map of all memory, and what is there leads to the page. A root has
    none."""
    scene = guest(kernel, MmuKind.TDP)
    scene.reads(0x5000)
    scene.reads(4 * MIB)

    seen = {link.child.address: link.sptep for link in links(scene.vm)}

    pages = structs(scene.vm)
    assert len(seen) == len(pages) - 1
    assert {sp.address: sp.ptep for sp in pages} == {sp.address: seen.get(sp.address) for sp in pages}
    assert all(sptep >> 46 == PAGE_OFFSET >> 46 for sptep in seen.values())
    picture("Each page but the root has one parent", scene.vm)


@pytest.mark.spec("ptep/tdp-only-union")
def test_ptep_and_parent_ptes_are_one_word(kernel: str, mmu: MmuKind) -> None:
    """What is written as the one is read as the other."""
    scene = guest(kernel, mmu)
    scene.reads(0x5000)

    linked = [link.child for link in links(scene.vm)]

    assert linked
    assert [sp.ptep for sp in linked] == [sp.parent_ptes.val for sp in linked]


@pytest.mark.spec("ptep/tdp-only-union")
def test_the_shadow_mmu_writes_its_own_encoding_there(kernel: str) -> None:
    """A shadow page with two parents has no address of an spte in that word, but a tagged list."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    assert scene.tables is not None
    entry = scene.vm.memory.read(scene.tables.entry_address(0x5000, 3))
    scene.vm.memory.write(scene.tables.entry_address(GIB, 3), entry)
    scene.reads(0x5000)
    scene.reads(GIB + 0x5000)

    (shared,) = (sp for sp in structs(scene.vm) if sp.role.level == 2)

    assert shared.parent_ptes.val & KVM_RMAP_MANY
    assert len({link.sptep for link in links(scene.vm) if link.child is shared}) == 2


@pytest.mark.spec("tdp_mmu_page/marks-tdp-pages")
def test_pages_of_the_tdp_mmu_are_marked(kernel: str, mmu: MmuKind) -> None:
    """All of them under the TDP MMU, none where the shadow MMU maps the guest's memory."""
    scene = guest(kernel, mmu)
    scene.reads(0x5000)

    assert {page.tdp_mmu_page for page in scene.vm.snapshot().pages} == {mmu is MmuKind.TDP}


@pytest.mark.spec("tdp_mmu_page/marks-tdp-pages")
def test_a_nested_guest_has_pages_of_both_kinds(kernel: str, picture: Camera) -> None:
    """The hypervisor's own memory is mapped by marked pages; those that shadow its nested tables are not."""
    scene = both_mmus(kernel)

    assert {(page.role.guest_mode, page.tdp_mmu_page) for page in scene.vm.snapshot().pages} == {
        (0, True),
        (1, False),
    }
    picture("Pages of both MMUs", scene.vm)


@pytest.mark.spec("tdp_mmu_page/bifurcates-control-flow")
def test_only_pages_of_the_shadow_mmu_age_by_generation(kernel: str) -> None:
    """After a fast zap the VM's generation is 1. New pages of both kinds serve the guest; a TDP page, which
    has no generation, is not taken for obsolete."""
    scene = guest(kernel, MmuKind.TDP, "4-level", mapped={0x5000: 0x6000}, memory={GIB: MIB})
    scene.reads(0x5000)
    scene.vm.memory.write(0x6000, 77)

    remove_extra_memory(scene)

    assert scene.reads(0x5000) == 77
    snapshot = scene.vm.snapshot()
    assert snapshot.mmu_valid_gen == 1
    assert roots(snapshot)[0].role.invalid == 0


@pytest.mark.spec("tdp_mmu_page/bifurcates-control-flow")
def test_roots_are_let_go_of_by_the_mmu_that_they_belong_to(kernel: str) -> None:
    """A nested guest's vCPU holds a root of each kind. When both are obsolete, one loop lets go of both: the
    invalid TDP root is gone with its last reference, and so is the shadow root."""
    scene = both_mmus(kernel)
    remove_extra_memory(scene)
    held = scene.vm.snapshot()
    assert {page.tdp_mmu_page for page in held.pages} == {True, False}
    assert {page.role.invalid for page in held.pages} == {1}

    scene.cpu.leave_nested()
    scene.reads(TABLES)

    pages = scene.vm.snapshot().pages
    assert {(page.tdp_mmu_page, page.role.invalid) for page in pages} == {(True, 0)}

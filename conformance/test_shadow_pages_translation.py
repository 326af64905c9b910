"""Section "Shadow pages": shadowed_translation, parent_ptes."""

import pytest

from conformance.looking import links, structs
from conformance.pictures import Camera
from conformance.scenes import GIB, MIB, PAGE, USED, Scene, editing_guest, guest
from mmu_model.kvm import page as pages
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.rmap import KVM_RMAP_MANY
from mmu_model.kvm.spte import is_last_spte, is_shadow_present_pte
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

READ_ONLY = USED & ~0x2
KERNEL_ONLY = USED & ~0x4


def leaf_indices(vm: VirtualMachine, sp: KvmMmuPage) -> list[int]:
    """The entries of a page that are present leaves."""
    words = enumerate(vm.host.words(sp.spt))
    return [n for n, spte in words if is_shadow_present_pte(spte) and is_last_spte(spte, sp.role.level)]


def scattered_guest(kernel: str) -> tuple[Scene, KvmMmuPage]:
    """A shadowed guest with frames in no order and different rights, and the page of level 1 that maps them."""
    scene = guest(
        kernel, MmuKind.SHADOW, "4-level", mapped={0x8000: 0x9000, 0x9000: 0x3000}, mapped_flags=USED
    )
    scene.map({0xA000: 0x7000}, flags=READ_ONLY)
    scene.map({0xB000: 0x6000}, flags=KERNEL_ONLY)
    scene.reads(0x8000)
    (page,) = (sp for sp in structs(scene.vm) if sp.role.level == 1)
    return scene, page


SCATTERED = {8: (9, 7), 9: (3, 7), 10: (7, 5), 11: (6, 3)}
"""By index: gfn, and access as the sum of 4 user, 2 write, 1 execute."""


@pytest.mark.spec("shadowed_translation/512-entries")
@pytest.mark.spec("shadowed_translation/512-entries~9d68", refutes=True)
def test_there_is_an_entry_for_every_spte(kernel: str) -> None:
    """512 of them; those of the sptes that are present hold gfn and access, neighbours mapped in advance too."""
    scene, page = scattered_guest(kernel)
    assert page.shadowed_translation is not None

    assert len(page.shadowed_translation) == 512
    assert leaf_indices(scene.vm, page) == sorted(SCATTERED)
    assert {n: page.shadowed_translation[n] for n in SCATTERED} == {
        n: gfn << 12 | access for n, (gfn, access) in SCATTERED.items()
    }


@pytest.mark.spec("shadowed_translation/reverse-map-and-access")
@pytest.mark.spec("shadowed_translation/reverse-map-and-access~ab53")
def test_from_an_spte_its_gfn_and_access_are_found(kernel: str, picture: Camera) -> None:
    """By the page and the index alone; and that is how the reverse map finds what it has to forget."""
    scene, page = scattered_guest(kernel)

    found = {
        n: (int(pages.kvm_mmu_page_get_gfn(page, n)), pages.kvm_mmu_page_get_access(page, n))
        for n in SCATTERED
    }

    assert found == SCATTERED
    slot = scene.vm.kvm.memslots[0].find(0)
    assert slot is not None
    mapped = {gfn for gfn in range(16) if slot.gfn_to_rmap(gfn, 1).val}
    assert mapped == {gfn for gfn, _ in SCATTERED.values()}
    picture("The reverse map finds the sptes", scene.vm)


@pytest.mark.spec("shadowed_translation/not-allocated-when-direct")
@pytest.mark.spec("shadowed_translation/gfn-computable~6351")
@pytest.mark.parametrize("paging", ["off", "4-level", "5-level"])
def test_direct_pages_have_none(kernel: str, mmu: MmuKind, paging: str) -> None:
    """Pages that shadow a table have it, except in 6.12 those of levels 4 and 5; direct pages never."""
    scene = guest(kernel, mmu, paging, mapped={2 * MIB: 2 * MIB}, mapped_level=2)
    scene.reads(2 * MIB)
    highest = {"6.1": 5, "6.12": 3}[kernel]

    for sp in structs(scene.vm):
        allocated = sp.shadowed_translation is not None
        assert allocated == (not sp.role.direct and sp.role.level <= highest)
    assert any(sp.role.direct for sp in structs(scene.vm))


@pytest.mark.spec("shadowed_translation/gfn-computable")
@pytest.mark.spec("shadowed_translation/gfn-computable~6351")
def test_the_gfns_of_a_direct_page_follow_from_its_own(kernel: str, mmu: MmuKind) -> None:
    """Entry n stands for gfn + n times what an entry of the level spans."""
    scene = guest(kernel, mmu, host_level=2)
    scene.vm.add_memory(GIB, MIB, level=1)
    for address in (0x5000, 2 * MIB, 6 * MIB, GIB + 0x5000):
        scene.reads(address)

    checked = []
    for sp in structs(scene.vm):
        for index in leaf_indices(scene.vm, sp):
            gfn = pages.kvm_mmu_page_get_gfn(sp, index)
            spte = scene.vm.host.read(sp.sptep(index))
            assert gfn == sp.gfn + index * 512 ** (sp.role.level - 1)
            assert scene.vm.memory.hpa(gfn << 12) == spte & ((1 << 52) - PAGE)
            checked.append(sp.role.level)
    assert checked.count(2) == 3
    assert 1 in checked


@pytest.mark.spec("shadowed_translation/no-access-per-gfn-when-direct")
def test_a_direct_page_has_one_access_for_all(kernel: str) -> None:
    """A large read-only page of the guest that is mapped in parts: every part has the access of the page, and
    grants just that."""
    scene = guest(
        kernel, MmuKind.SHADOW, "4-level", mapped={2 * MIB: 2 * MIB}, mapped_level=2, mapped_flags=READ_ONLY
    )
    scene.reads(2 * MIB)
    (page,) = (sp for sp in structs(scene.vm) if sp.role.level == 1)

    assert page.shadowed_translation is None
    assert len(leaf_indices(scene.vm, page)) == 8
    assert granted(scene.vm, page) == {5}
    assert {pages.kvm_mmu_page_get_access(page, n) for n in range(512)} == {5}
    assert page.role.access == 5


@pytest.mark.spec("shadowed_translation/no-access-per-gfn-when-direct")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_pages_for_guest_physical_memory_have_all_access_for_all(kernel: str, mmu: MmuKind) -> None:
    """Whatever the guest's own entries grant for a frame, nothing is kept of it and nothing is denied."""
    scene = guest(kernel, mmu, "4-level", mapped={0x8000: 0x9000}, mapped_flags=USED)
    scene.map({0xA000: 0x7000}, flags=READ_ONLY)
    scene.map({0xB000: 0x6000}, flags=KERNEL_ONLY)
    for address in (0x8000, 0xA000, 0xB000):
        scene.reads(address)

    direct = structs(scene.vm)

    assert {sp.shadowed_translation for sp in direct} == {None}
    assert {pages.kvm_mmu_page_get_access(sp, n) for sp in direct for n in range(512)} == {7}
    assert set.union(*(granted(scene.vm, sp) for sp in direct)) == {7}


def granted(vm: VirtualMachine, sp: KvmMmuPage) -> set[int]:
    """What the leaves of a page grant, as sums of 4 user, 2 write, 1 execute."""
    (page,) = (page for page in vm.snapshot().pages if int(page.id) == int(sp.address))
    sptes = (page.sptes()[n] for n in leaf_indices(vm, sp))
    return {4 * spte.user | 2 * spte.writable | spte.executable for spte in sptes}


def shared_table_guest(kernel: str, parents: int) -> tuple[Scene, KvmMmuPage]:
    """A guest with a page directory that several entries lead to, each of which it has used."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    assert scene.tables is not None
    entry = scene.vm.memory.read(scene.tables.entry_address(0x5000, 3))
    for number in range(parents):
        scene.vm.memory.write(scene.tables.entry_address(number * GIB, 3), entry)
    for number in range(parents):
        scene.reads(number * GIB + 0x5000)
    (shared,) = (sp for sp in structs(scene.vm) if int(sp.gfn) == entry >> 12)
    return scene, shared


@pytest.mark.spec("parent_ptes/reverse-mapping")
@pytest.mark.parametrize("parents", [1, 2, 30])
def test_every_spte_that_leads_to_a_page_is_found_from_it(kernel: str, parents: int, picture: Camera) -> None:
    """Looked for in all pages, and looked up: the same."""
    scene, shared = shared_table_guest(kernel, parents)

    looked_for = {link.sptep for link in links(scene.vm) if link.child is shared}

    page = scene.vm.snapshot().by_id()
    (seen,) = (p for p in page.values() if int(p.gfn) == int(shared.gfn))
    addresses = {structs_by_id(scene)[int(at.page)].sptep(at.index) for at in seen.parent_ptes or ()}
    assert len(looked_for) == parents
    assert addresses == looked_for
    picture(f"{parents} parents of one page", scene.vm)


@pytest.mark.spec("parent_ptes/bit-0-single-or-list")
@pytest.mark.parametrize("parents", [1, 2, 15])
def test_bit_0_tells_one_spte_from_a_list(kernel: str, parents: int) -> None:
    """Without it the word is the address of the only spte; with it, less it, that of descriptors."""
    scene, shared = shared_table_guest(kernel, parents)
    looked_for = [link.sptep for link in links(scene.vm) if link.child is shared]
    word = shared.parent_ptes.val

    assert bool(word & KVM_RMAP_MANY) == (parents > 1)
    assert [sp.parent_ptes.val for sp in structs(scene.vm) if sp.root_count] == [0]
    if parents == 1:
        assert [word] == looked_for
    else:
        desc = scene.vm.host.at(word & ~KVM_RMAP_MANY)
        held = list(desc.sptes)
        while desc.more:
            desc = scene.vm.host.at(desc.more)
            held += desc.sptes
        assert sorted(held) == sorted(looked_for)


@pytest.mark.spec("parent_ptes/bit-0-single-or-list")
def test_a_list_that_shrinks_to_one_stays_a_list(kernel: str) -> None:
    """Edge: the guest takes one of two entries away. One spte is left, and bit 0 is still 1."""
    scene, shared = shared_table_guest(kernel, 2)
    assert scene.tables is not None
    entry = scene.tables.entry_address(GIB, 3)
    window = editing_guest(kernel, {}).window

    scene.cpu.write(window + entry - 32 * MIB, 0)

    assert len([link for link in links(scene.vm) if link.child is shared]) == 1
    assert shared.parent_ptes.val & KVM_RMAP_MANY


def structs_by_id(scene: Scene) -> dict[int, KvmMmuPage]:
    """All structs by address."""
    return {int(sp.address): sp for sp in structs(scene.vm)}

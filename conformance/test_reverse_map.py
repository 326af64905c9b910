"""Section "Reverse map": the lists of the sptes that map a frame; more of it in `test_reaction_to_events`."""

import pytest

from conformance.looking import backing, reached
from conformance.scenes import GIB, MIB, PAGE, USED, Scene, editing_guest, guest
from mmu_model.hardware import Gfn
from mmu_model.kvm.types import pages_per_hpage
from mmu_model.snapshot import MmuKind, PageId
from mmu_model.snapshot.spte import Kind

REACHED = "reverse-map/all-sptes-of-a-gfn/reached-by-gfn"
SWAPPING = "reverse-map/all-sptes-of-a-gfn/swapping-out"

Places = set[tuple[int, PageId, int]]
"""Where sptes are: the level, the page and the index."""


def listed(scene: Scene, gfn: int) -> Places:
    """What the lists have for the frame, or for a large frame that begins with it."""
    return {
        (head.level, at.page, at.index)
        for slot in scene.vm.snapshot().memslots
        for head in slot.rmap
        if head.gfn == gfn
        for at in head.sptes
    }


def mapping(scene: Scene, gfn: int) -> Places:
    """The leaf sptes that map the frame or a large frame that begins with it: looked for in all pages."""
    return {
        (page.role.level, page.id, index)
        for page in scene.vm.snapshot().pages
        for index, spte in page.sptes().items()
        if spte.kind is Kind.LEAF and spte.pfn == backing(scene.vm, gfn)
    }


def both_sizes(kernel: str) -> Scene:
    """A guest that has used 4 MiB by two pages of 2 MiB, and by one of 4 KiB."""
    scene = guest(
        kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 4 * MIB}, mapped_flags=USED, host_level=2
    )
    scene.map({GIB: 4 * MIB, GIB + 2 * MIB: 4 * MIB}, level=2, flags=USED)
    for address in (0x5000, GIB, GIB + 2 * MIB):
        scene.cpu.write(address, 7)
    return scene


@pytest.mark.spec(REACHED)
def test_there_is_a_list_for_each_size(kernel: str) -> None:
    """Two large sptes are in the one, a small one is in the other."""
    scene = both_sizes(kernel)

    assert sorted(level for level, _, _ in listed(scene, 4 * MIB >> 12)) == [1, 2, 2]
    assert listed(scene, 4 * MIB >> 12) == mapping(scene, 4 * MIB >> 12)


@pytest.mark.spec(REACHED)
def test_a_list_has_nothing_that_maps_no_more(kernel: str) -> None:
    """Of three sptes for a frame the guest lets the one go that was neither the first nor the last."""
    addresses = [n * PAGE for n in (5, 6, 7)]
    scene = editing_guest(kernel, dict.fromkeys(addresses, 0x9000))
    for address in addresses:
        scene.reads(address)
    before = listed(scene, 9)
    scene.edit(addresses[1], 0)

    scene.cpu.invlpg(addresses[1])

    assert len(before) == 3
    assert listed(scene, 9) == mapping(scene, 9)
    assert {index for _, _, index in listed(scene, 9)} == {5, 7}


@pytest.mark.spec(REACHED)
def test_sptes_of_direct_shadow_pages_are_listed_too(kernel: str) -> None:
    """Under nested paging without the TDP MMU."""
    scene = guest(kernel, MmuKind.DIRECT)
    scene.reads(0x5000)

    assert len(listed(scene, 5)) == 1
    assert listed(scene, 5) == mapping(scene, 5)


@pytest.mark.spec(SWAPPING)
@pytest.mark.parametrize("offset", [0, 1])
def test_large_sptes_around_a_page_that_is_swapped_out_go_too(kernel: str, offset: int) -> None:
    """The host takes the first small page of 2 MiB, or the second: no spte maps it any more, whatever its size, and
    the guest gets it back as it was."""
    scene = both_sizes(kernel)
    gfn = Gfn((4 * MIB >> 12) + offset)
    taken = backing(scene.vm, gfn)
    assert taken is not None
    (slot,) = scene.vm.kvm.memslots[0]

    scene.vm.process.swap_out(slot.hva(gfn))

    left = [(leaf.holder.role.level, leaf.spte.pfn) for leaf in reached(scene.vm.snapshot())]
    assert not [pfn for level, pfn in left if pfn <= taken < pfn + pages_per_hpage(level)]
    assert {level for level, _, _ in listed(scene, 4 * MIB >> 12)} == ({1} if offset else set())
    assert [scene.reads(address) for address in (0x5000, GIB, GIB + 2 * MIB)] == [7, 7, 7]


@pytest.mark.spec(SWAPPING)
@pytest.mark.parametrize("number", [14, 15, 40])
def test_however_long_the_list_is_all_of_it_goes(kernel: str, number: int) -> None:
    """Around the 14 that a descriptor has room for, and over several of them."""
    addresses = [n * PAGE for n in range(64, 64 + number)]
    scene = guest(
        kernel, MmuKind.SHADOW, "4-level", mapped=dict.fromkeys(addresses, 0x9000), mapped_flags=USED
    )
    scene.vm.memory.write(0x9000, 7)
    for address in addresses:
        scene.reads(address)
    (slot,) = scene.vm.kvm.memslots[0]
    before = len(listed(scene, 9)), mapping(scene, 9) == listed(scene, 9)

    old = backing(scene.vm, 9)
    scene.vm.process.swap_out(slot.hva(Gfn(9)))

    assert before == (number, True)
    assert [leaf for leaf in reached(scene.vm.snapshot()) if leaf.spte.pfn == old] == []
    assert listed(scene, 9) == set()
    assert {scene.reads(address) for address in addresses} == {7}


@pytest.mark.spec(SWAPPING)
def test_the_tdp_mmu_lets_a_page_go_without_a_list(kernel: str) -> None:
    """Edge: no list has its sptes, and the page goes all the same."""
    scene = guest(kernel, MmuKind.TDP)
    scene.cpu.write(0x5000, 7)
    (slot,) = scene.vm.kvm.memslots[0]
    before = listed(scene, 5), len(mapping(scene, 5))
    old = backing(scene.vm, 5)

    scene.vm.process.swap_out(slot.hva(Gfn(5)))

    assert before == (set(), 1)
    assert [leaf for leaf in reached(scene.vm.snapshot()) if leaf.spte.pfn == old] == []
    assert scene.reads(0x5000) == 7

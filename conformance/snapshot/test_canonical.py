"""Equal states are equal snapshots, wherever in host memory their pages lie."""

from dataclasses import replace

from conformance.snapshot.handmade import (
    LARGE_LEAF,
    LEAF,
    NOT_LOADED,
    TABLE,
    UNUSED,
    page,
    root,
    snapshot,
    two_levels,
    vcpu,
)
from mmu_model.snapshot import (
    Gfn,
    Memslot,
    PageId,
    ReverseMap,
    ShadowPage,
    Snapshot,
    SpteAt,
    SpteFormat,
    Word,
    canonical,
    differences,
)


def gfns(state: Snapshot) -> list[int]:
    """Which page became which: by the gfns, that nobody renames."""
    assert [each.id for each in state.pages] == list(range(len(state.pages)))
    return [each.gfn for each in state.pages]


def named(number: int, level: int, *entries: tuple[int, int], **other: object) -> ShadowPage:
    """A page whose gfn and frame tell its number."""
    return page(number, level, 0x100 + number, *entries, gfn=Gfn(number), **other)


def to(number: int) -> int:
    """An entry that leads to that page."""
    return 0x100 + number << 12 | TABLE


def test_states_that_differ_in_addresses_only_have_one_canonical_form() -> None:
    one = two_levels(0xFFFF1000, 0xFFFF2000, 0x100, 0x555)
    two = two_levels(0xFFFF9000, 0xFFFF3000, 0x777, 0x111)

    assert canonical(one) == canonical(two)
    assert differences(canonical(one), canonical(two)) == []
    assert len({canonical(one), canonical(two)}) == 1, "states can be counted"


def test_canonical_ids_and_frames_follow_the_tables() -> None:
    result = canonical(two_levels(0xFFFF1000, 0xFFFF2000, 0x100, 0x555))

    assert [(p.id, p.spt, p.role.level) for p in result.pages] == [(0, 0, 2), (1, 1, 1)]
    assert result.pages[0].sptes()[9].raw == 1 << 12 | TABLE
    assert result.pages[1].sptes()[3].raw == 2 << 12 | LEAF
    assert result.pages[1].parent_ptes == (SpteAt(PageId(0), 9),)
    assert result.active_mmu_pages == (1, 0)
    assert result.vcpus[0].root_mmu.root.page == 0


def test_canonical_of_canonical_changes_nothing() -> None:
    once = canonical(two_levels(0xFFFF1000, 0xFFFF2000, 0x100, 0x555))

    assert canonical(once) == once


def test_tables_are_followed_in_depth_and_by_index() -> None:
    state = snapshot(
        5,
        named(1, 2, (7, to(4))),
        named(2, 2),
        named(4, 1),
        named(5, 3, (0, to(1)), (3, to(2)), (9, to(1))),
    )

    assert gfns(canonical(state)) == [5, 1, 4, 2]


def test_roots_come_before_what_no_root_reaches() -> None:
    """Each vCPU's root, its quarters under PAE, its previous ones; the other context; then KVM's lists."""
    pae = replace(UNUSED, root=replace(NOT_LOADED, kind="pae"), pae_root=(None, PageId(9), PageId(8), None))
    older = replace(UNUSED, root=root(7), prev_roots=(root(6), NOT_LOADED, root(5)))
    other = replace(UNUSED, root=root(4))
    lost = [named(number, 1) for number in (1, 2, 3, 10)]
    state = snapshot(
        9,
        *lost,
        *(named(number, 4) for number in range(4, 10)),
        vcpus=(vcpu(pae, other), vcpu(older)),
        active_mmu_pages=(PageId(3), PageId(9)),
        tdp_mmu_roots=(PageId(2),),
    )

    result = canonical(state)

    assert gfns(result) == [9, 8, 4, 7, 6, 5, 3, 2, 1, 10]
    assert result.vcpus[0].root_mmu.pae_root == (None, 0, 1, None)
    assert result.vcpus[0].root_mmu.root == pae.root
    assert result.vcpus[0].guest_mmu.root.page == 2
    assert [each.page for each in result.vcpus[1].root_mmu.prev_roots] == [4, None, 5]
    assert result.active_mmu_pages == (6, 0)
    assert result.tdp_mmu_roots == (7,)


def test_every_place_of_an_entry_is_renamed_and_sorted() -> None:
    """In parent_ptes and the reverse map, in any order, and the one in ptep."""
    places = (SpteAt(PageId(2), 4), SpteAt(PageId(1), 9), SpteAt(PageId(2), 3))
    slot = Memslot(
        as_id=0,
        id=1,
        base_gfn=Gfn(0x200),
        npages=0x100,
        flags=0,
        backing=0x20,
        dirty=None,
        disallow_lpage=(),
        gfn_write_track=(),
        rmap=(ReverseMap(Gfn(0x200), 1, places), ReverseMap(Gfn(0x201), 1, places[:1])),
    )
    state = snapshot(
        1,
        named(3, 1, parent_ptes=places, ptep=SpteAt(PageId(2), 5)),
        named(2, 2, parent_ptes=None),
        named(1, 3, (0, to(2)), (1, to(3))),
        memslots=(slot,),
    )

    result = canonical(state)
    renamed = (SpteAt(PageId(0), 9), SpteAt(PageId(1), 3), SpteAt(PageId(1), 4))

    assert hash(result) == hash(canonical(result))
    assert gfns(result) == [1, 2, 3]
    assert [each.parent_ptes for each in result.pages] == [(), None, renamed]
    assert [each.ptep for each in result.pages] == [None, None, SpteAt(PageId(1), 5)]
    assert [head.sptes for head in result.memslots[0].rmap] == [renamed, renamed[2:]]
    assert replace(result.memslots[0], rmap=slot.rmap) == slot


def test_a_small_entry_into_a_large_page_keeps_its_offset() -> None:
    def mapped(offset: int) -> Snapshot:
        top = page(1, 3, 0x10, (0, 0x11 << 12 | TABLE))
        large = page(2, 2, 0x11, (0, 0x12 << 12 | TABLE), (1, 0x40000 << 12 | LARGE_LEAF))
        small = page(3, 1, 0x12, (5, 0x40000 + offset << 12 | LEAF))
        return canonical(snapshot(1, top, large, small))

    assert mapped(5) != mapped(6)
    assert canonical(mapped(5)) == mapped(5)
    small, large = mapped(5).pages[2].sptes()[5], mapped(5).pages[1].sptes()[1]
    assert small.pfn - large.pfn == 5
    assert large.pfn % 512 == 0


def test_frames_are_numbered_as_they_are_met_large_ones_at_their_multiples() -> None:
    """A page's own frames before those of the tables below it; what lies in a large page has its place there."""
    gib, mib, block = 5 << 18, 7 << 9, 1 << 9
    top = named(1, 3, (0, to(2)), (1, gib << 12 | LARGE_LEAF), (2, to(3)))
    middle = named(2, 2, (0, mib << 12 | LARGE_LEAF), (1, gib + 2 * block << 12 | LARGE_LEAF))
    bottom = named(3, 2, (0, to(4)))
    small = named(4, 1, (0, mib + 3 << 12 | LEAF), (1, gib + 515 << 12 | LEAF), (2, 0x999 << 12 | LEAF))

    result = canonical(snapshot(1, top, middle, bottom, small))
    frames = [[spte.pfn for spte in each.sptes().values()] for each in result.pages]

    assert gfns(result) == [1, 2, 3, 4]
    assert [each.spt for each in result.pages] == [0, 0x80000, 0x80400, 0x80401]
    assert frames == [
        [0x80000, 1 << 18, 0x80400],
        [0x80200, (1 << 18) + 2 * block],
        [0x80401],
        [0x80203, (1 << 18) + 515, 0x80402],
    ]


def test_in_a_snapshot_a_leaf_at_the_lowest_level_is_small() -> None:
    """And bit 7 has another meaning there: the page-attribute table's."""
    one = page(1, 1, 0x10, (0, 0x40005 << 12 | LARGE_LEAF))

    assert canonical(snapshot(1, one)).pages[0].sptes()[0].pfn == 1


def test_what_is_no_frame_stays() -> None:
    """Guest frame and generation of an MMIO entry, and words that nobody knows."""
    words = (1 << 51 | 0xD000_0007, 0x5A0, 0x5040)
    one = page(1, 1, 0x10, *enumerate(words))

    assert [entry.raw for entry in canonical(snapshot(1, one)).pages[0].entries] == list(words)


def test_the_layout_decides_what_is_a_frame() -> None:
    """W and X without R is MMIO under EPT, and nothing under paging."""
    mmio = 1 << 51 | 0xD000_0001
    for spte_format in SpteFormat:
        one = page(1, 1, 0x10, (0, mmio), (1, 0x55 << 12 | LEAF), spte_format=spte_format)
        result = canonical(snapshot(1, one)).pages[0]
        assert [entry.raw for entry in result.entries] == [mmio, 1 << 12 | LEAF]
        assert result.spte_format is spte_format


def test_what_shadowed_translation_says_is_the_guests() -> None:
    state = two_levels(1, 2, 0x100, 0x555)
    entry = replace(state.pages[0].entries[0], shadowed_translation=Word(0x7007))
    state = replace(state, pages=(replace(state.pages[0], entries=(entry,)), state.pages[1]))

    assert canonical(state).pages[1].entries[0].shadowed_translation == 0x7007


def test_broken_links_are_no_obstacle() -> None:
    """A page that leads to itself, and one to a frame that is no table's; a root that is not there."""
    state = snapshot(1, named(1, 2, (0, to(1)), (1, 0x777 << 12 | TABLE)))

    result = canonical(state)

    assert [spte.pfn for spte in result.pages[0].sptes().values()] == [0, 1]
    assert canonical(result) == result


def test_nothing_else_is_changed() -> None:
    state = two_levels(1, 0, 0, 2)
    kept = {"pages", "vcpus", "active_mmu_pages", "tdp_mmu_roots", "memslots"}

    result = canonical(state)

    for name in set(Snapshot.__slots__) - kept:
        assert getattr(result, name) == getattr(state, name)
    assert result.vcpus[0].cr4 == 3
    assert replace(result.pages[1], id=PageId(0), parent_ptes=()).role == state.pages[0].role

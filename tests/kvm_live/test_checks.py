"""A snapshot that contradicts what KVM keeps elsewhere is not to be written."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from conformance.snapshot.handmade import LEAF, TABLE, page, snapshot
from kvm_live.checks import disagreements
from kvm_live.memory import BadAddressError
from kvm_live.vm import VmDecoder
from mmu_model.snapshot import Gfn, Memslot, PageId, Role, ShadowPage, Snapshot, SpteAt

BASE = 0x7F0000000000


class Host(VmDecoder):
    """Maps page n of the VM's memory to host frame 0x500 + n."""

    def __init__(self) -> None:
        """Needs no memory."""

    def host_frame(self, hva: int) -> int:
        if hva >= BASE + 0x100000:
            raise BadAddressError("not mapped")
        return 0x500 + (hva - BASE >> 12)


def sound() -> Snapshot:
    leaf = page(
        2,
        1,
        0x11,
        (3, 0x523 << 12 | LEAF),
        gfn=Gfn(0x200),
        parent_ptes=(SpteAt(PageId(1), 9),),
        role_word=Role(level=1, direct=1, access=7).word,
    )
    root = page(1, 2, 0x10, (9, 0x11 << 12 | TABLE))
    slot = Memslot(0, 1, Gfn(0x200), 0x100, 0, 0x20, None, (), (), ())
    return replace(snapshot(1, root, leaf), memslots=(slot,))


def told(state: Snapshot, *hashed: int) -> list[str]:
    return list(disagreements(state, [PageId(page) for page in hashed or (1, 2)], Host(), BASE))


def with_leaf(state: Snapshot, change: Callable[[ShadowPage], ShadowPage]) -> Snapshot:
    return replace(state, pages=(state.pages[0], change(state.pages[1])))


def test_a_sound_snapshot_passes() -> None:
    assert told(sound()) == []


def test_the_hash_table_and_the_counters_must_agree() -> None:
    assert told(sound(), 1) == ["mmu_page_hash holds 1 pages, 2 were found"]
    assert told(replace(sound(), n_used_mmu_pages=3)) == ["n_used_mmu_pages is 3, 2 were found"]
    assert told(replace(sound(), tdp_mmu_pages=1)) == ["tdp_mmu_pages is 1, 0 were found"]


@pytest.mark.parametrize("parent", [SpteAt(PageId(1), 8), SpteAt(PageId(7), 9)])
def test_a_parent_must_point_at_its_child(parent: SpteAt) -> None:
    (line,) = told(with_leaf(sound(), lambda leaf: replace(leaf, parent_ptes=(parent,))))

    assert f"spt[{parent.index}], that does not point at it" in line


def test_a_leaf_must_map_what_the_host_maps() -> None:
    elsewhere = replace(sound().memslots[0], backing=0x21)
    (line,) = told(replace(sound(), memslots=(elsewhere,)))
    assert line.endswith("the host has 0x524 there")

    unmapped = replace(sound().memslots[0], backing=0x200)
    (line,) = told(replace(sound(), memslots=(unmapped,)))
    assert line.endswith("the host has nothing there")

    (line,) = told(replace(sound(), memslots=()))
    assert line.endswith("the host has nothing there")


def test_what_is_invalid_needs_no_memory_any_more() -> None:
    invalid = Role(level=1, direct=1, access=7, invalid=1).word
    state = with_leaf(sound(), lambda leaf: replace(leaf, role_word=invalid))

    assert told(replace(state, memslots=())) == []

"""What is said of two snapshots that differ: where, and both values."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from conformance.snapshot.handmade import page, two_levels
from mmu_model.snapshot import (
    Entry,
    Gfn,
    Memslot,
    MmuKind,
    PageId,
    Role,
    Snapshot,
    SpteAt,
    Word,
    canonical,
    differences,
)

SLOT = Memslot(
    as_id=0,
    id=1,
    base_gfn=Gfn(0x200),
    npages=0x100,
    flags=1,
    backing=0x20,
    dirty=(Gfn(1), Gfn(2)),
    disallow_lpage=((2, 0, 1),),
    gfn_write_track=(),
    rmap=(),
)
STATE = replace(canonical(two_levels(1, 2, 0x100, 0x555)), memslots=(SLOT,))
TITLE = "page 1 (gfn 0x7, level=1 access=7)"


def with_last_page(**changed: Any) -> Snapshot:
    return replace(STATE, pages=(STATE.pages[0], replace(STATE.pages[1], **changed)))


def with_entry(**changed: Any) -> Snapshot:
    return with_last_page(entries=(replace(STATE.pages[1].entries[0], **changed),))


def with_vcpu(**changed: Any) -> Snapshot:
    return replace(STATE, vcpus=(replace(STATE.vcpus[0], **changed),))


def with_root(**changed: Any) -> Snapshot:
    mmu = STATE.vcpus[0].root_mmu
    return with_vcpu(root_mmu=replace(mmu, root=replace(mmu.root, **changed)))


def with_slot(**changed: Any) -> Snapshot:
    return replace(STATE, memslots=(replace(SLOT, **changed),))


LEAF_NOW = "0x0000000000002e67 leaf pfn 0x2 rwxu AD host mmu"


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (
            with_entry(raw=Word(0x2E65)),
            f"{TITLE} spt[3]: {LEAF_NOW} / 0x0000000000002e65 leaf pfn 0x2 r-xu AD host mmu",
        ),
        (with_entry(shadowed_translation=Word(0x7007)), f"{TITLE} spt[3]: {LEAF_NOW} / {LEAF_NOW} = 0x7007"),
        (with_last_page(entries=()), f"{TITLE} spt[3]: {LEAF_NOW} / empty"),
        (replace(STATE, pages=STATE.pages[:1]), f"{TITLE}: only in the first"),
        (
            replace(STATE, pages=(*STATE.pages, page(2, 1, 9))),
            "page 2 (gfn 0x9, level=1 access=7): only in the second",
        ),
        (
            with_last_page(role_word=Role(level=1, access=5).word),
            f"{TITLE} role: level=1 access=7 / level=1 access=5",
        ),
        (with_last_page(unsync=True), f"{TITLE} unsync: False / True"),
        (with_last_page(gfn=Gfn(17)), f"{TITLE} gfn: 7 / 0x11"),
        (with_last_page(parent_ptes=None), f"{TITLE} parent_ptes: (SpteAt(page=0, index=9),) / None"),
        (with_last_page(ptep=SpteAt(PageId(0), 10)), f"{TITLE} ptep: None / SpteAt(page 0, index 0xa)"),
        (with_last_page(unsync_child_bitmap=(1, 2)), f"{TITLE} unsync_child_bitmap: () / (1, 2)"),
        (with_last_page(parent_ptes=(SpteAt(PageId(0), 8),)), f"{TITLE} parent_ptes[0].index: 9 / 8"),
        (
            with_last_page(parent_ptes=(SpteAt(PageId(0), 9), SpteAt(PageId(1), 30))),
            f"{TITLE} parent_ptes[1]: None / SpteAt(page 1, index 0x1e)",
        ),
        (with_vcpu(cr4=Word(0x20)), "vcpus[0].cr4: 3 / 0x20"),
        (with_vcpu(mmu="guest_mmu"), "vcpus[0].mmu: root_mmu / guest_mmu"),
        (with_root(page=None), "vcpus[0].root_mmu.root.page: 0 / None"),
        (with_root(kind="pae"), "vcpus[0].root_mmu.root.kind: page / pae"),
        (replace(STATE, vcpus=()), "vcpus[0]: "),
        (with_slot(backing=9), "memslots[0].backing: 0x20 / 9"),
        (with_slot(dirty=(Gfn(1),)), "memslots[0].dirty: (1, 2) / (1,)"),
        (replace(STATE, mmu_valid_gen=10), "mmu_valid_gen: 0 / 0xa"),
        (replace(STATE, n_used_mmu_pages=9), "n_used_mmu_pages: 2 / 9"),
        (replace(STATE, active_mmu_pages=(PageId(0),)), "active_mmu_pages: (1, 0) / (0,)"),
        (replace(STATE, shadow_root_allocated=False), "shadow_root_allocated: True / False"),
    ],
)
def test_a_difference_says_where_and_what(other: Snapshot, line: str) -> None:
    """One thing differs: one line, in either direction, whatever the values are."""
    (said,) = differences(STATE, other)
    (turned,) = differences(other, STATE)

    assert said.startswith(line)
    assert said == line or line.endswith(": ")
    assert turned != said


@pytest.mark.parametrize("name", [name for name in type(STATE.pages[0]).__slots__ if name != "entries"])
def test_no_field_of_a_page_is_left_out(name: str) -> None:
    """But the id, by which the pages were matched."""
    changed: Any = {"id": PageId(1), "role_word": Role(level=2).word}.get(name, 77)

    assert len(differences(STATE, with_last_page(**{name: changed}))) == (name != "id")


@pytest.mark.parametrize("name", Snapshot.__slots__)
def test_no_field_of_a_snapshot_is_left_out(name: str) -> None:
    """But what the two are called: whose kernel's, and which MMU's."""
    given: dict[str, Any] = {"mmu": MmuKind.TDP, "pages": STATE.pages}
    other = replace(STATE, **{name: given.get(name, "else")})

    assert len(differences(STATE, other)) == (name not in ("name", "kernel", "mmu", "pages"))


def test_lines_come_in_order_the_vms_first_then_page_by_page() -> None:
    """Entries by their index, those that only one has among them."""

    def spoil(state: Snapshot, change: Callable[[Entry], Entry]) -> Snapshot:
        pages = tuple(replace(p, unsync=True, entries=tuple(map(change, p.entries))) for p in state.pages)
        return replace(state, pages=pages, mmu_valid_gen=1)

    lines = differences(STATE, spoil(STATE, lambda entry: replace(entry, index=entry.index - 2)))

    assert [line.partition(": ")[0].split(") ")[-1] for line in lines] == [
        "mmu_valid_gen",
        *("unsync", "spt[7]", "spt[9]"),
        *("unsync", "spt[1]", "spt[3]"),
    ]
    assert [line[:6] for line in lines[1:]] == ["page 0"] * 3 + ["page 1"] * 3


def test_equal_snapshots_differ_in_nothing() -> None:
    assert differences(STATE, STATE) == []
    assert differences(STATE, replace(STATE, name="other", kernel="6.1", mmu=MmuKind.TDP)) == []

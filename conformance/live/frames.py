"""Which frames entries point at: guest memory or tables of KVM.

In a snapshot frames have other names than on the host, but equal ones are equal still.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from mmu_model.snapshot import Gfn, Kind, Memslot, ShadowPage, Snapshot, Spte, Word
from mmu_model.snapshot.spte import USER

from .predicate import (
    children,
    corrupt_page,
    entry_of,
    leaf_gfn,
    predicate,
    title,
    with_entry,
    with_page,
)


def _leaves(snapshot: Snapshot) -> Iterator[tuple[ShadowPage, int, Spte]]:
    for page in snapshot.pages:
        if not page.role.invalid:
            for index, spte in page.sptes().items():
                if spte.kind is Kind.LEAF:
                    yield page, index, spte


def _points_at_a_table(snapshot: Snapshot) -> Snapshot | None:
    for page, index, spte in _leaves(snapshot):
        if spte.level == 1:
            return with_page(snapshot, with_entry(page, index, spte.with_pfn(page.spt)))
    return None


@predicate(
    "introduction/security/no-host-memory-but-its-own",
    "shadow-pages/leaf/points-at-guest-pages",
    "spt/points-at-guest-or-shadow-pages",
    "spt/pageful-of-sptes",
    corrupt=_points_at_a_table,
)
def tables_are_out_of_the_guests_reach(snapshot: Snapshot) -> Iterator[str]:
    """Each page has a frame for its spt that no other has. Entries that are not leaves have such a frame, and leaves
    have none: theirs are of memory that a memslot gives the guest."""
    spts = {page.spt for page in snapshot.pages}
    if len(spts) != len(snapshot.pages):
        yield "two pages have the same spt"
    for page, index, child in children(snapshot):
        if child is None:
            yield f"{title(page)} spt[{index}] points at no page"
    for page, index, spte in _leaves(snapshot):
        if spte.pfn in spts or (spte.level > 1 and spts & {*range(spte.pfn, spte.pfn + _size(spte.level))}):
            yield f"{title(page)} spt[{index}] lets the guest have a table"
        if _place(snapshot, page, index) is None:
            yield f"{title(page)} spt[{index}] maps gfn {leaf_gfn(page, index):#x}, which no memslot has"


def _place(snapshot: Snapshot, page: ShadowPage, index: int) -> int | None:
    """Where in the memory of the process the first frame of a leaf lies, in pages."""
    slot = _slot_of(snapshot, page, leaf_gfn(page, index))
    return None if slot is None else slot.backing + _first(page, index) - slot.base_gfn


def _size(level: int) -> int:
    return 1 << 9 * (level - 1)


def _first(page: ShadowPage, index: int) -> int:
    return leaf_gfn(page, index) & -_size(page.role.level)


def _slot_of(snapshot: Snapshot, page: ShadowPage, gfn: int) -> Memslot | None:
    for slot in snapshot.memslots:
        if slot.as_id == page.role.smm and slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
            return slot
    return None


def _mapped(snapshot: Snapshot) -> Iterator[tuple[int, int, ShadowPage, int]]:
    """Place in the process and frame, for the first and the last small page that a leaf maps; the host's zero page,
    which many places have, is told by that the host may not write it."""
    for page, index, spte in _leaves(snapshot):
        place = _place(snapshot, page, index)
        if place is not None and spte.host_writable:
            for i in {0, _size(spte.level) - 1}:
                yield place + i, spte.pfn + i, page, index


def _frame_of_another(snapshot: Snapshot) -> Snapshot | None:
    frames = sorted({pfn for _, pfn, _, _ in _mapped(snapshot)})
    for page, index, spte in _leaves(snapshot):
        for pfn in frames[:2]:
            if spte.level == 1 and spte.host_writable and pfn != spte.pfn and len(frames) > 1:
                return with_page(snapshot, with_entry(page, index, spte.with_pfn(pfn)))
    return None


@predicate(
    "memory/guest-memory/in-the-process",
    "memory/guest-memory/gpa-to-hva-aliases",
    "reaction-to-events/host-page/determined",
    "acronyms/hva/meaning",
    "acronyms/spte/meaning",
    corrupt=_frame_of_another,
)
def one_place_in_the_process_is_one_frame(snapshot: Snapshot) -> Iterator[str]:
    """Guest frames that memslots put at one place in the process have one host frame, others others; memslots of one
    address space do not overlap, so that no guest frame has two places."""
    frames: dict[int, int] = {}
    places: dict[int, int] = {}
    for place, pfn, page, index in _mapped(snapshot):
        if frames.setdefault(place, pfn) != pfn or places.setdefault(pfn, place) != place:
            yield f"{title(page)} spt[{index}] has frame {pfn:#x} for place {place:#x}"
    slots = sorted((slot.as_id, slot.base_gfn, slot.npages) for slot in snapshot.memslots)
    for (space, base, npages), (next_space, next_base, _) in pairwise(slots):
        if space == next_space and base + npages > next_base:
            yield f"memslots at gfn {base:#x} and {next_base:#x} overlap"


@predicate(
    "shadow-pages/nonleaf/reaches-leaf-pages",
    corrupt=corrupt_page(
        lambda page: any(spte.kind is Kind.TABLE for spte in page.sptes().values()),
        lambda page: replace(
            page,
            entries=tuple(
                replace(entry, raw=Word(entry.raw & ~USER)) if page.spte(entry).kind is Kind.TABLE else entry
                for entry in page.entries
            ),
        ),
    ),
)
def entries_above_the_leaves_grant_everything(snapshot: Snapshot) -> Iterator[str]:
    """W, U and no NX in every entry that leads to another page, whatever the guest's entries deny."""
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is Kind.TABLE and not (spte.writable and spte.user and spte.executable):
                yield f"{title(page)} spt[{index}] is {spte}"


def _direct_leaves(snapshot: Snapshot) -> Iterator[tuple[ShadowPage, int, Spte]]:
    return ((page, index, spte) for page, index, spte in _leaves(snapshot) if page.role.direct)


def _deny_the_user(snapshot: Snapshot) -> Snapshot | None:
    for page, index, spte in _direct_leaves(snapshot):
        if page.role.cr0_wp or not page.role.has_4_byte_gpte:
            return with_page(snapshot, with_entry(page, index, Spte(spte.raw ^ USER, spte.level)))
    return None


@predicate("shadowed_translation/no-access-per-gfn-when-direct", corrupt=_deny_the_user)
def leaves_of_direct_pages_have_the_access_of_the_page(snapshot: Snapshot) -> Iterator[str]:
    """In a direct page every leaf has U and X of role.access, and W unless something protects the frame."""
    for page, index, found in _direct_leaves(snapshot):
        access, spte = page.role.access, found.restored
        differs = spte.user != bool(access & 4) or spte.writable > bool(access & 2)
        differs |= spte.executable != bool(access & 1) and spte.level == 1
        if differs or entry_of(page, index).shadowed_translation is not None:
            yield f"{title(page)} spt[{index}] is {spte}"


def _reverse_mapped_elsewhere(snapshot: Snapshot) -> Snapshot | None:
    for page, _, _ in _direct_leaves(snapshot):
        if not page.tdp_mmu_page:
            moved = replace(page, gfn=Gfn(page.gfn + (1 << 9 * page.role.level)))
            return with_page(snapshot, moved)
    return None


@predicate("shadowed_translation/gfn-computable", corrupt=_reverse_mapped_elsewhere)
def leaves_of_direct_pages_have_the_frame_of_their_place(snapshot: Snapshot) -> Iterator[str]:
    """Entry n of a direct page of the shadow MMU is in the reverse map of gfn + n * 512 ** (level - 1)."""
    heads = {
        (spte.page, spte.index): head.gfn
        for slot in snapshot.memslots
        for head in slot.rmap
        for spte in head.sptes
    }
    for page, index, _ in _direct_leaves(snapshot):
        gfn = page.gfn + index * 512 ** (page.role.level - 1)
        if not page.tdp_mmu_page and heads.get((page.id, index)) != gfn:
            yield f"{title(page)} spt[{index}] is not in the reverse map of gfn {gfn:#x}"

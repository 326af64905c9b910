"""Whether a decoded snapshot can be true: KVM keeps most facts twice, and both must agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmu_model.snapshot import Kind, Memslot, PageId, ShadowPage, Snapshot, SpteAt

from .memory import BadAddressError
from .vm import VmDecoder


def disagreements(
    snapshot: Snapshot, hashed: Iterable[PageId], decoder: VmDecoder, base: int
) -> Iterator[str]:
    """What does not fit, a line each. ``hashed`` are the pages in mmu_page_hash; ``base`` is where the memory
    behind the VM lies in its process.
    """
    yield from _sets(snapshot, set(hashed))
    yield from _parents(snapshot)
    yield from _frames(snapshot, decoder, base)


def _sets(snapshot: Snapshot, hashed: set[PageId]) -> Iterator[str]:
    """Lists, hash table and counters have the same pages."""
    shadow = {page.id for page in snapshot.pages if not page.tdp_mmu_page}
    tables = [page for page in snapshot.pages if page.listed == "table"]
    if hashed != shadow:
        yield f"mmu_page_hash holds {len(hashed)} pages, {len(shadow)} were found"
    if snapshot.n_used_mmu_pages != len(shadow):
        yield f"n_used_mmu_pages is {snapshot.n_used_mmu_pages}, {len(shadow)} were found"
    if snapshot.tdp_mmu_pages != len(tables):
        yield f"tdp_mmu_pages is {snapshot.tdp_mmu_pages}, {len(tables)} were found"


def _parents(snapshot: Snapshot) -> Iterator[str]:
    """Every parent entry points at the page that names it."""
    pages = snapshot.by_id()
    for page in snapshot.pages:
        for place in page.parent_ptes or ([page.ptep] if page.ptep else []):
            if not _points_at(pages, place, page):
                yield f"{_title(page)} names a parent entry, spt[{place.index}], that does not point at it"


def _points_at(pages: dict[PageId, ShadowPage], place: SpteAt, page: ShadowPage) -> bool:
    parent = pages.get(place.page)
    spte = parent.sptes().get(place.index) if parent else None
    return spte is not None and spte.kind is Kind.TABLE and spte.pfn == page.spt


def _frames(snapshot: Snapshot, decoder: VmDecoder, base: int) -> Iterator[str]:
    """Every leaf maps the frame that the host's own page tables give for that gfn."""
    for page in snapshot.pages:
        if page.role.invalid:
            continue
        slots = [slot for slot in snapshot.memslots if slot.as_id == page.role.smm]
        for index, spte in page.sptes().items():
            if spte.kind is Kind.LEAF:
                gfn = _leaf_gfn(page, index)
                host = _host_frame(slots, gfn, decoder, base)
                if host != spte.pfn:
                    there = "nothing" if host is None else hex(host)
                    yield f"{_title(page)} spt[{index}] of gfn {gfn:#x} is {spte}; the host has {there} there"


def _leaf_gfn(page: ShadowPage, index: int) -> int:
    """kvm_mmu_page_get_gfn."""
    entry = next(entry for entry in page.entries if entry.index == index)
    if entry.shadowed_translation is not None:
        return entry.shadowed_translation >> 12
    return page.gfn + (index << 9 * (page.role.level - 1))


def _host_frame(slots: list[Memslot], gfn: int, decoder: VmDecoder, base: int) -> int | None:
    for slot in slots:
        if slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
            try:
                return decoder.host_frame(base + (slot.backing + gfn - slot.base_gfn << 12))
            except BadAddressError:
                return None
    return None


def _title(page: ShadowPage) -> str:
    return f"page gfn {page.gfn:#x} {page.role}"

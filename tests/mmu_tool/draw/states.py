"""Snapshots to draw: of real kernels, of the model, and large ones."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from conformance.live.predicate import with_page, with_role
from mmu_model.snapshot import (
    Entry,
    Gfn,
    PageId,
    Recording,
    ShadowPage,
    Snapshot,
    SpteAt,
    Word,
    read_recording,
)
from mmu_model.snapshot.spte import FRAME
from mmu_model.snapshot.state import Pfn

RECORDINGS = Path(__file__).parents[3] / "conformance" / "recordings"


@cache
def recorded(name: str, kernel: str = "6.12", mmu: str = "shadow") -> Recording:
    """A recording of a real kernel."""
    return read_recording(RECORDINGS / kernel / mmu / f"{name}.json.gz")


def moment(name: str, step: str, kernel: str = "6.12", mmu: str = "shadow") -> Snapshot:
    """One of its snapshots."""
    return next(each for each in recorded(name, kernel, mmu).snapshots if each.name == step)


def crowd(pages: int) -> Snapshot:
    """``recycling`` with many more tables of level 1 below its second root."""
    base = moment("recycling", "nearly-full")
    root = next(page for page in base.pages if page.role.level == 2 and page.role.quadrant == 1)
    model = next(page for page in base.pages if page.parent_ptes and page.parent_ptes[0].page == root.id)
    pointer = root.entries[0].raw & ~FRAME
    new = [_table(model, number, root) for number in range(pages)]
    entries = tuple(Entry(2 * number, Word(pointer | page.spt << 12)) for number, page in enumerate(new))
    kept = tuple(
        replace(page, entries=entries) if page.id == root.id else page
        for page in base.pages
        if page.role.level == 2
    )
    return replace(base, pages=kept + tuple(new), active_mmu_pages=(), memslots=())


def _table(model: ShadowPage, number: int, root: ShadowPage) -> ShadowPage:
    return replace(
        model,
        id=PageId(1000 + number),
        gfn=Gfn(0x1000 + number),
        spt=Pfn(0x5000 + number),
        parent_ptes=(SpteAt(root.id, 2 * number),),
    )


def with_invalid_root(snapshot: Snapshot) -> Snapshot:
    """The first page made invalid."""
    return with_page(snapshot, with_role(snapshot.pages[0], invalid=1))

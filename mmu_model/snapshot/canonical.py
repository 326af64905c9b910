"""Renames host frames and shadow pages in order of discovery, so that equal states are equal bytes.

Discovery starts at each vCPU's loaded roots, goes on with its previous ones and follows the tables by index;
what no root reaches comes after, in the order of KVM's own lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from .spte import Kind
from .state import (
    Entry,
    LoadedRoot,
    Memslot,
    MmuContext,
    PageId,
    Pfn,
    ShadowPage,
    Snapshot,
    SpteAt,
    Vcpu,
    Word,
)


def canonical(snapshot: Snapshot) -> Snapshot:
    """The canonical form; of a canonical snapshot, itself."""
    return _Renaming(snapshot).apply()


class _Frames:
    """New frame numbers, in the order in which they are asked for.

    A frame inside a large page that some entry maps as one keeps its offset in it, so that a small mapping of
    part of a large page still says of which part; large pages stay aligned.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.large: dict[int, set[int]] = {3: set(), 2: set()}
        for page in snapshot.pages:
            for spte in page.sptes().values():
                if spte.kind is Kind.LEAF and spte.level in self.large:
                    self.large[spte.level].add(spte.pfn >> 9 * (spte.level - 1))
        self.named: dict[tuple[int, int], int] = {}
        self.next = 0

    def name(self, pfn: int) -> Pfn:
        """The frame's new number, given on first sight."""
        level = next((lvl for lvl, blocks in self.large.items() if pfn >> 9 * (lvl - 1) in blocks), 1)
        size = 1 << 9 * (level - 1)
        key = (level, pfn // size)
        if key not in self.named:
            self.named[key] = -(-self.next // size) * size
            self.next = self.named[key] + size
        return Pfn(self.named[key] + pfn % size)


class _Renaming:
    """New ids and frames for one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.pages = snapshot.by_id()
        self.by_spt = {page.spt: page for page in snapshot.pages}
        self.ids: dict[PageId, PageId] = {}
        self.frames = _Frames(snapshot)
        for start in self._starts():
            self._discover(start)

    def _starts(self) -> Iterator[PageId]:
        for vcpu in self.snapshot.vcpus:
            for mmu in (vcpu.root_mmu, vcpu.guest_mmu):
                loaded = (mmu.root, *mmu.prev_roots)
                yield from _present([loaded[0].page, *mmu.pae_root])
                yield from _present(root.page for root in loaded[1:])
        yield from self.snapshot.active_mmu_pages
        yield from self.snapshot.tdp_mmu_roots
        yield from self.pages

    def _discover(self, start: PageId) -> None:
        """Depth first, by index. Without recursion: pages may be linked in any way in a broken snapshot."""
        todo = [start]
        while todo:
            page = self.pages.get(todo.pop())
            if page is None or page.id in self.ids:
                continue
            self.ids[page.id] = PageId(len(self.ids))
            self.frames.name(page.spt)
            children = []
            for spte in page.sptes().values():
                if spte.kind is Kind.LEAF:
                    self.frames.name(spte.pfn)
                elif spte.kind is Kind.TABLE and Pfn(spte.pfn) in self.by_spt:
                    children.append(self.by_spt[Pfn(spte.pfn)].id)
            todo += reversed(children)

    def apply(self) -> Snapshot:
        pages = sorted((self._page(page) for page in self.snapshot.pages), key=lambda page: page.id)
        return replace(
            self.snapshot,
            memslots=tuple(self._slot(slot) for slot in self.snapshot.memslots),
            vcpus=tuple(self._vcpu(vcpu) for vcpu in self.snapshot.vcpus),
            active_mmu_pages=tuple(self.ids[page] for page in self.snapshot.active_mmu_pages),
            tdp_mmu_roots=tuple(self.ids[page] for page in self.snapshot.tdp_mmu_roots),
            pages=tuple(pages),
        )

    def _page(self, page: ShadowPage) -> ShadowPage:
        return replace(
            page,
            id=self.ids[page.id],
            spt=self.frames.name(page.spt),
            parent_ptes=None if page.parent_ptes is None else self._places(page.parent_ptes),
            ptep=None if page.ptep is None else self._places([page.ptep])[0],
            entries=tuple(self._entry(page, entry) for entry in page.entries),
        )

    def _entry(self, page: ShadowPage, entry: Entry) -> Entry:
        spte = page.spte(entry)
        if spte.kind not in (Kind.LEAF, Kind.TABLE):
            return entry
        return replace(entry, raw=Word(spte.with_pfn(self.frames.name(spte.pfn)).raw))

    def _places(self, places: Iterable[SpteAt]) -> tuple[SpteAt, ...]:
        """Sorted: the order within a pte_list says nothing about the state."""
        return tuple(sorted(replace(place, page=self.ids[place.page]) for place in places))

    def _slot(self, slot: Memslot) -> Memslot:
        return replace(slot, rmap=tuple(replace(head, sptes=self._places(head.sptes)) for head in slot.rmap))

    def _vcpu(self, vcpu: Vcpu) -> Vcpu:
        return replace(vcpu, root_mmu=self._mmu(vcpu.root_mmu), guest_mmu=self._mmu(vcpu.guest_mmu))

    def _mmu(self, mmu: MmuContext) -> MmuContext:
        return replace(
            mmu,
            root=self._root(mmu.root),
            pae_root=tuple(None if page is None else self.ids[page] for page in mmu.pae_root),
            prev_roots=tuple(self._root(root) for root in mmu.prev_roots),
        )

    def _root(self, root: LoadedRoot) -> LoadedRoot:
        return root if root.page is None else replace(root, page=self.ids[root.page])


def _present(pages: Iterable[PageId | None]) -> Iterator[PageId]:
    return (page for page in pages if page is not None)

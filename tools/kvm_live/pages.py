"""Decodes ``struct kvm_mmu_page`` and the entries of its table."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mmu_model.snapshot import Entry, Gfn, PageId, Pfn, ShadowPage, SpteAt, Word
from mmu_model.snapshot.role import RoleWord
from mmu_model.snapshot.spte import EMPTY_WORDS, FRAME, MMU_PRESENT

from .memory import Memory
from .structures import Structures

ENTRIES = 512
ROLE_LEVEL = 15


class CorruptError(ValueError):
    """Data that KVM cannot have left like this: something was decoded wrongly."""


class PageDecoder:
    """Reads shadow pages of one kernel."""

    def __init__(self, memory: Memory, structures: Structures) -> None:
        self.memory, self.structures = memory, structures
        self.empty: set[int] = set()  # what unused entries were seen to hold

    def at(self, name: str) -> int:
        """Offset of a member of struct kvm_mmu_page."""
        return self.structures.at("kvm_mmu_page", name)

    def page_of(self, physical: int) -> PageId:
        """The shadow page whose table lies at ``physical``: page->private of its struct page; 0 if none."""
        page = self.memory.vmemmap + (physical >> 12) * self.structures.size["page"]
        return PageId(self.memory.u64(page + self.structures.at("page", "private")))

    def place(self, entry_address: int) -> SpteAt:
        """Which entry lies at a kernel-virtual address."""
        physical = self.memory.translate(entry_address)
        return SpteAt(self.page_of(physical), physical % 4096 // 8)

    def pte_list(self, head: int) -> Iterator[int]:
        """The addresses in a struct kvm_rmap_head: none, one, or with bit 0 set a chain of pte_list_desc."""
        if not head & 1:
            yield from [head] if head else []
            return
        desc, at = head & ~1, self.structures
        while desc:
            count = self.memory.unsigned(desc + at.at("pte_list_desc", "spte_count"), 4)
            if count > at.list_entries:
                raise CorruptError(f"a pte_list_desc with {count} entries")
            yield from self.memory.words(desc + at.at("pte_list_desc", "sptes"), count)
            desc = self.memory.u64(desc + at.at("pte_list_desc", "more"))

    def decode(self, page: PageId, listed: str) -> ShadowPage:
        """The page at the kernel-virtual address ``page``."""
        raw = self.memory.read(page, self.structures.size["kvm_mmu_page"])

        def get(name: str, form: str) -> int:
            value: int = struct.unpack_from("<" + form, raw, self.at(name))[0]
            return value

        tdp, spt, parents = bool(get("tdp_mmu_page", "B")), get("spt", "Q"), get("parent_ptes", "Q")
        role, bitmap = get("role", "I"), self.at("unsync_child_bitmap")
        bits = int.from_bytes(raw[bitmap : bitmap + ENTRIES // 8], "little")
        link = page + self.at("possible_nx_huge_page_link")
        translation = get("shadowed_translation", "Q")
        return ShadowPage(
            id=page,
            listed=listed,
            role_word=RoleWord(role),
            gfn=Gfn(get("gfn", "Q")),
            tdp_mmu_page=tdp,
            unsync=bool(get("unsync", "B")),
            mmu_valid_gen=None if tdp else get("mmu_valid_gen", "B"),
            tdp_mmu_scheduled_root_to_zap=bool(get("tdp_mmu_scheduled_root_to_zap", "B")) if tdp else None,
            nx_huge_page_disallowed=bool(get("nx_huge_page_disallowed", "B")),
            possible_nx_huge_page=get("possible_nx_huge_page_link", "Q") not in (0, link),
            spt=Pfn(self.memory.translate(spt) >> 12),
            has_shadowed_translation=translation != 0,
            root_count=None if tdp else get("root_count", "I"),
            tdp_mmu_root_count=get("root_count", "I") if tdp else None,
            unsync_children=get("unsync_children", "I"),
            unsync_child_bitmap=tuple(i for i in range(ENTRIES) if bits >> i & 1),
            parent_ptes=None if tdp else tuple(self.place(entry) for entry in self.pte_list(parents)),
            ptep=self.place(parents) if tdp and parents else None,
            write_flooding_count=get("write_flooding_count", "I"),
            entries=self._entries(spt, translation),
        )

    def _entries(self, spt: int, translation: int) -> tuple[Entry, ...]:
        words = self.memory.words(spt, ENTRIES)
        self.empty.update({*words} & {*EMPTY_WORDS})
        shadowed = self.memory.words(translation, ENTRIES) if translation else None
        return tuple(
            Entry(
                index,
                Word(word),
                Word(shadowed[index]) if shadowed and word & MMU_PRESENT else None,
            )
            for index, word in enumerate(words)
            if word not in EMPTY_WORDS
        )

    def children(self, page: ShadowPage) -> Iterator[int]:
        """Physical addresses of the tables below a page."""
        for spte in page.sptes().values():
            if spte.kind.value == "table":
                yield spte.raw & FRAME

"""Snapshots made by hand: few pages, whatever words and links a test wants in them."""

from dataclasses import replace
from typing import Any, Final

from mmu_model.snapshot import (
    Address,
    Entry,
    Gfn,
    LoadedRoot,
    Mmio,
    MmuContext,
    MmuKind,
    PageId,
    Pfn,
    Role,
    ShadowPage,
    Snapshot,
    SpteAt,
    Vcpu,
    Word,
)

TABLE: Final = 0x827
LEAF: Final = 0xE67
LARGE_LEAF: Final = 0xEE7
"""Words without their frames, as shadow paging has them: all rights, used, the host's and KVM's marks."""

NOT_LOADED: Final = LoadedRoot("none", None, None)
UNUSED: Final = MmuContext(NOT_LOADED, Role(0).word, Word(0), (), ())


def page(number: int, level: int, spt: int, *entries: tuple[int, int], **other: Any) -> ShadowPage:
    """A shadow page with the given (index, word) entries."""
    made = ShadowPage(
        id=PageId(number),
        listed="active",
        role_word=Role(level=level, access=7).word,
        gfn=Gfn(spt & 0xFF),
        tdp_mmu_page=False,
        unsync=False,
        mmu_valid_gen=0,
        tdp_mmu_scheduled_root_to_zap=None,
        nx_huge_page_disallowed=False,
        possible_nx_huge_page=False,
        spt=Pfn(spt),
        has_shadowed_translation=False,
        root_count=0,
        tdp_mmu_root_count=None,
        unsync_children=0,
        unsync_child_bitmap=(),
        parent_ptes=(),
        ptep=None,
        write_flooding_count=0,
        entries=tuple(Entry(index, Word(word)) for index, word in entries),
    )
    return replace(made, **other)


def root(number: int) -> LoadedRoot:
    """That page, as a loaded root."""
    return LoadedRoot("page", PageId(number), Address(0x1000))


def vcpu(root_mmu: MmuContext, guest_mmu: MmuContext = UNUSED) -> Vcpu:
    """A vCPU with these contexts."""
    mmio = Mmio(Address(0), 0, Gfn(0), Word(0))
    return Vcpu(Word(1), Word(2), Word(3), Word(4), False, False, "root_mmu", root_mmu, guest_mmu, mmio)


def snapshot(loaded: int, *pages: ShadowPage, **other: Any) -> Snapshot:
    """A VM whose only vCPU has the page ``loaded`` as its root."""
    made = Snapshot(
        name="first",
        kernel="6.12",
        mmu=MmuKind.SHADOW,
        mmu_valid_gen=0,
        memslot_generation=(Word(2),),
        n_used_mmu_pages=2,
        n_max_mmu_pages=64,
        indirect_shadow_pages=2,
        tdp_mmu_pages=0,
        shadow_root_allocated=True,
        empty_spte=Word(0),
        memslots=(),
        vcpus=(vcpu(replace(UNUSED, root=root(loaded))),),
        active_mmu_pages=tuple(each.id for each in pages),
        tdp_mmu_roots=(),
        pages=pages,
    )
    return replace(made, **other)


def two_levels(top: int, child: int, base: int, leaf: int) -> Snapshot:
    """A root with one child with one leaf entry, somewhere in host memory."""
    return snapshot(
        top,
        page(child, 1, base + 1, (3, leaf << 12 | LEAF), gfn=Gfn(7), parent_ptes=(SpteAt(PageId(top), 9),)),
        page(top, 2, base, (9, base + 1 << 12 | TABLE), gfn=Gfn(8)),
    )

"""Takes a snapshot: reads the VM's structures the way an observer of a real kernel does."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mmu_model.hardware.types import PAGE_SHIFT, Hpa, Pfn
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.mmu import KvmMmu, RootInfo
from mmu_model.kvm.page import KvmMmuPage, root_to_sp, spte_to_child_sp, sptep_to_sp
from mmu_model.kvm.rmap import RmapHead, pte_list
from mmu_model.kvm.spte import is_last_spte, is_shadow_present_pte
from mmu_model.kvm.types import Kva, Sptep, pa, spte_index
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import Kvm
from mmu_model.snapshot import (
    Address,
    Entry,
    Gfn,
    LoadedRoot,
    Memslot,
    Mmio,
    MmuContext,
    MmuKind,
    PageId,
    ReverseMap,
    ShadowPage,
    Snapshot,
    SpteAt,
    SpteFormat,
    Vcpu,
    Word,
)
from mmu_model.snapshot.role import RoleWord
from mmu_model.snapshot.state import Pfn as SnapshotPfn


def snapshot(kvm: Kvm, name: str = "") -> Snapshot:
    """Everything that the MMUs have built, as plain data."""
    with _no_search_for_garbage():
        return _snapshot(kvm, name)


@contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """Python looks through all that is new again and again as it grows: for a snapshot, whose parts are many, stay
    and never form a cycle, that is a third of the time."""
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searched:
            gc.enable()


def _snapshot(kvm: Kvm, name: str) -> Snapshot:
    listed = _all_pages(kvm)
    return Snapshot(
        name=name,
        kernel=kvm.kernel.release,
        mmu=_mmu_kind(kvm),
        mmu_valid_gen=kvm.mmu_valid_gen,
        memslot_generation=tuple(Word(slots.generation) for slots in kvm.memslots),
        n_used_mmu_pages=kvm.n_used_mmu_pages,
        n_max_mmu_pages=kvm.n_max_mmu_pages,
        indirect_shadow_pages=kvm.indirect_shadow_pages,
        tdp_mmu_pages=kvm.tdp_mmu_pages,
        shadow_root_allocated=kvm.shadow_root_allocated,
        empty_spte=Word(kvm.kernel.shadow_nonpresent_value),
        memslots=tuple(_memslot(kvm, slot) for slots in kvm.memslots for slot in slots),
        vcpus=tuple(_vcpu(kvm, vcpu) for vcpu in kvm.vcpus),
        active_mmu_pages=tuple(PageId(sp.address) for sp in reversed(kvm.active_mmu_pages)),
        tdp_mmu_roots=tuple(PageId(sp.address) for sp in kvm.tdp_mmu_roots),
        pages=tuple(_page(kvm, sp, where) for sp, where in listed.items()),
    )


def _mmu_kind(kvm: Kvm) -> MmuKind:
    if not kvm.parameters.tdp_enabled:
        return MmuKind.SHADOW
    return MmuKind.TDP if kvm.parameters.tdp_mmu_enabled else MmuKind.DIRECT


def _all_pages(kvm: Kvm) -> dict[KvmMmuPage, str]:
    """Every page, and the list that it was found on, or the way to it."""
    found: dict[KvmMmuPage, str] = dict.fromkeys(reversed(kvm.active_mmu_pages), "active")
    found |= dict.fromkeys(kvm.tdp_mmu_roots, "roots")
    for sp in _loaded(kvm):
        found.setdefault(sp, "vcpu")
    todo = [sp for sp in found if sp.tdp_mmu_page]
    while todo:
        for child in _children(kvm, todo.pop()):
            if child not in found:
                found[child] = "table"
                todo.append(child)
    return found


def _loaded(kvm: Kvm) -> list[KvmMmuPage]:
    hpas = [
        hpa
        for vcpu in kvm.vcpus
        for mmu in (vcpu.root_mmu, vcpu.guest_mmu)
        for hpa in (mmu.root.hpa, *(root.hpa for root in mmu.prev_roots), *_pae_roots(kvm, mmu))
    ]
    pages = (root_to_sp(kvm.host, hpa) for hpa in hpas if hpa >= 0)
    return [sp for sp in pages if sp is not None]


def _pae_roots(kvm: Kvm, mmu: KvmMmu) -> list[Hpa]:
    if mmu.pae_root is None:
        return []
    return [Hpa(kvm.host.read(Sptep(Kva(mmu.pae_root + 8 * index)))) for index in range(4)]


def _children(kvm: Kvm, sp: KvmMmuPage) -> list[KvmMmuPage]:
    level = sp.role.level
    return [
        spte_to_child_sp(kvm.host, spte)
        for spte in kvm.host.words(sp.spt)
        if is_shadow_present_pte(spte) and not is_last_spte(spte, level)
    ]


def _page(kvm: Kvm, sp: KvmMmuPage, listed: str) -> ShadowPage:
    tdp, bitmap = sp.tdp_mmu_page, sp.unsync_child_bitmap
    return ShadowPage(
        id=PageId(sp.address),
        listed=listed,
        role_word=RoleWord(int(sp.role)),
        gfn=Gfn(sp.gfn),
        tdp_mmu_page=tdp,
        unsync=sp.unsync,
        mmu_valid_gen=None if tdp else sp.mmu_valid_gen,
        tdp_mmu_scheduled_root_to_zap=sp.tdp_mmu_scheduled_root_to_zap if tdp else None,
        nx_huge_page_disallowed=sp.nx_huge_page_disallowed,
        possible_nx_huge_page=sp in kvm.possible_nx_huge_pages,
        spt=SnapshotPfn(sp.hpa >> PAGE_SHIFT),
        has_shadowed_translation=sp.shadowed_translation is not None,
        root_count=None if tdp else sp.root_count,
        tdp_mmu_root_count=sp.tdp_mmu_root_count if tdp else None,
        unsync_children=sp.unsync_children,
        unsync_child_bitmap=tuple(index for index in range(512) if bitmap >> index & 1) if bitmap else (),
        parent_ptes=None if tdp else _places(kvm, sp.parent_ptes),
        ptep=_place(kvm, sp.ptep) if tdp and sp.ptep else None,
        write_flooding_count=sp.write_flooding_count,
        entries=_entries(kvm, sp),
        spte_format=SpteFormat.EPT if kvm.parameters.ept_enabled else None,
    )


def _entries(kvm: Kvm, sp: KvmMmuPage) -> tuple[Entry, ...]:
    words = kvm.host.memory.frame(Pfn(sp.hpa >> PAGE_SHIFT))
    used = np.flatnonzero(words != np.uint64(kvm.kernel.shadow_nonpresent_value))
    shadowed = sp.shadowed_translation
    return tuple(
        [
            Entry(index, word, Word(shadowed[index]) if shadowed and is_shadow_present_pte(word) else None)
            for index, word in zip(used.tolist(), words[used].tolist(), strict=True)
        ]
    )


def _places(kvm: Kvm, head: RmapHead) -> tuple[SpteAt, ...]:
    return tuple([_place(kvm, sptep) for sptep in pte_list(kvm.host, head)])


def _place(kvm: Kvm, sptep: Sptep) -> SpteAt:
    return SpteAt(PageId(sptep_to_sp(kvm.host, sptep).address), spte_index(sptep))


def _memslot(kvm: Kvm, slot: KvmMemorySlot) -> Memslot:
    return Memslot(
        as_id=slot.as_id,
        id=slot.id,
        base_gfn=Gfn(slot.base_gfn),
        npages=slot.npages,
        flags=slot.flags,
        backing=(slot.userspace_addr >> PAGE_SHIFT),
        dirty=None if slot.dirty_bitmap is None else tuple(Gfn(gfn) for gfn in sorted(slot.dirty_bitmap)),
        disallow_lpage=tuple(
            (level, index, count)
            for level, counts in enumerate(slot.disallow_lpage, 2)
            for index, count in sorted(counts.items())
            if count
        ),
        gfn_write_track=tuple(
            (Gfn(gfn), count) for gfn, count in sorted(slot.gfn_write_track.items()) if count
        ),
        rmap=tuple(
            [
                ReverseMap(Gfn(_first_gfn(slot, level, index)), level, _places(kvm, head))
                for level, heads in enumerate(slot.rmap, 1)
                for index, head in sorted(heads.items())
                if head.val
            ]
        ),
    )


def _first_gfn(slot: KvmMemorySlot, level: int, index: int) -> int:
    shift = 9 * (level - 1)
    return (slot.base_gfn >> shift) + index << shift


def _vcpu(kvm: Kvm, vcpu: KvmVcpu) -> Vcpu:
    registers, mmio = vcpu.registers, vcpu.mmio
    return Vcpu(
        cr0=Word(registers.cr0),
        cr3=Word(registers.cr3),
        cr4=Word(registers.cr4),
        efer=Word(registers.efer),
        smm=vcpu.smm,
        guest_mode=vcpu.guest_mode,
        mmu="root_mmu" if vcpu.mmu is vcpu.root_mmu else "guest_mmu",
        root_mmu=_mmu(kvm, vcpu.root_mmu),
        guest_mmu=_mmu(kvm, vcpu.guest_mmu),
        mmio=Mmio(Address(mmio.gva), mmio.access, Gfn(mmio.gfn), Word(mmio.generation)),
    )


def _mmu(kvm: Kvm, mmu: KvmMmu) -> MmuContext:
    root = _root(kvm, mmu, mmu.root)
    in_use = _pae_roots(kvm, mmu) if root.kind in ("pae", "special") else []
    pages = [root_to_sp(kvm.host, hpa) if hpa else None for hpa in in_use]
    return MmuContext(
        root=root,
        root_role=RoleWord(int(mmu.root_role)),
        cpu_role=Word(mmu.cpu_role.as_u64),
        pae_root=tuple(None if sp is None else PageId(sp.address) for sp in pages),
        prev_roots=tuple(_root(kvm, mmu, root) for root in mmu.prev_roots),
    )


def _root(kvm: Kvm, mmu: KvmMmu, root: RootInfo) -> LoadedRoot:
    if not root.is_valid:
        return LoadedRoot("none", None, None)
    sp = root_to_sp(kvm.host, root.hpa)
    if sp is not None:
        return LoadedRoot("page", PageId(sp.address), Address(root.pgd))
    special = {"pae": mmu.pae_root, "special": mmu.pml5_root or mmu.pml4_root, "dummy": kvm.host.zero_page}
    kind = next(name for name, table in special.items() if table is not None and pa(table) == root.hpa)
    return LoadedRoot(kind, None, Address(root.pgd))

"""Finds everything of a VM's MMU in the machine's memory, and makes a snapshot of it.

Shadow pages hang from ``active_mmu_pages``; TDP pages from ``tdp_mmu_roots`` and then from each other's
entries. A root that became obsolete while it was loaded is on neither list and is found through the vCPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmu_model.snapshot import (
    Address,
    Gfn,
    LoadedRoot,
    Mmio,
    MmuContext,
    MmuKind,
    PageId,
    ShadowPage,
    Snapshot,
    Vcpu,
    Word,
)
from mmu_model.snapshot.role import RoleWord
from mmu_model.snapshot.spte import FRAME

from .memory import Memory
from .pages import CorruptError, PageDecoder
from .slots import SlotDecoder
from .structures import Structures

INVALID_PAGE = (1 << 64) - 1
XA_NODE_SLOTS = 64


@dataclass(frozen=True, slots=True)
class VcpuState:
    """What userspace says of the vCPU at a snapshot."""

    cr0: int
    cr3: int
    cr4: int
    efer: int
    smm: bool
    guest_mode: bool


class VmDecoder:
    """Reads the only VM of a machine."""

    def __init__(
        self, memory: Memory, structures: Structures, vm_list: int, kernel: str, mmu: MmuKind
    ) -> None:
        self.memory, self.structures, self.vm_list = memory, structures, vm_list
        self.kernel, self.mmu = kernel, mmu
        self.decoder = PageDecoder(memory, structures)

    def kvm(self) -> int:
        """The address of struct kvm."""
        (node,) = self.memory.list_nodes(self.vm_list)
        return node - self.structures.at("kvm", "vm_list")

    def snapshot(self, name: str, state: VcpuState, memory_base: int) -> Snapshot:
        """The VM as it is now; ids and frames are the host's."""
        kvm = self.kvm()
        pages: dict[PageId, ShadowPage] = {}
        self.decoder.empty.clear()
        active = self._listed(kvm, "active_mmu_pages")
        roots = self._listed(kvm, "tdp_mmu_roots")
        for page in active:
            self._add(pages, page, "active")
        for page in roots:
            self._add(pages, page, "roots")
        vcpus = tuple(self._vcpu(vcpu, state, pages) for vcpu in self._vcpus(kvm))
        slots = SlotDecoder(self.memory, self.structures, self.decoder, memory_base)
        generations, memslots = slots.decode(kvm)
        return Snapshot(
            name=name,
            kernel=self.kernel,
            mmu=self.mmu,
            mmu_valid_gen=self._number(kvm, "mmu_valid_gen", 1),
            memslot_generation=generations,
            n_used_mmu_pages=self._number(kvm, "n_used_mmu_pages", 8),
            n_max_mmu_pages=self._number(kvm, "n_max_mmu_pages", 8),
            indirect_shadow_pages=self._number(kvm, "indirect_shadow_pages", 4),
            tdp_mmu_pages=self._tdp_pages(kvm),
            shadow_root_allocated=bool(self._number(kvm, "shadow_root_allocated", 1)),
            empty_spte=self._empty_spte(),
            memslots=memslots,
            vcpus=vcpus,
            active_mmu_pages=active,
            tdp_mmu_roots=roots,
            pages=tuple(pages.values()),
        )

    def hash_table(self) -> Iterator[PageId]:
        """The pages in kvm.arch.mmu_page_hash."""
        kvm = self.kvm()
        buckets = kvm + self.structures.at("kvm", "mmu_page_hash")
        if not self.structures.hash_in_place:
            buckets = self.memory.u64(buckets)
        if not buckets:
            return
        for node in self.memory.words(buckets, self.structures.hash_buckets):
            while node:
                yield PageId(node - self.structures.at("kvm_mmu_page", "hash_link"))
                node = self.memory.u64(node)

    def host_frame(self, hva: int) -> int:
        """The frame the host's own page tables give for an address of the VM's process."""
        mm = self.memory.u64(self.kvm() + self.structures.at("kvm", "mm"))
        pgd = self.memory.u64(mm + self.structures.at("mm_struct", "pgd"))
        return self.memory.translate(hva, self.memory.translate(pgd)) >> 12

    def _number(self, kvm: int, name: str, size: int) -> int:
        return self.memory.unsigned(kvm + self.structures.at("kvm", name), size)

    def _listed(self, kvm: int, name: str) -> tuple[PageId, ...]:
        head = kvm + self.structures.at("kvm", name)
        link = self.structures.at("kvm_mmu_page", "link")
        return tuple(PageId(node - link) for node in self.memory.list_nodes(head))

    def _tdp_pages(self, kvm: int) -> int:
        """kvm.arch.tdp_mmu_pages: TDP pages that are no roots, as a list (6.1) or counted (6.12)."""
        if self.structures.tdp_pages_listed:
            return len(self._listed(kvm, "tdp_mmu_pages"))
        return self._number(kvm, "tdp_mmu_pages", 8)

    def _empty_spte(self) -> Word | None:
        """What unused entries hold, the same in all pages."""
        if len(self.decoder.empty) > 1:
            raise CorruptError(f"unused entries hold {sorted(map(hex, self.decoder.empty))}")
        return next(map(Word, self.decoder.empty), None)

    def _add(self, pages: dict[PageId, ShadowPage], start: PageId, listed: str) -> None:
        """Decodes a page; below a TDP page all its children too, which are on no list in 6.12."""
        todo = [(start, listed)]
        while todo:
            page, how = todo.pop()
            if page in pages:
                continue
            pages[page] = self.decoder.decode(page, how)
            if pages[page].tdp_mmu_page:
                children = self.decoder.children(pages[page])
                todo += [(self.decoder.page_of(child), "table") for child in children]

    def _vcpus(self, kvm: int) -> Iterator[int]:
        """The pointers in kvm.vcpu_array, an xarray: one alone lies in its head, more in a node."""
        head = self.memory.u64(kvm + self.structures.at("kvm", "vcpus"))
        if head & 3 == 2:
            slots = head - 2 + self.structures.at("xa_node", "slots")
            yield from (vcpu for vcpu in self.memory.words(slots, XA_NODE_SLOTS) if vcpu)
        elif head:
            yield head

    def _vcpu(self, vcpu: int, state: VcpuState, pages: dict[PageId, ShadowPage]) -> Vcpu:
        def get(name: str, size: int = 8) -> int:
            return self.memory.unsigned(vcpu + self.structures.at("kvm_vcpu", name), size)

        places = {name: vcpu + self.structures.at("kvm_vcpu", name) for name in ("root_mmu", "guest_mmu")}
        contexts = {name: self._mmu(place, pages) for name, place in places.items()}
        in_use = next((name for name, place in places.items() if place == get("mmu")), "none")
        return Vcpu(
            cr0=Word(state.cr0),
            cr3=Word(state.cr3),
            cr4=Word(state.cr4),
            efer=Word(state.efer),
            smm=state.smm,
            guest_mode=state.guest_mode,
            mmu=in_use,
            **contexts,
            mmio=Mmio(
                Address(get("mmio_gva")), get("mmio_access", 4), Gfn(get("mmio_gfn")), Word(get("mmio_gen"))
            ),
        )

    def _mmu(self, mmu: int, pages: dict[PageId, ShadowPage]) -> MmuContext:
        at = self.structures.at
        size = self.structures.size["kvm_mmu_root_info"]
        prev = mmu + at("kvm_mmu", "prev_roots")
        root = self._root(mmu, mmu + at("kvm_mmu", "root"), pages)
        return MmuContext(
            root=root,
            root_role=RoleWord(self.memory.unsigned(mmu + at("kvm_mmu", "root_role"), 4)),
            cpu_role=Word(self.memory.u64(mmu + at("kvm_mmu", "cpu_role"))),
            pae_root=self._pae_root(mmu, pages) if root.kind in ("pae", "special") else (),
            prev_roots=tuple(
                self._root(mmu, prev + i * size, pages) for i in range(self.structures.prev_roots)
            ),
        )

    def _root(self, mmu: int, info: int, pages: dict[PageId, ShadowPage]) -> LoadedRoot:
        at = self.structures.at
        hpa = self.memory.u64(info + at("kvm_mmu_root_info", "hpa"))
        pgd = self.memory.u64(info + at("kvm_mmu_root_info", "pgd"))
        if hpa == INVALID_PAGE:
            return LoadedRoot("none", None, None)
        where = None if pgd == INVALID_PAGE else Address(pgd)
        for name, kind in (("pae_root", "pae"), ("pml4_root", "special"), ("pml5_root", "special")):
            table = self.memory.u64(mmu + at("kvm_mmu", name))
            if table and self.memory.translate(table) == hpa:
                return LoadedRoot(kind, None, where)
        page = self.decoder.page_of(hpa)
        if not page:
            return LoadedRoot("dummy", None, where)
        self._add(pages, page, "vcpu")
        return LoadedRoot("page", page, where)

    def _pae_root(self, mmu: int, pages: dict[PageId, ShadowPage]) -> tuple[PageId | None, ...]:
        table = self.memory.u64(mmu + self.structures.at("kvm_mmu", "pae_root"))
        found: list[PageId | None] = []
        for entry in self.memory.words(table, 4):
            page = self.decoder.page_of(entry & FRAME) if entry & 1 and entry != INVALID_PAGE else None
            if page:
                self._add(pages, page, "vcpu")
            found.append(page or None)
        return tuple(found)

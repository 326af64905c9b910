"""The state of a VM's MMU as plain data; names are the fields of the kernel's structures.

Frames and page ids are the host's own until ``canonical`` renames them. Nobody changes what is in a snapshot.
What there are thousands of in one is not frozen all the same: to make a frozen one takes four times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NewType

from .role import Role, RoleWord
from .spte import Spte, SpteFormat

Word = NewType("Word", int)  # 64 bits whose value is a bit pattern
Address = NewType("Address", int)  # guest-virtual or guest-physical, in bytes
Gfn = NewType("Gfn", int)
Pfn = NewType("Pfn", int)
PageId = NewType("PageId", int)  # a shadow page; as recorded, the address of its struct kvm_mmu_page


class MmuKind(Enum):
    """Which of KVM's MMUs maps the guest's memory."""

    TDP = "tdp"  # nested paging, TDP MMU
    DIRECT = "direct"  # nested paging, direct pages of the shadow MMU (tdp_mmu=N)
    SHADOW = "shadow"  # no nested paging (npt=0)


@dataclass(slots=True, unsafe_hash=True, order=True)
class SpteAt:
    """The place of an entry: a page's ``spt[index]``."""

    page: PageId
    index: int


@dataclass(slots=True, unsafe_hash=True)
class Entry:
    """``spt[index]``, and what ``shadowed_translation[index]`` says of it where there is that array."""

    index: int
    raw: Word
    shadowed_translation: Word | None = None


class _Decoded:
    """Has room for what was decoded already; that is no field."""

    __slots__ = ("_sptes",)
    _sptes: Mapping[int, Spte]

    def _once(self, decode: Callable[[], Mapping[int, Spte]]) -> Mapping[int, Spte]:
        try:
            return self._sptes
        except AttributeError:
            self._sptes = decode()
            return self._sptes


@dataclass(slots=True, unsafe_hash=True)
class ShadowPage(_Decoded):
    """One ``struct kvm_mmu_page``; of each union only the member in use, the other is None.

    ``listed`` says where the page was found: ``active`` (kvm.arch.active_mmu_pages), ``roots``
    (tdp_mmu_roots), ``table`` (through a TDP page's entry) or ``vcpu`` (on no list, but still loaded).
    ``entries`` holds every entry that is not empty, by index. ``unsync_child_bitmap`` lists the bits set.
    ``spte_format`` is the layout of the entries; None: that of paging.
    """

    id: PageId
    listed: str
    role_word: RoleWord
    gfn: Gfn
    tdp_mmu_page: bool
    unsync: bool
    mmu_valid_gen: int | None
    tdp_mmu_scheduled_root_to_zap: bool | None
    nx_huge_page_disallowed: bool
    possible_nx_huge_page: bool  # possible_nx_huge_page_link is on the VM's list
    spt: Pfn
    has_shadowed_translation: bool
    root_count: int | None
    tdp_mmu_root_count: int | None
    unsync_children: int
    unsync_child_bitmap: tuple[int, ...]
    parent_ptes: tuple[SpteAt, ...] | None
    ptep: SpteAt | None
    write_flooding_count: int
    entries: tuple[Entry, ...]
    spte_format: SpteFormat | None = None

    @property
    def role(self) -> Role:
        """``role``, decoded."""
        return Role.from_word(self.role_word)

    def sptes(self) -> Mapping[int, Spte]:
        """The entries decoded, by index."""
        return self._once(lambda: {entry.index: self.spte(entry) for entry in self.entries})

    def spte(self, entry: Entry) -> Spte:
        """One of its entries decoded."""
        return Spte(entry.raw, self.role.level, self.spte_format or SpteFormat.PAGING)


@dataclass(frozen=True, slots=True)
class LoadedRoot:
    """``struct kvm_mmu_root_info``. Only of the kind ``page`` there is a shadow page behind it; the others:

    ``none`` (INVALID_PAGE), ``pae`` (the four pae_root entries), ``special`` (pml4_root, pml5_root),
    ``dummy`` (the zero page, for a root that the guest may not see).
    """

    kind: str
    page: PageId | None
    pgd: Address | None


@dataclass(frozen=True, slots=True)
class MmuContext:
    """A vCPU's ``root_mmu`` or ``guest_mmu``: the roots loaded and those remembered."""

    root: LoadedRoot
    root_role: RoleWord
    cpu_role: Word
    pae_root: tuple[PageId | None, ...]
    prev_roots: tuple[LoadedRoot, ...]


@dataclass(frozen=True, slots=True)
class Mmio:
    """The vCPU's cache of the last MMIO access (vcpu_cache_mmio_info)."""

    gva: Address
    access: int
    gfn: Gfn
    generation: Word


@dataclass(frozen=True, slots=True)
class Vcpu:
    """Registers that the MMU looks at, both contexts, and which of them is in use (``mmu``)."""

    cr0: Word
    cr3: Word
    cr4: Word
    efer: Word
    smm: bool
    guest_mode: bool
    mmu: str
    root_mmu: MmuContext
    guest_mmu: MmuContext
    mmio: Mmio


@dataclass(slots=True, unsafe_hash=True)
class ReverseMap:
    """``slot->arch.rmap[level - 1]`` of one gfn: the leaf entries of shadow pages that map it."""

    gfn: Gfn
    level: int
    sptes: tuple[SpteAt, ...]


@dataclass(frozen=True, slots=True)
class Memslot:
    """``struct kvm_memory_slot``. ``backing`` is the slot's place in the memory behind the VM, in pages:
    slots with equal places share their memory.

    ``disallow_lpage`` and ``gfn_write_track`` list (level, index, count) and (gfn, count) where not zero;
    ``dirty`` the gfns marked in the dirty bitmap, None without one.
    """

    as_id: int
    id: int
    base_gfn: Gfn
    npages: int
    flags: int
    backing: int
    dirty: tuple[Gfn, ...] | None
    disallow_lpage: tuple[tuple[int, int, int], ...]
    gfn_write_track: tuple[tuple[Gfn, int], ...]
    rmap: tuple[ReverseMap, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One VM at one moment, on a kernel (``6.12``) and one of its MMUs.

    ``active_mmu_pages`` is in list order, newest first; ``memslot_generation`` has one value an address
    space; ``empty_spte`` is what an unused entry holds (None: there is no page).
    """

    name: str
    kernel: str
    mmu: MmuKind
    mmu_valid_gen: int
    memslot_generation: tuple[Word, ...]
    n_used_mmu_pages: int
    n_max_mmu_pages: int
    indirect_shadow_pages: int
    tdp_mmu_pages: int
    shadow_root_allocated: bool
    empty_spte: Word | None
    memslots: tuple[Memslot, ...]
    vcpus: tuple[Vcpu, ...]
    active_mmu_pages: tuple[PageId, ...]
    tdp_mmu_roots: tuple[PageId, ...]
    pages: tuple[ShadowPage, ...]

    def by_id(self) -> dict[PageId, ShadowPage]:
        """The pages by id."""
        return {page.id: page for page in self.pages}

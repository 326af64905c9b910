"""`struct kvm_mmu_page`: what KVM knows of one page of sptes (mmu/mmu_internal.h)."""

from mmu_model.hardware.types import PAGE_SHIFT, Gfn, Hpa
from mmu_model.kvm.host import Host
from mmu_model.kvm.rmap import RmapHead
from mmu_model.kvm.role import PageRole
from mmu_model.kvm.spte import SPTE_BASE_ADDR_MASK
from mmu_model.kvm.types import (
    PAGE_OFFSET,
    SPTE_LEVEL_BITS,
    Kva,
    Sptep,
    pa,
)


class KvmMmuPage:
    """A shadow page of either MMU.

    Three pairs of members share their storage, as the unions of the struct do: what one writes, the other
    reads. `link`, `hash_link` and `possible_nx_huge_page_link` are no members here: the lists that they would
    chain are those of the VM, which hold the pages themselves.

    Attributes
    ----------
    address :
        Where the struct is: what `page->private` of its `spt` holds.
    tdp_mmu_page :
        It belongs to the TDP MMU.
    unsync :
        The guest may have changed the table that it shadows.
    nx_huge_page_disallowed :
        It stands in the place of a huge page that the guest wanted to execute from (6.1: lpage_disallowed).
    role, gfn :
        What it is valid for, and of which frame.
    spt :
        The page of 512 sptes.
    shadowed_translation :
        For each spte the gfn and the access that it shadows, as `gfn << 12 | ACC_*`; None where it is not
        allocated.
    unsync_children :
        How many bits of `unsync_child_bitmap` are set.
    unsync_child_bitmap :
        Bit n is 1 if `spt[n]` leads to a page that may be unsync.
    clear_spte_count :
        How many sptes of the page have gone. Only on a 32-bit host: elsewhere there is no such member.
    write_flooding_count :
        Emulated writes to the guest's table since it was last used.

    """

    __slots__ = (
        "_generation",
        "_parents",
        "_references",
        "address",
        "clear_spte_count",
        "gfn",
        "nx_huge_page_disallowed",
        "role",
        "shadowed_translation",
        "spt",
        "tdp_mmu_page",
        "unsync",
        "unsync_child_bitmap",
        "unsync_children",
        "write_flooding_count",
    )

    def __init__(self, host: Host, role: PageRole, gfn: Gfn, spt: Kva) -> None:
        self.tdp_mmu_page = False
        self.unsync = False
        self._generation = 0
        self.nx_huge_page_disallowed = False
        self.role = role
        self.gfn = gfn
        self.spt = spt
        self.shadowed_translation: list[int] | None = None
        self._references = 0
        self.unsync_children = 0
        self._parents = RmapHead()
        self.unsync_child_bitmap = 0
        self.write_flooding_count = 0
        if not host.x86_64:
            self.clear_spte_count = 0
        self.address = host.kmalloc(self)
        set_page_private(host, spt, self.address)

    @property
    def mmu_valid_gen(self) -> int:
        """The generation that the page is of, 0 or 1; a page of another than the VM's is obsolete."""
        return self._generation

    @mmu_valid_gen.setter
    def mmu_valid_gen(self, generation: int) -> None:
        self._generation = generation

    @property
    def tdp_mmu_scheduled_root_to_zap(self) -> bool:
        """A TDP root that was invalidated and whose entries somebody will zap."""
        return bool(self._generation)

    @tdp_mmu_scheduled_root_to_zap.setter
    def tdp_mmu_scheduled_root_to_zap(self, scheduled: bool) -> None:
        self._generation = int(scheduled)

    @property
    def root_count(self) -> int:
        """How many vCPUs hold the page as a root, loaded or cached."""
        return self._references

    @root_count.setter
    def root_count(self, count: int) -> None:
        self._references = count

    @property
    def tdp_mmu_root_count(self) -> int:
        """References to a root of the TDP MMU; a `refcount_t`."""
        return self._references

    @tdp_mmu_root_count.setter
    def tdp_mmu_root_count(self, count: int) -> None:
        self._references = count

    @property
    def parent_ptes(self) -> RmapHead:
        """The sptes that point at `spt`, encoded as in :mod:`mmu_model.kvm.rmap`."""
        return self._parents

    @property
    def ptep(self) -> Sptep | None:
        """TDP MMU: the one spte that points at `spt`; None (NULL) for a root."""
        return Sptep(Kva(self._parents.val)) if self._parents.val else None

    @ptep.setter
    def ptep(self, sptep: Sptep | None) -> None:
        self._parents.val = sptep or 0

    @property
    def hpa(self) -> Hpa:
        """Where the page of sptes is in physical memory."""
        return pa(self.spt)

    def sptep(self, index: int) -> Sptep:
        """The address of `spt[index]`."""
        return Sptep(self.spt + index * 8)

    def free(self, host: Host) -> None:
        """Give struct and page of sptes back."""
        host.kfree(self.address)
        host.free_page(self.spt)

    def __repr__(self) -> str:
        return f"<kvm_mmu_page gfn {self.gfn:#x} {self.role!r}>"


def set_page_private(host: Host, spt: Kva, owner: Kva) -> None:
    """Note in the `struct page` of a page of sptes whose it is."""
    host.page_private[pa(spt) >> PAGE_SHIFT] = owner


def is_tdp_mmu_page(sp: KvmMmuPage) -> bool:
    """Which MMU is in charge of the page (tdp_mmu.h)."""
    return sp.tdp_mmu_page


def sp_has_gptes(sp: KvmMmuPage) -> bool:
    """Whether the page shadows a table of the guest (mmu.c)."""
    return not sp.role.direct and not sp.role.passthrough


def kvm_mmu_page_get_gfn(sp: KvmMmuPage, index: int) -> Gfn:
    """The guest frame that `spt[index]` translates to (mmu.c)."""
    if sp.role.passthrough:
        return sp.gfn
    if sp.shadowed_translation is not None:
        return Gfn(sp.shadowed_translation[index] >> PAGE_SHIFT)
    return linear_gfn(sp.gfn, index, sp.role.level)


def linear_gfn(gfn: Gfn, index: int, level: int) -> Gfn:
    """The guest frame of entry `index` in a page of `level` that maps a linear range from `gfn` on."""
    return Gfn(gfn + (index << (level - 1) * SPTE_LEVEL_BITS))


def kvm_mmu_page_get_access(sp: KvmMmuPage, index: int) -> int:
    """The access, ACC_* bits, that `spt[index]` shadows; the spte itself may grant less (mmu.c)."""
    if sp.shadowed_translation is not None:
        return sp.shadowed_translation[index] & 7
    return sp.role.access


def kvm_mmu_page_set_translation(sp: KvmMmuPage, index: int, gfn: Gfn, access: int) -> None:
    """Note what `spt[index]` shadows, where the page has room for it (mmu.c)."""
    if sp.shadowed_translation is not None:
        sp.shadowed_translation[index] = gfn << PAGE_SHIFT | access


def to_shadow_page(host: Host, hpa: int) -> KvmMmuPage:
    """The shadow page whose sptes are in the frame of `hpa`, by `page->private` (spte.h)."""
    page: KvmMmuPage = host.at(host.page_private[hpa >> PAGE_SHIFT])
    return page


def sptep_to_sp(host: Host, sptep: Sptep) -> KvmMmuPage:
    """The shadow page that an spte is in (spte.h)."""
    return to_shadow_page(host, sptep - PAGE_OFFSET)


def spte_to_child_sp(host: Host, spte: int) -> KvmMmuPage:
    """The shadow page that a nonleaf spte points at (spte.h)."""
    return to_shadow_page(host, spte & SPTE_BASE_ADDR_MASK)


def root_to_sp(host: Host, root: Hpa) -> KvmMmuPage | None:
    """The shadow page of a root; None for roots that have none: PAE and special roots, the dummy root."""
    private = host.page_private.get((root & SPTE_BASE_ADDR_MASK) >> PAGE_SHIFT)
    return None if private is None else host.at(private)

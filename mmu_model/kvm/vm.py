"""`struct kvm`: a virtual machine, as far as its memory goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from mmu_model.kernels import Kernel
from mmu_model.kvm.host import Host
from mmu_model.kvm.interfaces import ShadowMmu, TdpMmu
from mmu_model.kvm.locks import Mutex, RwLock, SpinLock
from mmu_model.kvm.memslot import KvmMemslots
from mmu_model.kvm.page import KvmMmuPage, is_tdp_mmu_page
from mmu_model.kvm.process import Process
from mmu_model.kvm.rcu import Rcu
from mmu_model.kvm.requests import flush_remote_tlbs, make_request
from mmu_model.kvm.role import PageRole
from mmu_model.kvm.spte import SpteMasks
from mmu_model.kvm.task import finish
from mmu_model.kvm.vcpu import KvmVcpu, Request

KVM_ADDRESS_SPACE_NUM: Final = 2
"""The memslots of a vCPU in SMM are others than those of the rest."""

_SLOTS_LOCK, _SRCU, _MMU_LOCK, _INNERMOST = 1, 2, 3, 4
"""The order in which locks are taken, the outermost first (Documentation/virt/kvm/locking.rst)."""

KVM_MMU_HASH_SHIFT: Final = 12
_GOLDEN_RATIO_64: Final = 0x61C8864680B583EB


class TdpFormat(Enum):
    """The second dimension that the host's processor has: AMD's, or Intel's since or before Haswell."""

    NPT = "npt"
    EPT = "ept"
    EPT_WITHOUT_AD = "ept-without-ad"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """How KVM's modules were loaded, and on what.

    Attributes
    ----------
    tdp_enabled :
        Whether nested paging is used (npt=, ept=).
    tdp_mmu_enabled :
        Whether the TDP MMU is used for it (tdp_mmu=); without nested paging it is not.
    tdp_format :
        What nested paging the processor has. EPT without accessed and dirty flags is also what KVM makes of
        a newer one with eptad=0.
    max_tdp_level :
        Levels of nested paging that the host's processor walks: 4 or 5.
    tdp_root_level :
        How many of them KVM has to use; 0 if it may choose.
    nx_huge_pages :
        Whether large pages are never executable.
    nx_huge_pages_recovery_ratio, nx_huge_pages_recovery_period_ms :
        With that, one page in so many of those that are small for it is made large again each time; so many
        milliseconds are between, or, if 0, an hour divided by the ratio.
    pml :
        Whether the processor logs writes (pml=), where EPT has dirty flags. The model has that for the TDP
        MMU.
    private_memory :
        Whether the VM is a software-protected one, whose frames may have memory that the process cannot map
        (KVM_X86_SW_PROTECTED_VM of 6.12). Only the TDP MMU has such VMs.

    """

    tdp_enabled: bool
    tdp_mmu_enabled: bool
    tdp_format: TdpFormat
    max_tdp_level: int
    tdp_root_level: int
    nx_huge_pages: bool
    pml: bool
    nx_huge_pages_recovery_ratio: int = 60
    nx_huge_pages_recovery_period_ms: int = 0
    private_memory: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for what no module would be loaded with."""
        if self.pml and not (self.tdp_mmu_enabled and self.tdp_format is TdpFormat.EPT):
            raise ValueError("page-modification logging needs the TDP MMU, and EPT with dirty flags")
        if self.private_memory and not self.tdp_mmu_enabled:
            raise ValueError("private memory needs the TDP MMU")

    @property
    def ept_enabled(self) -> bool:
        """Whether guests run over EPT."""
        return self.tdp_enabled and self.tdp_format is not TdpFormat.NPT


@dataclass(eq=False)
class Kvm:
    """A virtual machine.

    Attributes
    ----------
    shadow, tdp :
        The MMUs that it works with.
    masks :
        The format of its sptes.
    memslots :
        By address space: 0, and 1 for SMM.
    mmu_lock :
        Whoever changes sptes holds it for write, or, in the TDP MMU, where it says so, for read.
    slots_lock :
        Whoever changes memslots holds it, to the end of what follows from the change.
    tdp_mmu_pages_lock :
        With mmu_lock held for read, it protects the lists of the TDP MMU.
    mmu_unsync_pages_lock :
        With mmu_lock held for read, it protects the unsync state of shadow pages.
    mn_invalidate_lock :
        It protects `mn_active_invalidate_count`.
    rcu, srcu :
        Readers of the TDP MMU's tables; readers of the memslots.
    active_mmu_pages :
        The pages of the shadow MMU that are in use. The kernel's list begins with the newest: here that is
        the end.
    mmu_page_hash :
        By bucket the pages whose gfn falls in it, newest first.
    mmu_valid_gen :
        The generation of pages that may be used.
    tdp_mmu_roots, tdp_mmu_pages :
        Roots of the TDP MMU, newest first, and how many pages besides them it uses.
    possible_nx_huge_pages :
        The pages, oldest first, that are there because large pages are not executable, and for no other reason.
    nx_huge_page_last :
        When such pages were made large again last, in milliseconds of the host's clock.
    private_gfns :
        The frames whose attribute is KVM_MEMORY_ATTRIBUTE_PRIVATE.
    indirect_shadow_pages :
        How many pages shadow a guest's table.
    manual_dirty_log_protect :
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: getting the dirty log does not clear it.
    mmu_invalidate_seq, mmu_invalidate_in_progress :
        How many changes of the host's mappings were over, and how many are under way in a memslot.
    mn_active_invalidate_count :
        How many are under way anywhere in the process: memslots do not change meanwhile.

    """

    host: Host
    process: Process
    kernel: Kernel
    parameters: Parameters
    masks: SpteMasks
    shadow: ShadowMmu
    tdp: TdpMmu
    memslots: list[KvmMemslots] = field(
        default_factory=lambda: [KvmMemslots(as_id) for as_id in range(KVM_ADDRESS_SPACE_NUM)]
    )
    vcpus: list[KvmVcpu] = field(default_factory=list)
    mmu_lock: RwLock = field(default_factory=lambda: RwLock("mmu_lock", order=_MMU_LOCK))
    slots_lock: Mutex = field(default_factory=lambda: Mutex("slots_lock", order=_SLOTS_LOCK))
    mn_invalidate_lock: SpinLock = field(
        default_factory=lambda: SpinLock("mn_invalidate_lock", order=_INNERMOST)
    )
    tdp_mmu_pages_lock: SpinLock = field(init=False)
    mmu_unsync_pages_lock: SpinLock = field(init=False)
    rcu: Rcu = field(default_factory=lambda: Rcu("RCU"))
    srcu: Rcu = field(default_factory=lambda: Rcu("SRCU of the memslots", sleepable=True, order=_SRCU))
    active_mmu_pages: dict[KvmMmuPage, None] = field(default_factory=dict)
    mmu_page_hash: dict[int, list[KvmMmuPage]] = field(default_factory=dict)
    mmu_valid_gen: int = 0
    n_used_mmu_pages: int = 0
    n_max_mmu_pages: int = 0
    private_gfns: set[int] = field(default_factory=set)
    indirect_shadow_pages: int = 0
    tdp_mmu_roots: list[KvmMmuPage] = field(default_factory=list)
    tdp_mmu_pages: int = 0
    possible_nx_huge_pages: dict[KvmMmuPage, None] = field(default_factory=dict)
    nx_huge_page_last: int = 0
    shadow_root_allocated: bool = False
    manual_dirty_log_protect: bool = False
    mmu_invalidate_seq: int = 0
    mmu_invalidate_in_progress: int = 0
    mn_active_invalidate_count: int = 0
    stat: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Locks that are taken inside mmu_lock only."""
        self.tdp_mmu_pages_lock = SpinLock("tdp_mmu_pages_lock", order=_INNERMOST, within=self.mmu_lock)
        self.mmu_unsync_pages_lock = SpinLock("mmu_unsync_pages_lock", order=_INNERMOST, within=self.mmu_lock)

    def slots_for_role(self, role: PageRole) -> KvmMemslots:
        """The memslots that a page of this role was built from: `kvm_memslots_for_spte_role`."""
        return self.memslots[1 if role.smm else 0]

    def bucket(self, gfn: int) -> list[KvmMmuPage]:
        """The pages in the hash bucket of a gfn."""
        return self.mmu_page_hash.setdefault(page_table_hash(gfn), [])

    def is_obsolete(self, sp: KvmMmuPage) -> bool:
        """Whether no vCPU may use the page any more (mmu.c: is_obsolete_sp)."""
        if sp.role.invalid:
            return True
        return not is_tdp_mmu_page(sp) and sp.mmu_valid_gen != self.mmu_valid_gen

    def valid_pages_at(self, gfn: int) -> Iterator[KvmMmuPage]:
        """The usable pages that have this gfn, newest first; pages may be zapped meanwhile."""
        pages = self.mmu_page_hash.get(page_table_hash(gfn)) if self.mmu_page_hash else None
        if not pages:
            return iter(())
        return (sp for sp in tuple(pages) if sp.gfn == gfn and not self.is_obsolete(sp))

    def flush_remote_tlbs(self) -> None:
        """:func:`~mmu_model.kvm.requests.flush_remote_tlbs`; WouldWaitForEver if a vCPU runs meanwhile."""
        finish(flush_remote_tlbs(self))

    def make_all_cpus_request(self, request: Request) -> None:
        """`kvm_make_all_cpus_request`; to wait is up to who makes it (`wait_for_kicked`)."""
        for vcpu in self.vcpus:
            make_request(vcpu, request)


def page_table_hash(gfn: int) -> int:
    """The bucket of a gfn: `hash_64(gfn, 12)`."""
    return (gfn * _GOLDEN_RATIO_64 & (1 << 64) - 1) >> 64 - KVM_MMU_HASH_SHIFT

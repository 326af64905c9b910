"""`struct kvm_mmu`: a vCPU's view of one of the MMUs, with the roots that it has loaded or remembers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from mmu_model.hardware.access import Access, Kind, access
from mmu_model.hardware.ept import ExtendedPaging
from mmu_model.hardware.faults import Fault
from mmu_model.hardware.linear import LinearPaging
from mmu_model.hardware.nested import GuestPhysicalAccess, Purpose
from mmu_model.hardware.types import Hpa
from mmu_model.kvm.cpu_role import NO_CPU_ROLE, CpuRole
from mmu_model.kvm.fault import (
    PFERR_FETCH_MASK,
    PFERR_GUEST_FINAL_MASK,
    PFERR_GUEST_PAGE_MASK,
    PFERR_USER_MASK,
    PFERR_WRITE_MASK,
    KvmPageFault,
    RetPf,
)
from mmu_model.kvm.role import PageRole
from mmu_model.kvm.types import INVALID_PAGE, Kva

if TYPE_CHECKING:
    from mmu_model.kvm.page import KvmMmuPage
    from mmu_model.kvm.vcpu import KvmVcpu

KVM_MMU_NUM_PREV_ROOTS: Final = 3

PageFaultHandler = Callable[["KvmVcpu", KvmPageFault], RetPf]
SpteSynchronizer = Callable[["KvmVcpu", "KvmMmuPage", int], int]


class FaultInjector(Protocol):
    """What a fault of the tables that an MMU translates by is for those who get it."""

    def __call__(self, vcpu: "KvmVcpu", fault: Fault, *, from_hardware: bool) -> Fault:
        """The exception or the exit."""


class RootInfo:
    """`struct kvm_mmu_root_info`: a root, and the guest's root that it shadows (0 if it shadows none)."""

    __slots__ = ("hpa", "pgd")

    def __init__(self, hpa: Hpa = INVALID_PAGE, pgd: int = 0) -> None:
        self.hpa = hpa
        self.pgd = pgd

    @property
    def is_valid(self) -> bool:
        """`VALID_PAGE`."""
        return self.hpa != INVALID_PAGE


class KvmMmu:
    """One MMU of one vCPU.

    Attributes
    ----------
    root, prev_roots :
        What is loaded; what was before and may be again.
    root_role, cpu_role :
        The role of the root; the mode of the guest whose addresses the MMU translates.
    pae_root, pml4_root, pml5_root :
        Tables of the host without a `kvm_mmu_page`, for guests that have less levels than the host; None
        where they are not allocated.
    page_fault, sync_spte :
        How faults are handled and how one spte of an unsync page is synchronized: this makes the MMU one of
        TDP or one that shadows. `sync_spte` is None where no guest table is shadowed.
    is_tdp :
        `page_fault` is the handler of TDP.
    inject_page_fault :
        What becomes of a fault of the guest's tables.
    guest_paging :
        The guest's own paging, or its hypervisor's nested paging: reserved bits and permissions.
    guest_pgd :
        What the guest loaded to select its tables: CR3, nCR3 or EPTP.

    """

    def __init__(self) -> None:
        self.root = RootInfo()
        self.prev_roots = [RootInfo() for _ in range(KVM_MMU_NUM_PREV_ROOTS)]
        self.root_role: PageRole
        self.cpu_role: CpuRole = NO_CPU_ROLE
        self.pae_root: Kva | None = None
        self.pml4_root: Kva | None = None
        self.pml5_root: Kva | None = None
        self.page_fault: PageFaultHandler
        self.sync_spte: SpteSynchronizer | None = None
        self.is_tdp = False
        self.inject_page_fault: FaultInjector
        self.guest_paging: LinearPaging | ExtendedPaging
        self.guest_pgd = 0

    def access_of(self, error_code: int) -> Any:
        """The access that an error code tells of, as `guest_paging` wants it."""
        if type(self.guest_paging) is ExtendedPaging:
            return ept_access(error_code)
        return paging_access(error_code)


def paging_access(error_code: int) -> Access:
    """The access to a linear address, or, as that of a user, to one of nested guest-physical memory."""
    kind = Kind.READ
    if error_code & PFERR_WRITE_MASK:
        kind = Kind.WRITE
    elif error_code & PFERR_FETCH_MASK:
        kind = Kind.FETCH
    return access(kind, user=bool(error_code & PFERR_USER_MASK))


def ept_access(error_code: int) -> GuestPhysicalAccess:
    """The access to guest-physical memory: PFERR_USER_MASK says that it reads (__vmx_handle_ept_violation)."""
    purpose = Purpose.PDPTE
    if error_code & PFERR_GUEST_FINAL_MASK:
        purpose = Purpose.PAGE
    elif error_code & PFERR_GUEST_PAGE_MASK:
        purpose = Purpose.TABLE
    return GuestPhysicalAccess(
        reads=bool(error_code & PFERR_USER_MASK),
        writes=bool(error_code & PFERR_WRITE_MASK),
        fetches=bool(error_code & PFERR_FETCH_MASK),
        purpose=purpose,
    )

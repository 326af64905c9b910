"""A fault on its way through KVM: `struct kvm_page_fault`, and what becomes of it (mmu_internal.h)."""

from enum import Enum
from typing import Final

from mmu_model.hardware.faults import ERROR_ID, ERROR_P, ERROR_RSVD, ERROR_US, ERROR_WR
from mmu_model.hardware.types import Gfn, Pfn
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.types import KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_4K

PFERR_PRESENT_MASK: Final = ERROR_P
PFERR_WRITE_MASK: Final = ERROR_WR
PFERR_USER_MASK: Final = ERROR_US
PFERR_RSVD_MASK: Final = ERROR_RSVD
PFERR_FETCH_MASK: Final = ERROR_ID
PFERR_GUEST_FINAL_MASK: Final = 1 << 32
PFERR_GUEST_PAGE_MASK: Final = 1 << 33


class RetPf(Enum):
    """RET_PF_*: what a fault handler did, or wants done.

    CONTINUE: nothing yet. RETRY: let the guest try again. EMULATE: there is no memory there. WRITE_PROTECTED:
    KVM wants to see this write. INVALID: the fast ways do not apply. FIXED: the spte is in place. SPURIOUS:
    it was already. The values are the names of the counters of vCPUs.
    """

    CONTINUE = "pf_continue"
    RETRY = "pf_retry"
    EMULATE = "pf_emulate"
    WRITE_PROTECTED = "pf_write_protected"
    INVALID = "pf_invalid"
    FIXED = "pf_fixed"
    SPURIOUS = "pf_spurious"


RET_PF_CONTINUE: Final = RetPf.CONTINUE  # by these names, since before Python 3.12 a member costs a call
RET_PF_RETRY: Final = RetPf.RETRY
RET_PF_EMULATE: Final = RetPf.EMULATE
RET_PF_WRITE_PROTECTED: Final = RetPf.WRITE_PROTECTED
RET_PF_INVALID: Final = RetPf.INVALID
RET_PF_FIXED: Final = RetPf.FIXED
RET_PF_SPURIOUS: Final = RetPf.SPURIOUS


class KvmPageFault:
    """One fault, filled in as it is handled.

    Attributes
    ----------
    addr, error_code :
        As the processor reported them: a gva under shadow paging, else a gpa.
    prefetch :
        Nobody accesses it: KVM maps it in advance.
    is_tdp :
        The handler is that of TDP.
    exec, write, present, rsvd, user :
        From the error code.
    nx_huge_page_workaround_enabled, huge_page_disallowed :
        The NX mitigation is on; it forbids a large page here.
    max_level, req_level, goal_level :
        The largest page that is possible at all; that the host's mapping allows; that will be made.
    gfn, slot :
        The guest frame, and the memslot that has it.
    mmu_seq :
        The VM's `mmu_invalidate_seq` before `pfn` was looked up.
    pfn, map_writable :
        The host frame, and whether the process may write to it. None: there is no memslot.
    write_fault_to_shadow_pgtable :
        The guest writes to a table that translates this very address.

    """

    __slots__ = (
        "addr",
        "error_code",
        "exec",
        "gfn",
        "goal_level",
        "huge_page_disallowed",
        "is_tdp",
        "map_writable",
        "max_level",
        "mmu_seq",
        "nx_huge_page_workaround_enabled",
        "pfn",
        "prefetch",
        "present",
        "req_level",
        "rsvd",
        "slot",
        "user",
        "write",
        "write_fault_to_shadow_pgtable",
    )

    def __init__(
        self, addr: int, error_code: int, *, prefetch: bool, is_tdp: bool, nx_huge_pages: bool
    ) -> None:
        self.addr = addr
        self.error_code = error_code
        self.prefetch = prefetch
        self.is_tdp = is_tdp
        self.exec = error_code & PFERR_FETCH_MASK != 0
        self.write = error_code & PFERR_WRITE_MASK != 0
        self.present = error_code & PFERR_PRESENT_MASK != 0
        self.rsvd = error_code & PFERR_RSVD_MASK != 0
        self.user = error_code & PFERR_USER_MASK != 0
        self.nx_huge_page_workaround_enabled = nx_huge_pages
        self.huge_page_disallowed: bool
        self.max_level = KVM_MAX_HUGEPAGE_LEVEL
        self.req_level = PG_LEVEL_4K
        self.goal_level = PG_LEVEL_4K
        self.gfn = Gfn(0)  # as C leaves it where a walk of the guest's tables is to find it
        self.slot: KvmMemorySlot | None = None
        self.mmu_seq: int
        self.pfn: Pfn | None = None
        self.map_writable: bool
        self.write_fault_to_shadow_pgtable = False

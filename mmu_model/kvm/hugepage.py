"""How large a page a fault may be answered with (mmu.c: kvm_mmu_hugepage_adjust and around it)."""

from mmu_model.hardware.types import Pfn
from mmu_model.kvm.fault import KvmPageFault
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import spte_to_child_sp
from mmu_model.kvm.spte import is_nonleaf_spte
from mmu_model.kvm.types import PG_LEVEL_4K, pages_per_hpage
from mmu_model.kvm.vm import Kvm


def host_pfn_mapping_level(kvm: Kvm, slot: KvmMemorySlot, gfn: int) -> int:
    """The size of the page that the host maps the frame with, as a level."""
    return kvm.process.mapping_level(slot.hva(gfn))


def kvm_mmu_max_mapping_level(kvm: Kvm, slot: KvmMemorySlot, gfn: int, max_level: int) -> int:
    """The largest level, up to `max_level`, at which the frame may be mapped now."""
    while max_level > PG_LEVEL_4K and slot.largepage_disallowed(gfn, max_level):
        max_level -= 1
    if max_level == PG_LEVEL_4K:
        return PG_LEVEL_4K
    return min(host_pfn_mapping_level(kvm, slot, gfn), max_level)


def kvm_mmu_hugepage_adjust(kvm: Kvm, fault: KvmPageFault) -> None:
    """Set `req_level`, `goal_level` and round `pfn` down to what will be mapped."""
    fault.huge_page_disallowed = fault.exec and fault.nx_huge_page_workaround_enabled
    slot = fault.slot
    if fault.pfn is None or slot is None or slot.dirty_bitmap is not None:
        return
    fault.req_level = kvm_mmu_max_mapping_level(kvm, slot, fault.gfn, fault.max_level)
    if fault.req_level == PG_LEVEL_4K or fault.huge_page_disallowed:
        return
    fault.goal_level = fault.req_level
    fault.pfn = Pfn(fault.pfn & -pages_per_hpage(fault.goal_level))


def disallowed_hugepage_adjust(kvm: Kvm, fault: KvmPageFault, spte: int, level: int) -> None:
    """Go one level down where a table exists because of the NX mitigation: no large page replaces it."""
    if level == PG_LEVEL_4K or level != fault.goal_level or fault.pfn is None:
        return
    if not is_nonleaf_spte(spte):
        return
    if kvm.kernel.nx_adjusts_any_table or spte_to_child_sp(kvm.host, spte).nx_huge_page_disallowed:
        between = pages_per_hpage(level) - pages_per_hpage(level - 1)
        fault.pfn = Pfn(fault.pfn | fault.gfn & between)
        fault.goal_level -= 1

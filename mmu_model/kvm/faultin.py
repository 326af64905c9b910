"""From a guest frame to a host frame (mmu.c: kvm_faultin_pfn), and whether the answer still holds."""

from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.kvm.fault import RET_PF_CONTINUE, RET_PF_EMULATE, RET_PF_RETRY, KvmPageFault, RetPf
from mmu_model.kvm.guest_memfd import kvm_faultin_pfn_private
from mmu_model.kvm.memslot import KVM_MEM_READONLY, KVM_MEMSLOT_INVALID
from mmu_model.kvm.mmio import vcpu_cache_mmio_info
from mmu_model.kvm.page import root_to_sp
from mmu_model.kvm.task import Steps, finish, might_sleep
from mmu_model.kvm.vcpu import KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, KvmVcpu
from mmu_model.kvm.vm import Kvm


def kvm_faultin_pfn(vcpu: KvmVcpu, fault: KvmPageFault, access: int) -> RetPf:
    """:func:`faultin_pfn` with nobody in between."""
    return finish(faultin_pfn(vcpu, fault, access))


def faultin_pfn(vcpu: KvmVcpu, fault: KvmPageFault, access: int) -> Steps[RetPf]:
    """Set `fault.pfn`: CONTINUE if there is one, or if the spte is to remember that there is none.

    Parameters
    ----------
    vcpu, fault :
        Who faulted, and on what; `gfn` and `slot` are set.
    access :
        ACC_* bits that the guest has there.

    """
    fault.mmu_seq = vcpu.kvm.mmu_invalidate_seq
    yield "looks for the host's frame"
    slot = fault.slot
    private = fault.gfn in vcpu.kvm.private_gfns
    if slot is None and not private:
        return _handle_noslot_fault(vcpu, fault, access)
    if slot is not None and slot.flags & KVM_MEMSLOT_INVALID:
        return RET_PF_RETRY
    if slot is None or private:
        return kvm_faultin_pfn_private(vcpu, fault)
    might_sleep("for the host to find a page")
    mapping = vcpu.kvm.process.fault_in(slot.hva(fault.gfn), write=fault.write)
    if mapping is None:
        raise LookupError(f"the process has nothing mapped for gfn {fault.gfn:#x}: KVM_RUN returns EFAULT")
    if not vcpu.kvm.host.try_get_pfn(mapping.pfn):
        raise LookupError(f"no reference to gfn {fault.gfn:#x} can be had: KVM_RUN returns EFAULT")
    writable = mapping.writable and not slot.flags & KVM_MEM_READONLY
    if fault.write and not writable:
        return RET_PF_EMULATE
    fault.pfn = mapping.pfn
    fault.map_writable = writable
    return RET_PF_CONTINUE


def _handle_noslot_fault(vcpu: KvmVcpu, fault: KvmPageFault, access: int) -> RetPf:
    """Remember the access in the vCPU; whether an spte can remember it too depends on the format."""
    masks = vcpu.kvm.masks
    gva = 0 if fault.is_tdp else fault.addr
    vcpu_cache_mmio_info(vcpu, gva, fault.gfn, access & masks.mmio_access)
    beyond = fault.gfn >= 1 << vcpu.kvm.host.memory.maxphyaddr - PAGE_SHIFT
    return RET_PF_EMULATE if beyond or not masks.mmio_value else RET_PF_CONTINUE


def is_page_fault_stale(vcpu: KvmVcpu, fault: KvmPageFault) -> bool:
    """Whether the root, or the host's mapping, changed since the fault was looked at (mmu.c)."""
    sp = root_to_sp(vcpu.kvm.host, vcpu.mmu.root.hpa)
    if sp is not None and vcpu.kvm.is_obsolete(sp):
        return True
    if sp is None and vcpu.requests & KVM_REQ_MMU_FREE_OBSOLETE_ROOTS:
        return True
    return fault.slot is not None and mmu_invalidate_retry_gfn(vcpu.kvm, fault.mmu_seq)


def mmu_invalidate_retry_gfn(kvm: Kvm, mmu_seq: int) -> bool:
    """Whether a mapping of the host that was looked up at `mmu_seq` may be out of date (kvm_host.h).

    While an invalidation is under way, or if one ended since. All frames are taken to be concerned.
    """
    kvm.mmu_lock.assert_held()
    return bool(kvm.mmu_invalidate_in_progress) or kvm.mmu_invalidate_seq != mmu_seq

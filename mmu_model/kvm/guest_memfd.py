"""Memory of a guest that its process cannot map (6.12: virt/kvm/guest_memfd.c), and which frames have it.

A slot with KVM_MEM_GUEST_MEMFD has two memories: that of the process, and one in a file that nobody maps. Which of the
two a frame has is its attribute. Only software-protected VMs are here, where the attribute alone decides what an access
is to get (mmu.c: kvm_mmu_page_fault).
"""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.fault import RET_PF_CONTINUE, KvmPageFault, RetPf
from mmu_model.kvm.memslot import KVM_LPAGE_MIXED_FLAG, KvmMemorySlot, gfn_to_index
from mmu_model.kvm.notifier import mmu_invalidate_begin, mmu_invalidate_end
from mmu_model.kvm.requests import flush_remote_tlbs
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_2M, PG_LEVEL_4K, pages_per_hpage
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import Kvm


def kvm_faultin_pfn_private(vcpu: KvmVcpu, fault: KvmPageFault) -> RetPf:
    """Set `fault.pfn` to the frame of the file, which has it from the first access on, in pages of 4 KiB.

    Raises
    ------
    LookupError
        The slot has no such file.

    """
    slot = fault.slot
    if slot is None or slot.gmem is None:
        raise LookupError(f"gfn {fault.gfn:#x} has no private memory: KVM_RUN returns EFAULT")
    offset = fault.gfn - slot.base_gfn
    if offset not in slot.gmem:
        slot.gmem[offset] = vcpu.kvm.host.alloc_user_frames(1, 1)
    fault.pfn = slot.gmem[offset]
    fault.map_writable = True
    fault.max_level = PG_LEVEL_4K
    return RET_PF_CONTINUE


def set_memory_attributes(kvm: Kvm, start: Gfn, npages: int, *, private: bool) -> None:
    """KVM_SET_MEMORY_ATTRIBUTES: from now on these frames have the one memory or the other.

    Raises
    ------
    KvmError
        The VM has no private memory.

    """
    if not kvm.parameters.private_memory:
        raise KvmError("the VM has no private memory: its frames have no attributes")
    finish(kvm_vm_set_mem_attributes(kvm, start, Gfn(start + npages), private=private))


def kvm_vm_set_mem_attributes(kvm: Kvm, start: Gfn, end: Gfn, *, private: bool) -> Steps[None]:
    """What maps the frames goes before the attribute changes; faults meanwhile are tried again (kvm_main.c)."""
    yield from kvm.slots_lock.wait()
    with kvm.slots_lock:
        slots = [slot for slot in kvm.memslots[0] if slot.base_gfn < end and start < slot.end_gfn]
        yield from kvm.mmu_lock.write.wait()
        with kvm.mmu_lock.write:
            mmu_invalidate_begin(kvm)
            for slot in slots:
                yield from kvm.tdp.kvm_tdp_mmu_unmap_gfn_range(kvm, slot, start, end)
            yield from flush_remote_tlbs(kvm)
        gfns = range(start, end)
        if private:
            kvm.private_gfns.update(gfns)
        else:
            kvm.private_gfns.difference_update(gfns)
        yield from kvm.mmu_lock.write.wait()
        with kvm.mmu_lock.write:
            for slot in slots:
                _note_mixed(kvm, slot, start, end)
            mmu_invalidate_end(kvm)


def _note_mixed(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> None:
    """No large page may have frames of both kinds (mmu.c: kvm_arch_post_set_memory_attributes)."""
    for level in range(PG_LEVEL_2M, KVM_MAX_HUGEPAGE_LEVEL + 1):
        size, counts = pages_per_hpage(level), slot.disallow_lpage[level - 2]
        for first in range(start & -size, end, size):
            if first < slot.base_gfn or first + size > slot.end_gfn:
                continue  # too large for the slot anyway
            index = gfn_to_index(first, slot.base_gfn, level)
            kinds = {gfn in kvm.private_gfns for gfn in range(first, first + size)}
            flag = KVM_LPAGE_MIXED_FLAG if len(kinds) == 2 else 0
            counts[index] = counts.get(index, 0) & ~KVM_LPAGE_MIXED_FLAG | flag

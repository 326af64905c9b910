"""Instructions that the processor is to try again, rather than that KVM emulates them (x86.c, mmu.c).

A write that KVM wants to see is emulated. Where that cannot be done, or the instruction is none that edits page
tables, the frame is most likely no table any more: what shadows it is zapped, and the guest goes on by itself.
"""

from dataclasses import dataclass

from mmu_model.hardware.faults import PageFault
from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.kvm.fault import PFERR_USER_MASK, PFERR_WRITE_MASK
from mmu_model.kvm.guest_memory import GuestMemory, is_visible
from mmu_model.kvm.guest_walk import walk_addr
from mmu_model.kvm.vcpu import KvmVcpu


@dataclass(slots=True)
class EmulationType:
    """What a fault tells the emulator: EMULTYPE_* and the address.

    Attributes
    ----------
    address :
        Where the fault was, `cr2_or_gpa`.
    user :
        Whether it was an access of user code.
    allow_retry_pf :
        The instruction may be tried again (EMULTYPE_ALLOW_RETRY_PF).
    write_pf_to_sp :
        It writes to a table that translates its own address: without the shadow page it faults again, and again
        (EMULTYPE_WRITE_PF_TO_SP).

    """

    address: int = 0
    user: bool = False
    allow_retry_pf: bool = False
    write_pf_to_sp: bool = False


def retries_instead(vcpu: KvmVcpu, emulation: EmulationType) -> bool:
    """An instruction that edits no page tables is about to be emulated: whether the guest shall execute it.

    6.12: `kvm_mmu_unprotect_gfn_and_retry`; 6.1: `retry_instruction`, which also does so if nothing was zapped.
    """
    if vcpu.kvm.kernel.retries_what_was_unprotected:
        return emulation.allow_retry_pf and unprotect_gfn_and_retry(vcpu, emulation, always=False)
    if not emulation.allow_retry_pf or was_retried(vcpu, emulation.address):
        return False
    unprotect_gfn_and_retry(vcpu, emulation, always=True)
    return True


def retries_after_failure(vcpu: KvmVcpu, emulation: EmulationType) -> bool:
    """KVM cannot emulate an instruction: whether the guest shall execute it, now that nothing shadows the frame.

    Retrying is of no use if the zapped page has to be made again for the very access.
    6.12: `kvm_unprotect_and_retry_on_failure`; 6.1: `reexecute_instruction`.
    """
    if not emulation.allow_retry_pf:
        return False
    if vcpu.kvm.kernel.retries_what_was_unprotected:
        if emulation.write_pf_to_sp:
            return False
        unprotect_gfn_and_retry(vcpu, emulation, always=True)
        return True
    gfn = gfn_of(vcpu, emulation)
    if gfn is None:
        return True  # the guest gets its fault
    if not (is_visible(vcpu.memslots.find(gfn)) and GuestMemory(vcpu.kvm, vcpu.memslots).is_writable(gfn)):
        return False
    unprotect(vcpu, gfn)
    return not emulation.write_pf_to_sp


def unprotect_gfn_and_retry(vcpu: KvmVcpu, emulation: EmulationType, *, always: bool) -> bool:
    """Zap what shadows the frame that was written to; whether there was anything.

    If so, or `always`, it is noted that the instruction is tried again for it, so that that happens once only.
    """
    gfn = gfn_of(vcpu, emulation) if vcpu.kvm.indirect_shadow_pages else None
    found = gfn is not None and unprotect(vcpu, gfn)
    if found or always:
        vcpu.last_retry_rip, vcpu.last_retry_addr = vcpu.rip, emulation.address
    return found


def unprotect(vcpu: KvmVcpu, gfn: int) -> bool:
    """Zap every page that shadows a table there; whether there was one."""
    with vcpu.kvm.mmu_lock.write:
        return vcpu.kvm.shadow.unprotect_gfn(vcpu.kvm, gfn)


def gfn_of(vcpu: KvmVcpu, emulation: EmulationType) -> int | None:
    """The guest's frame that the fault was about; None if the guest does not permit to write there any more."""
    if vcpu.mmu.root_role.direct:
        return emulation.address >> PAGE_SHIFT
    memory = GuestMemory(vcpu.kvm, vcpu.memslots)
    write = vcpu.mmu.access_of(PFERR_WRITE_MASK | (PFERR_USER_MASK if emulation.user else 0))
    try:
        return walk_addr(memory, vcpu.mmu.guest_paging, write, emulation.address).gfn
    except PageFault:
        return None


def was_retried(vcpu: KvmVcpu, address: int) -> bool:
    """Whether this very instruction was let try again for this very address.

    The kernel forgets that in time, for an instruction may be executed twice; here each has a number of its own.
    """
    return (vcpu.rip, address) == (vcpu.last_retry_rip, vcpu.last_retry_addr)

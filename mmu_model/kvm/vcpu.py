"""`struct kvm_vcpu`: a virtual processor, as far as the MMUs know it."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING, Final, NewType

from mmu_model.hardware.faults import Fault
from mmu_model.hardware.linear import Pdptes
from mmu_model.hardware.pml import PageModificationLog
from mmu_model.hardware.registers import Registers
from mmu_model.hardware.types import Gfn
from mmu_model.kvm.memslot import KvmMemslots
from mmu_model.kvm.mmu import KvmMmu

if TYPE_CHECKING:
    from mmu_model.kvm.vm import Kvm


Request = NewType("Request", int)
"""KVM_REQ_*: what a vCPU has to do before it enters the guest again, as the bit of `vcpu->requests` (kvm_host.h)."""

KVM_REQ_TLB_FLUSH: Final = Request(1 << 0)
KVM_REQ_TRIPLE_FAULT: Final = Request(1 << 10)
KVM_REQ_MMU_SYNC: Final = Request(1 << 11)
KVM_REQ_LOAD_MMU_PGD: Final = Request(1 << 13)
KVM_REQ_TLB_FLUSH_CURRENT: Final = Request(1 << 34)
KVM_REQ_TLB_FLUSH_GUEST: Final = Request(1 << 35)
KVM_REQ_MMU_FREE_OBSOLETE_ROOTS: Final = Request(1 << 39)


class VcpuMode(Enum):
    """`vcpu->mode`: whether the vCPU has to be interrupted to be reached.

    READING_SHADOW_PAGE_TABLES: it walks sptes of the shadow MMU without a lock and takes no interrupts.
    """

    OUTSIDE_GUEST_MODE = 0
    IN_GUEST_MODE = 1
    EXITING_GUEST_MODE = 2
    READING_SHADOW_PAGE_TABLES = 3


class MmioCache:
    """`vcpu->arch.mmio_*`: the last access that turned out to have no memory behind it.

    Attributes
    ----------
    gva, access, gfn, generation :
        The page of the access (0 where only its gpa is known), its ACC_* bits, its frame, and the generation
        of the memslots then.

    """

    def __init__(self) -> None:
        self.gva = 0
        self.access = 0
        self.gfn = Gfn(0)
        self.generation = 0


class KvmVcpu:
    """A virtual processor.

    Attributes
    ----------
    registers :
        The guest's, as the guest sees them.
    l1_registers :
        While the vCPU runs the guest of a guest: the outer guest's.
    pdptes :
        The PDPTEs of a guest with PAE paging, as they were when CR3 was loaded; None where the processor
        reads them from memory.
    root_mmu, guest_mmu, nested_mmu, mmu :
        The MMU of the vCPU's own memory; the one that shadows the nested tables of its guest; the paging of
        that guest, which the processor does by itself; the one of the first two that is in use.
    last_vpid :
        The VPID that a hypervisor on Intel's processors gave to its guest when it entered it last.
    requests :
        What is left to do before the guest runs again: bits KVM_REQ_*.
    mode, kicked :
        Where the vCPU is; an interrupt is on its way that is to bring it out of there.
    pml :
        What the processor logged of the guest's writes since it was last outside; None without such a log.
    rip :
        Which instruction it executes: they are counted, from 1, for the model has no code.
    last_retry_rip, last_retry_addr :
        The last one that KVM let the processor try again, and the address that it had faulted on; 0 for none.
    exit :
        Why the processor left the guest for KVM, as far as KVM looks it up later.
    exit_qualification :
        That of the last EPT violation.
    exception :
        The fault that the guest is to get, or the exit that its hypervisor gets.
    stat :
        Counters, `vcpu->stat`.

    """

    def __init__(self, kvm: Kvm, registers: Registers) -> None:
        self.kvm = kvm
        self.registers = registers
        self.l1_registers: Registers | None = None
        self.pdptes: Pdptes | None = None
        self.smm = False
        self.guest_mode = False
        self.root_mmu = KvmMmu()
        self.guest_mmu = KvmMmu()
        self.nested_mmu = KvmMmu()
        self.mmu = self.root_mmu
        self.last_vpid = 0
        self.requests = 0
        self.mode = VcpuMode.OUTSIDE_GUEST_MODE
        self.kicked = False
        self.pml = PageModificationLog() if kvm.parameters.pml else None
        self.rip = 1
        self.last_retry_rip = 0
        self.last_retry_addr = 0
        self.exit: Fault | None = None
        self.exit_qualification = 0
        self.exception: Fault | None = None
        self.mmio = MmioCache()
        self.stat: Counter[str] = Counter()

    @property
    def memslots(self) -> KvmMemslots:
        """Those of the vCPU's address space: SMM has its own (`kvm_vcpu_memslots`)."""
        return self.kvm.memslots[int(self.smm)]

    @property
    def is_nested_mmu(self) -> bool:
        """Whether the guest of a guest runs over nested tables that its hypervisor made (`mmu_is_nested`)."""
        return self.mmu is self.guest_mmu

    @property
    def walk_mmu(self) -> KvmMmu:
        """The MMU of the paging that the registers select, whoever translates what that gives."""
        return self.nested_mmu if self.is_nested_mmu else self.root_mmu

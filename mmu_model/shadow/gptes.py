"""The guest's level-1 entries that a shadow page stands for (paging_tmpl.h)."""

from mmu_model.hardware.paging import Step
from mmu_model.hardware.types import PAGE_SHIFT, Gfn
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.kvm.guest_walk import clean_gpte_access, gpte_access, is_malformed
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.types import SPTE_LEVEL_BITS
from mmu_model.kvm.vcpu import KvmVcpu


class Gptes:
    """The gptes behind the sptes of a level-1 page, for a vCPU in the mode that the page is for."""

    def __init__(self, vcpu: KvmVcpu, sp: KvmMmuPage) -> None:
        self._paging = vcpu.mmu.guest_paging
        step = self._paging.steps[-1]
        self._memory = GuestMemory(vcpu.kvm, vcpu.memslots)
        self._size = step.entry_size
        self._step: Step = step
        self._access = sp.role.access
        first = sp.role.quadrant << SPTE_LEVEL_BITS if self._size == 4 else 0
        self._base = (sp.gfn << PAGE_SHIFT) + first * self._size

    def read(self, index: int) -> int:
        """The gpte behind `spt[index]`; LookupError if the host does not have the table in memory.

        Who holds mmu_lock cannot wait for the host to find it (kvm_vcpu_read_guest_atomic).
        """
        return self._memory.read_atomic(self._base + index * self._size, self._size)

    def is_unusable(self, gpte: int) -> bool:
        """Whether no spte may stand for it: absent, never accessed, malformed (prefetch_invalid_gpte)."""
        step = self._step
        if not gpte & step.present or (step.accessed and not gpte & step.accessed):
            return True
        return is_malformed(step.page, gpte)

    def gfn(self, gpte: int) -> Gfn:
        """The frame that it maps."""
        return Gfn((gpte & self._step.page.address) >> PAGE_SHIFT)

    def access(self, gpte: int) -> int:
        """ACC_* bits that it grants together with the levels above; no W while it is clean."""
        return self._access & gpte_access(self._paging, gpte) & clean_gpte_access(self._step, gpte)

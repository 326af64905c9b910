"""The memory-management unit: translation through the caches, and by walks where they know nothing."""

from typing import Final

from mmu_model.hardware.access import Access
from mmu_model.hardware.ept import EPT_DIRTY
from mmu_model.hardware.faults import EptViolation, NestedPageFault, PageFault
from mmu_model.hardware.linear import Pdptes
from mmu_model.hardware.memory import PhysicalMemory
from mmu_model.hardware.nested import NO_EP4TA, PAGE_ACCESS, GuestPhysicalAccess, GuestTables, SecondDimension
from mmu_model.hardware.paging import GLOBAL, Translation
from mmu_model.hardware.pdptes import load_paging
from mmu_model.hardware.pml import LoggedTables
from mmu_model.hardware.registers import CR4_PGE, Registers
from mmu_model.hardware.tlb import Cached, Selection, Tag, TranslationCache, usable
from mmu_model.hardware.types import Hpa
from mmu_model.hardware.walk import walk

HOST: Final = 0
"""The VPID or ASID of the host, and of a guest that has none."""


class Mmu:
    """Translates by the registers that are in use, for the host or for a guest.

    Attributes
    ----------
    memory :
        The host's.
    registers, second_dimension, vpid :
        What is in use: the host's registers alone, or a guest's, its NPT or EPT, and its VPID or ASID.
    tlb :
        Translations of linear addresses, a guest's together with the second dimension.
    nested_tlb :
        Translations of guest-physical addresses.

    """

    def __init__(self, memory: PhysicalMemory, registers: Registers) -> None:
        self.memory = memory
        self.tlb = TranslationCache()
        self.nested_tlb = TranslationCache()
        self._use(registers, None, HOST)

    def _use(
        self,
        registers: Registers,
        second_dimension: SecondDimension | None,
        vpid: int,
        loaded: Pdptes | None = None,
    ) -> None:
        """Change what is in use; if the PDPTEs are to be loaded and that faults, nothing has changed."""
        self._paging = load_paging(self.memory, registers, second_dimension, loaded)
        self.registers, self.second_dimension, self.vpid = registers, second_dimension, vpid
        ep4ta = second_dimension.ep4ta if second_dimension else NO_EP4TA
        self._tag = Tag(vpid, registers.pcid, ep4ta)
        self._nested_tag = Tag(vpid if ep4ta == NO_EP4TA else HOST, 0, ep4ta)

    def translate(self, address: int, how: Access) -> Hpa:
        """The host-physical address of a linear one, for an access; raises the Fault that prevents it.

        A fault makes the processor forget what it used for the address (SDM vol. 3, 4.10.4.1 and 29.4.3.1).
        """
        try:
            return Hpa(self._look_up(address, how))
        except (PageFault, NestedPageFault, EptViolation) as fault:
            tag = self._tag
            self.tlb.invalidate_address(Selection(tag.vpid, tag.pcid, tag.root), address, all_tables=False)
            if not isinstance(fault, PageFault):
                selection = Selection(self._nested_tag.vpid, root=self._nested_tag.root)
                self.nested_tlb.invalidate_address(selection, fault.gpa, all_tables=False)
            raise

    def _look_up(self, address: int, how: Access) -> int:
        """By the TLB if it has a usable entry, else by a walk, which the TLB then remembers."""
        cached = self.tlb.find(self._tag, address)
        if cached and self._serves(cached, address, how):
            return cached.last.at(cached.guest.at(address))
        guest, host = self._walk(address, how)
        if self._paging.steps or host:
            is_global = bool(guest.entry & GLOBAL and self.registers.cr4 & CR4_PGE)
            self.tlb.insert(self._tag, address, Cached(guest, host), is_global=is_global)
        return (host or guest).address

    def _serves(self, cached: Cached, address: int, how: Access) -> bool:
        if not usable(cached.guest, self._paging, how, address):
            return False
        if not self.second_dimension or not cached.host:
            return True
        gpa = cached.guest.at(address)
        return usable(cached.host, self.second_dimension, PAGE_ACCESS[how.kind], gpa)

    def _walk(self, address: int, how: Access) -> tuple[Translation, Translation | None]:
        tables = self.tlb.tables(self._tag)
        if not self.second_dimension:
            return walk(self.memory, self._paging, how, address, tables), None
        words = GuestTables(self.memory, self.second_dimension, translate=self._translate_guest_physical)
        guest = walk(words, self._paging, how, address, tables)
        return guest, self._translate_guest_physical(PAGE_ACCESS[how.kind], guest.address)

    def _translate_guest_physical(self, how: GuestPhysicalAccess, address: int) -> Translation:
        assert self.second_dimension, "only a guest has guest-physical addresses"
        cached = self.nested_tlb.find(self._nested_tag, address)
        if cached and usable(cached.guest, self.second_dimension, how, address):
            return cached.guest._replace(address=cached.guest.at(address))
        tables = self.nested_tlb.tables(self._nested_tag)
        log, memory = self.second_dimension.log, self.memory
        words = memory if log is None else LoggedTables(memory, log, EPT_DIRTY, address)
        found = walk(words, self.second_dimension, how, address, tables)
        self.nested_tlb.insert(self._nested_tag, address, Cached(found, None))
        return found

"""A logical processor: the instructions that access memory, change what governs translation, or invalidate."""

from dataclasses import replace
from enum import Enum

from mmu_model.hardware import control
from mmu_model.hardware.access import Kind, access
from mmu_model.hardware.ept import EPTP_ROOT
from mmu_model.hardware.faults import GeneralProtection
from mmu_model.hardware.linear import Pdptes
from mmu_model.hardware.memory import PhysicalMemory
from mmu_model.hardware.mmu import HOST, Mmu
from mmu_model.hardware.nested import NO_EP4TA, SecondDimension
from mmu_model.hardware.registers import CR4_PCIDE, Registers
from mmu_model.hardware.tlb import Selection


class Invpcid(Enum):
    """The types of INVPCID."""

    ADDRESS = 0
    PCID = 1
    ALL = 2
    ALL_KEEP_GLOBAL = 3

    @property
    def names_pcid(self) -> bool:
        """Whether it is about one PCID."""
        return self in (Invpcid.ADDRESS, Invpcid.PCID)


class Invvpid(Enum):
    """The types of INVVPID."""

    ADDRESS = 0
    VPID = 1
    ALL = 2
    VPID_KEEP_GLOBAL = 3


class LogicalProcessor(Mmu):
    """Runs on host-physical memory, or as a guest on what NPT or EPT make of it.

    Parameters
    ----------
    memory :
        The host's.
    registers :
        The host's; paging is off at first.

    """

    def __init__(self, memory: PhysicalMemory, registers: Registers | None = None) -> None:
        super().__init__(memory, registers or Registers(maxphyaddr=memory.maxphyaddr))
        self._host_registers = self.registers

    # Accesses

    def read(self, address: int, size: int = 8, *, cpl: int = 0) -> int:
        """Read 4 or 8 aligned bytes at a linear address; raises the Fault that prevents it."""
        return self.memory.read(self.translate(address, access(Kind.READ, user=cpl == 3)), size)

    def fetch(self, address: int, size: int = 8, *, cpl: int = 0) -> int:
        """Read 4 or 8 aligned bytes of code; raises the Fault that prevents it."""
        return self.memory.read(self.translate(address, access(Kind.FETCH, user=cpl == 3)), size)

    def write(self, address: int, value: int, size: int = 8, *, cpl: int = 0) -> None:
        """Write 4 or 8 aligned bytes at a linear address; raises the Fault that prevents it."""
        self.memory.write(self.translate(address, access(Kind.WRITE, user=cpl == 3)), value, size)

    # Registers

    def mov_cr0(self, value: int) -> None:
        """Load CR0; #GP for what the processor refuses."""
        self._apply(control.mov_cr0(self.registers, value))

    def mov_cr3(self, value: int) -> None:
        """Load CR3, and with PAE paging the PDPTE registers; #GP for what the processor refuses."""
        self._apply(control.mov_cr3(self.registers, value))

    def mov_cr4(self, value: int) -> None:
        """Load CR4; #GP for what the processor refuses."""
        self._apply(control.mov_cr4(self.registers, value))

    def wrmsr_efer(self, value: int) -> None:
        """Load EFER; #GP for what the processor refuses."""
        self._apply(control.wrmsr_efer(self.registers, value))

    def set_rights(self, *, pkru: int | None = None, pkrs: int | None = None, ac: bool | None = None) -> None:
        """WRPKRU, WRMSR IA32_PKRS, STAC and CLAC: they take effect at once and invalidate nothing."""
        old = self.registers
        changed = replace(
            old,
            pkru=old.pkru if pkru is None else pkru,
            pkrs=old.pkrs if pkrs is None else pkrs,
            ac=old.ac if ac is None else ac,
        )
        self._apply(control.Change(changed, None, False))

    def _apply(self, change: control.Change) -> None:
        loaded = None if change.loads_pdptes else self._paging.pdptes
        self._use(change.registers, self.second_dimension, self.vpid, loaded)
        if change.forgets:
            self.tlb.invalidate(change.forgets._replace(vpid=self.vpid))

    # Guests

    def enter_guest(
        self,
        registers: Registers,
        second_dimension: SecondDimension | None,
        vpid: int = HOST,
        pdptes: Pdptes | None = None,
    ) -> None:
        """VMRUN or VM entry: from now on run with the guest's registers, over NPT or EPT if any.

        The paging mode and CR3 change together, before anything is translated.

        Parameters
        ----------
        registers, second_dimension :
            Of the guest. Without a second dimension its CR3 is a host-physical address, as in processors
            that have none.
        vpid :
            Its VPID or ASID. Left out, there is none: entry and exit forget the translations of linear
            addresses of host and guests, and under NPT those of guest-physical addresses (SDM vol. 3,
            29.4.3.1; as VMRUN does with a TLB_CONTROL of 1).
        pdptes :
            The PDPTE registers for a guest with PAE paging under EPT, as VM entry takes them from the VMCS
            (27.3.2.4). Left out, they are loaded from memory.

        Raises
        ------
        Fault
            With PAE paging: the PDPTEs cannot be loaded. The processor then is as it was before.

        """
        host_registers = self.registers
        self._use(registers, second_dimension, vpid, pdptes)
        self._host_registers = host_registers
        self._forget_without_vpid()

    def exit_guest(self) -> Registers:
        """#VMEXIT or VM exit: back to the host's registers; returns the guest's."""
        registers = self.registers
        self._forget_without_vpid()
        self._use(self._host_registers, None, HOST)
        return registers

    def _forget_without_vpid(self) -> None:
        if self.vpid == HOST:
            self.tlb.invalidate(Selection(vpid=HOST))
            self.nested_tlb.invalidate(Selection(vpid=HOST, root=NO_EP4TA))

    # Invalidations (SDM vol. 3, 4.10.4.1 and 29.4.3.3; APM vol. 2, 5.5.3 and 15.16)

    def invlpg(self, address: int) -> None:
        """Forget the page at a linear address, global or not, and the tables, of the current PCID."""
        self.tlb.invalidate_address(Selection(self.vpid, self.registers.pcid), address)

    def invpcid(self, what: Invpcid, pcid: int = 0, address: int = 0) -> None:
        """Forget by PCID.

        Raises
        ------
        GeneralProtection
            A PCID above 4095, or other than 0 while CR4.PCIDE is 0; an address that is not canonical.

        """
        if pcid >> 12 or (what.names_pcid and pcid and not self.registers.cr4 & CR4_PCIDE):
            raise GeneralProtection(f"INVPCID of PCID {pcid:#x}")
        if what is Invpcid.ADDRESS:
            if address >> self._paging.top_shift not in self._paging.tops:
                raise GeneralProtection(f"INVPCID of {address:#x}, which is not canonical")
            self.tlb.invalidate_address(Selection(self.vpid, pcid, keep_global=True), address)
        else:
            keep_global = what is not Invpcid.ALL
            whose = pcid if what.names_pcid else None
            self.tlb.invalidate(Selection(self.vpid, whose, keep_global=keep_global))

    def invvpid(self, what: Invvpid, vpid: int = 0, address: int = 0) -> None:
        """Forget translations of linear addresses by VPID, of all PCIDs.

        Raises
        ------
        ValueError
            VPID 0, the host's; the instruction fails with it.

        """
        if what is Invvpid.ALL:
            for other in self.tlb.vpids() - {HOST}:
                self.tlb.invalidate(Selection(other))
            return
        if vpid == HOST:
            raise ValueError("INVVPID of VPID 0, the host's")
        if what is Invvpid.ADDRESS:
            self.tlb.invalidate_address(Selection(vpid), address)
        else:
            self.tlb.invalidate(Selection(vpid, keep_global=what is Invvpid.VPID_KEEP_GLOBAL))

    def invept(self, eptp: int | None = None) -> None:
        """Forget what was translated with the EPT of that pointer, or, left out, with any (all-context)."""
        if eptp is None:
            roots = {root for root in self.tlb.roots() | self.nested_tlb.roots() if root != NO_EP4TA}
        else:
            roots = {eptp & EPTP_ROOT}
        for root in roots:
            self.tlb.invalidate(Selection(root=root))
            self.nested_tlb.invalidate(Selection(root=root))

    def invlpga(self, address: int, asid: int) -> None:
        """Forget the page at a linear address of an ASID, global or not."""
        self.tlb.invalidate_address(Selection(asid), address)

    def flush_asid(self, asid: int | None = None, *, keep_global: bool = False) -> None:
        """What TLB_CONTROL asks of VMRUN: forget one ASID's translations, or, left out, everything."""
        self.tlb.invalidate(Selection(asid, keep_global=keep_global))
        self.nested_tlb.invalidate(Selection(asid, root=None if asid is None else NO_EP4TA))

"""The PDPTE registers of PAE paging (SDM vol. 3, 4.4.1)."""

from mmu_model.hardware.faults import GeneralProtection
from mmu_model.hardware.formats import mask
from mmu_model.hardware.linear import LinearPaging, Pdptes
from mmu_model.hardware.nested import PDPTE_READ, GuestTables, SecondDimension
from mmu_model.hardware.registers import Mode, Registers
from mmu_model.hardware.walk import Words


def load_pdptes(memory: Words, registers: Registers) -> Pdptes:
    """What MOV CR3 loads: the four entries at CR3, checked before any of them takes effect.

    Raises
    ------
    GeneralProtection
        A reserved bit is 1 in an entry that is present.

    """
    base = registers.cr3 & 0xFFFF_FFE0
    first, second, third, fourth = (memory.read(base + 8 * n, 8) for n in range(4))
    check_pdptes((first, second, third, fourth), registers.maxphyaddr)
    return first, second, third, fourth


def check_pdptes(pdptes: Pdptes, maxphyaddr: int) -> None:
    """Raise GeneralProtection if a reserved bit is 1 in an entry that is present."""
    reserved = mask("PAE PDPTE", "reserved", maxphyaddr)
    for number, entry in enumerate(pdptes):
        if entry & 1 and entry & reserved:
            raise GeneralProtection(
                f"PDPTE{number} is {entry:#x}: reserved bits {entry & reserved:#x} are set"
            )


def load_paging(
    memory: Words,
    registers: Registers,
    host: SecondDimension | None = None,
    loaded: Pdptes | None = None,
) -> LinearPaging:
    """What MOV CR3 sets up: paging by these registers, with the PDPTE registers where there are any.

    Under EPT the PDPTEs are read like any guest-physical memory: as reads, and even if accessed and dirty
    flags for EPT are on (SDM vol. 3, 29.3.5). Under NPT nothing is loaded (APM vol. 2, 15.25.10).

    Parameters
    ----------
    memory, registers, host :
        Host-physical memory, the registers as they will be, and a guest's second dimension.
    loaded :
        The PDPTE registers as they are, for a change of registers that does not load them.

    Raises
    ------
    GeneralProtection
        A PDPTE has reserved bits set.
    EptViolation, EptMisconfiguration
        The PDPTEs of the guest cannot be read.

    """
    if registers.mode is not Mode.PAE or (host and not host.pdpte_registers):
        return LinearPaging(registers)
    tables = GuestTables(memory, host, PDPTE_READ) if host else memory
    return LinearPaging(registers, loaded or load_pdptes(tables, registers))

"""The PDPTE registers of PAE paging (SDM vol. 3, 4.4.1)."""

from mmu_model.hardware.faults import GeneralProtection
from mmu_model.hardware.formats import mask
from mmu_model.hardware.registers import Registers
from mmu_model.hardware.walk import Words

Pdptes = tuple[int, int, int, int]


def load_pdptes(memory: Words, registers: Registers) -> Pdptes:
    """What MOV CR3 loads: the four entries at CR3, checked before any of them takes effect.

    Raises
    ------
    GeneralProtection
        A reserved bit is 1 in an entry that is present.

    """
    base = registers.cr3 & 0xFFFF_FFE0
    reserved = mask("PAE PDPTE", "reserved", registers.maxphyaddr)
    first, second, third, fourth = (memory.read(base + 8 * n) for n in range(4))
    for number, entry in enumerate((first, second, third, fourth)):
        if entry & 1 and entry & reserved:
            raise GeneralProtection(
                f"PDPTE{number} is {entry:#x}: reserved bits {entry & reserved:#x} are set"
            )
    return first, second, third, fourth

"""A logical processor: registers, and the accesses to memory that a program makes through them."""

from mmu_model.hardware.access import Access, Kind, access
from mmu_model.hardware.memory import PhysicalMemory
from mmu_model.hardware.nested import SecondDimension, walk_nested
from mmu_model.hardware.pdptes import load_paging
from mmu_model.hardware.registers import Registers
from mmu_model.hardware.types import Hpa, Va
from mmu_model.hardware.walk import walk


class LogicalProcessor:
    """Runs on host-physical memory, or as a guest on what NPT or EPT make of it.

    Parameters
    ----------
    memory :
        The host's.
    registers :
        The host's; paging is off at first.

    """

    def __init__(self, memory: PhysicalMemory, registers: Registers | None = None) -> None:
        self.memory = memory
        self.second_dimension: SecondDimension | None = None
        self._load(registers or Registers(maxphyaddr=memory.maxphyaddr))
        self._host_registers = self.registers

    def enter_guest(self, registers: Registers, second_dimension: SecondDimension) -> None:
        """VMRUN or VM entry: from now on run with the guest's registers, over NPT or EPT.

        Raises
        ------
        GeneralProtection
            PAE paging without nested paging: a PDPTE has reserved bits set.

        """
        self._host_registers = self.registers
        self.second_dimension = second_dimension
        self._load(registers)

    def exit_guest(self) -> None:
        """#VMEXIT or VM exit: back to the host's registers."""
        self.second_dimension = None
        self._load(self._host_registers)

    def read(self, address: int, size: int = 8, *, cpl: int = 0) -> int:
        """Read 4 or 8 aligned bytes at a linear address; raises the Fault that prevents it."""
        return self.memory.read(self.translate(address, access(Kind.READ, user=cpl == 3)), size)

    def fetch(self, address: int, size: int = 8, *, cpl: int = 0) -> int:
        """Read 4 or 8 aligned bytes of code; raises the Fault that prevents it."""
        return self.memory.read(self.translate(address, access(Kind.FETCH, user=cpl == 3)), size)

    def write(self, address: int, value: int, size: int = 8, *, cpl: int = 0) -> None:
        """Write 4 or 8 aligned bytes at a linear address; raises the Fault that prevents it."""
        self.memory.write(self.translate(address, access(Kind.WRITE, user=cpl == 3)), value, size)

    def translate(self, address: int, how: Access) -> Hpa:
        """The host-physical address of a linear one, for an access; raises the Fault that prevents it."""
        if self.second_dimension is None:
            return Hpa(walk(self.memory, self._paging, how, Va(address)).address)
        pair = walk_nested(self.memory, self._paging, self.second_dimension, how, Va(address))
        return Hpa(pair.host.address)

    def _load(self, registers: Registers) -> None:
        self._paging = load_paging(self.memory, registers, self.second_dimension)
        self.registers = registers

"""An x86 MMU as the programs that run on it see it: the processor's own, or the one that KVM presents."""

from typing import Final

from conformance.scenes import GIB, MIB, STUCK
from mmu_model.hardware import GeneralProtection, Kind, LogicalProcessor, PageFault, PhysicalMemory, Registers
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.snapshot import MmuKind

MAXPHYADDR: Final = 40
"""Physical-address bits of all of them: those that the emulator has, too."""

MEMORY: Final = {0: 64 * MIB, GIB: 16 * MIB, 4 * GIB: 16 * MIB}
"""What memory there is: size by physical address."""


class Computer:
    """Memory and one processor.

    Parameters
    ----------
    kernel, mmu :
        Whose KVM it is, and which MMU of it; without an MMU it is a processor with no KVM between.

    """

    def __init__(self, kernel: str, mmu: MmuKind | None) -> None:
        self._vm: VirtualMachine | None = None
        self.memory: PhysicalMemory | GuestMemory = PhysicalMemory(MAXPHYADDR)
        self._cpu: Cpu | None = None
        self.cpu: LogicalProcessor | Cpu
        if mmu is not None:
            self._vm = VirtualMachine(kernel, mmu, maxphyaddr=MAXPHYADDR)
            self.memory = self._vm.memory
            for address, size in MEMORY.items():
                self._vm.add_memory(address, size)

    def start(self, registers: Registers) -> None:
        """Run with these registers, all translations forgotten; the tables they lead to are in memory by now."""
        if self._vm is None:
            assert isinstance(self.memory, PhysicalMemory)
            self.cpu = LogicalProcessor(self.memory, registers)
        elif self._cpu is None:
            self.cpu = self._cpu = self._vm.add_cpu(registers)
        else:
            self._cpu.set_registers(registers)

    def access(
        self, kind: Kind, address: int, *, user: bool = False, value: int = 0, size: int = 8
    ) -> int | str:
        """What an access comes to: what was read, or what was written, or the fault by name and code."""
        cpl = 3 if user else 0
        try:
            if kind is Kind.WRITE:
                self.cpu.write(address, value, size, cpl=cpl)
                return value
            return (self.cpu.fetch if kind is Kind.FETCH else self.cpu.read)(address, size, cpl=cpl)
        except PageFault as fault:
            where = "" if fault.cr2 == address else f" at {fault.cr2:#x}"
            return f"#PF {fault.error_code:#x}{where}"
        except GeneralProtection:
            return "#GP"
        except KvmBug:
            return STUCK

"""The VM of a scenario on the model, made by the same calls as the real one (kvm_live/guest/vmm.c)."""

from typing import Final

from mmu_model.hardware.registers import Registers
from mmu_model.hardware.types import PAGE_SHIFT, PAGE_SIZE, Hpa, Pfn
from mmu_model.kvm.types import PG_LEVEL_2M, Hva
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.scenario import Program, Scenario
from mmu_model.scenario.layout import MACHINE_SIZE
from mmu_model.snapshot import MmuKind

HOST_MAXPHYADDR: Final = 40
"""Physical-address bits of the processor that the recordings were made on."""

JUMP_RBP: Final = 0xE5FF_E5FF_E5FF_E5FF
"""What the memory is full of: a jump that brings the interpreter back from wherever it fetches."""


def build_machine(scenario: Scenario, program: Program, kernel: str, mmu: MmuKind) -> VirtualMachine:
    """The VM on its host, without memory and vCPU."""
    return VirtualMachine(
        kernel,
        mmu,
        maxphyaddr=HOST_MAXPHYADDR,
        max_tdp_level=5 if scenario.host.five_level else 4,
        nx_huge_pages=program.nx_huge_pages,
    )


def map_memory(vm: VirtualMachine, program: Program) -> Hva:
    """The memory behind the VM, large pages where they are wanted; where the process has it."""
    base = vm.process.mmap(program.backing >> PAGE_SHIFT)
    for place, size in program.large:
        vm.process.madvise_hugepage(Hva(base + place), size >> PAGE_SHIFT, PG_LEVEL_2M)
    memory = vm.host.memory
    first = _hpa(vm, base)
    for place in range(MACHINE_SIZE, program.backing, PAGE_SIZE):
        memory.fill(Pfn(first + place >> PAGE_SHIFT), JUMP_RBP)
    for place, word in program.words.items():
        memory.write(first + place, word)
    return base


def _hpa(vm: VirtualMachine, base: Hva) -> Hpa:
    found = vm.process.hpa(base)
    assert found is not None, "it was just mapped"
    return found


def add_cpu(vm: VirtualMachine, program: Program) -> Cpu:
    """The vCPU as it is before its first instruction."""
    own = program.registers
    registers = Registers(
        cr0=own.cr0,
        cr3=own.cr3,
        cr4=own.cr4,
        efer=own.efer,
        maxphyaddr=program.maxphyaddr or vm.host.memory.maxphyaddr,
    )
    return vm.add_cpu(registers)

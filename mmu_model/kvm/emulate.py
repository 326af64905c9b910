"""KVM carries out an access for the guest: where there is no memory, or where it wants to see the write.

Only the memory access of the instruction is emulated, as x86_emulate_instruction does it through
emulator_read_write: by the guest's own translation, with all its checks.
"""

from dataclasses import dataclass

from mmu_model.hardware.access import Access
from mmu_model.hardware.linear import LinearPaging
from mmu_model.hardware.registers import CR0_PG
from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.kvm.fault import PFERR_GUEST_FINAL_MASK
from mmu_model.kvm.guest_memory import GuestMemory, is_visible
from mmu_model.kvm.guest_walk import walk_addr
from mmu_model.kvm.nested_memory import table_memory, translate_nested_gpa
from mmu_model.kvm.retry import EmulationType, retries_after_failure, retries_instead
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.words import load, store


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the guest was doing when it faulted.

    Attributes
    ----------
    access, address, size :
        The access, to 1, 2, 4 or 8 bytes that do not cross a multiple of 8.
    value :
        What is written.
    known :
        Whether KVM's emulator can carry the instruction out: it cannot, say, with those of AVX.
    edits_tables :
        Whether it is one with which page tables are edited, as MOV, XCHG, and CMPXCHG are
        (x86_page_table_writing_insn).

    """

    access: Access
    address: int
    size: int
    value: int = 0
    known: bool = True
    edits_tables: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for an access that no instruction of the model makes."""
        if self.size not in (1, 2, 4, 8) or self.address % 8 + self.size > 8:
            where = f"an access of {self.size} bytes at {self.address:#x}"
            raise ValueError(f"{where}: 1, 2, 4 or 8 bytes within 8 are possible")
        if self.value >> 8 * self.size:
            raise ValueError(f"{self.value:#x} is written to {self.size} bytes: it does not fit")


class EmulationFailed(Exception):
    """KVM cannot go on with the guest: KVM_EXIT_INTERNAL_ERROR, or #UD for user code (handle_emulation_failure)."""


class MmioExit(Exception):
    """KVM_EXIT_MMIO: the process that uses KVM has to carry the access out.

    Attributes
    ----------
    gpa :
        Where.

    """

    def __init__(self, gpa: int) -> None:
        self.gpa = gpa


def x86_emulate_instruction(
    vcpu: KvmVcpu, instruction: Instruction, emulation: EmulationType | None = None
) -> int | None:
    """Carry the access out; what was read. None: the guest is to try again by itself.

    Raises
    ------
    Fault
        The guest's own tables, or its hypervisor's nested ones, do not permit it.
    MmioExit
        There is no memory.
    EmulationFailed
        It is not known how, and trying again is of no use.

    """
    emulation = emulation or EmulationType()
    if not instruction.known:
        if retries_after_failure(vcpu, emulation):
            return None
        raise EmulationFailed(f"KVM cannot emulate the instruction that accesses {instruction.address:#x}")
    if not instruction.edits_tables and retries_instead(vcpu, emulation):
        return None
    memory = GuestMemory(vcpu.kvm, vcpu.memslots)
    gpa = translate(vcpu, instruction)
    writes = instruction.access.writes
    gfn = gpa >> PAGE_SHIFT
    if not is_visible(vcpu.memslots.find(gfn)) or (writes and not memory.is_writable(gfn)):
        raise MmioExit(gpa)
    if not writes:
        return load(memory, gpa, instruction.size)
    store(memory, gpa, instruction.value, instruction.size)
    vcpu.kvm.shadow.kvm_mmu_track_write(vcpu, gpa, instruction.size)
    return 0


def translate(vcpu: KvmVcpu, instruction: Instruction) -> int:
    """The guest-physical address of an access (`walk_mmu->gva_to_gpa`), through nested tables if there are any."""
    gpa = instruction.address
    if vcpu.registers.cr0 & CR0_PG:
        paging = vcpu.walk_mmu.guest_paging
        assert isinstance(paging, LinearPaging)
        walker = walk_addr(table_memory(vcpu), paging, instruction.access, gpa)
        gpa = walker.gfn << PAGE_SHIFT | gpa & 0xFFF
    if vcpu.is_nested_mmu:
        gpa = translate_nested_gpa(vcpu, gpa, instruction.access.error_code | PFERR_GUEST_FINAL_MASK)
    return gpa

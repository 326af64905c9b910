"""Writes to shadowed tables that KVM lets the guest do by itself, once nothing shadows the table any more.

x86.c: reexecute_instruction and retry_instruction in 6.1; mmu.c: kvm_mmu_write_protect_fault and
kvm_mmu_unprotect_gfn_and_retry in 6.12.
"""

import pytest

from conformance.looking import structs
from conformance.scenes import MIB, PAGE, TABLES, USED, Editor, Scene, editing_guest, guest
from mmu_model.hardware import CR4_SMAP, Kind, PageFault, Registers, access
from mmu_model.kvm.emulate import EmulationFailed, Instruction, x86_emulate_instruction
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.fault import (
    PFERR_PRESENT_MASK,
    PFERR_WRITE_MASK,
    RET_PF_EMULATE,
    RET_PF_INVALID,
)
from mmu_model.kvm.memslot import KVM_MEM_READONLY
from mmu_model.kvm.page_fault import kvm_mmu_page_fault
from mmu_model.kvm.retry import EmulationType
from mmu_model.snapshot import MmuKind

FREE = 20 * MIB
"""A linear address that the guest does not use: its entries may be edited."""
DENIED = PFERR_PRESENT_MASK | PFERR_WRITE_MASK


def other_store(scene: Scene, address: int, value: int, *, known: bool = True, user: bool = False) -> None:
    """A store by an instruction that nobody edits page tables with; KVM's emulator may not know it."""
    how = access(Kind.WRITE, user=user)
    scene.cpu.run(Instruction(how, address, 8, value, known=known, edits_tables=False))


def shadowed(scene: Scene, gpa: int) -> bool:
    """Whether a page that may be used shadows a table there."""
    return any(sp.gfn == gpa >> 12 and not sp.role.direct and not sp.role.invalid for sp in structs(scene.vm))


def upper_table(scene: Editor) -> tuple[int, int]:
    """An unused entry of a table above the last level: as the guest sees it, and where it is."""
    assert scene.tables is not None
    return scene.gpte(FREE, 2), scene.tables.entry_address(FREE, 2)


def test_a_table_that_translates_the_very_store_is_written_by_kvm(kernel: str) -> None:
    """Without its shadow the store faults again, at the same instruction: the second time it is emulated."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    own = scene.gpte(scene.window + FREE, 2)
    assert scene.tables is not None
    emulated = scene.cpu.vcpu.stat["pf_emulate"]

    other_store(scene, own, 1 << 5)

    assert scene.vm.memory.read(scene.tables.entry_address(scene.window + FREE, 2)) == 1 << 5
    assert scene.cpu.vcpu.stat["pf_emulate"] > emulated


def test_a_table_that_translates_a_store_nobody_knows_is_not_tried_for_ever(kernel: str) -> None:
    """It would have to be shadowed again for the very store: KVM gives up, and tells the process."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    own = scene.gpte(scene.window + FREE, 2)

    with pytest.raises(EmulationFailed):
        other_store(scene, own, 1 << 5, known=False)


def test_each_instruction_gets_another_try(kernel: str) -> None:
    """What was let try again is one instruction at one address: the next one is not emulated either."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    address, entry = upper_table(scene)
    for value in (1 << 5, 1 << 6):
        scene.reads(0x5000)
        assert shadowed(scene, entry)

        other_store(scene, address, value)

        assert (scene.vm.memory.read(entry), shadowed(scene, entry)) == (value, False)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("user", [True, False])
def test_the_table_is_found_as_the_guest_accesses_it(kernel: str, known: bool, user: bool) -> None:
    """Whether by user code, or by a kernel that may not touch pages of users."""
    flags = USED if user else USED & ~4
    scene = editing_guest(kernel, {0x5000: 0x6000}, flags=flags)
    assert scene.tables is not None
    for n in range(32):
        entry_address = scene.tables.entry_address(scene.window + n * PAGE, 1)
        scene.vm.memory.write(entry_address, TABLES + n * PAGE | flags)
    if not user:
        scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 | CR4_SMAP)
    scene.reads(0x5000)
    address, entry = upper_table(scene)

    other_store(scene, address, 1 << 5, known=known, user=user)

    assert (scene.vm.memory.read(entry), shadowed(scene, entry)) == (1 << 5, False)


def failing(address: int) -> Instruction:
    """A store that KVM's emulator does not know."""
    return Instruction(access(Kind.WRITE), address, 8, 1 << 5, known=False)


def denied(scene: Scene, address: int) -> EmulationType:
    """KVM gets a fault for a store to a page that is write-protected: it is to be emulated."""
    emulation = EmulationType()
    assert kvm_mmu_page_fault(scene.cpu.vcpu, address, DENIED, emulation) is RET_PF_EMULATE
    return emulation


def test_a_guest_that_changed_its_mind_meanwhile_gets_its_fault(kernel: str) -> None:
    """Between fault and emulation another vCPU took the right to write away: nothing is unshadowed for it."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.reads(0x5000)
    address, entry = upper_table(scene)
    scene.reads(address)
    emulation = denied(scene, address)
    assert scene.tables is not None
    gpte = scene.tables.entry_address(address, 1)
    scene.vm.memory.write(gpte, scene.vm.memory.read(gpte) & ~2)

    assert x86_emulate_instruction(scene.cpu.vcpu, failing(address), emulation) is None

    assert shadowed(scene, entry)
    scene.cpu.set_registers(scene.cpu.vcpu.registers)
    with pytest.raises(PageFault):
        scene.cpu.write(address, 1)


def test_memory_that_went_meanwhile_is_not_tried_again(kernel: str) -> None:
    """6.1 looks whether there is anything to be written to; 6.12 lets the guest find out."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", memory={1 << 30: MIB}, mapped={0x5000: 1 << 30})
    (slot,) = (slot for slot in scene.vm.kvm.memslots[0] if slot.base_gfn)
    emulation = EmulationType(0x5000, allow_retry_pf=True)
    scene.reads(0x5000)
    scene.vm.remove_memory(slot)
    scene.reads(0x6000)

    if kernel == "6.1":
        with pytest.raises(EmulationFailed, match="0x5000"):
            x86_emulate_instruction(scene.cpu.vcpu, failing(0x5000), emulation)
    else:
        assert x86_emulate_instruction(scene.cpu.vcpu, failing(0x5000), emulation) is None


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_a_hypervisors_own_walk_unshadows_a_table_of_both(kernel: str, mmu: MmuKind) -> None:
    """It has the same tables for itself and for its guest. Shadowed, they are write-protected; the processor
    is to set a flag in one for the hypervisor itself, and no instruction is there to be emulated."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x5000, 0x6000: 0x6000})
    cpu, tables = scene.cpu, scene.tables
    assert tables is not None
    cpu.read(0x5000)
    cpu.enter_nested(tables.root, Registers(maxphyaddr=46))
    cpu.read(0x5000)
    entry = tables.entry_address(0x6000, 1)
    shadows = [shadowed(scene, tables.entry_address(0x6000, level)) for level in (1, 2)]
    cpu.leave_nested()
    cpu.vcpu.stat.clear()

    cpu.write(0x6000, 7)

    assert shadows == [True, True]
    assert scene.vm.memory.read(entry) & 0x60 == 0x60
    assert not shadowed(scene, entry)
    assert cpu.vcpu.stat["pf_emulate"] == 0


def test_a_fault_that_nobody_handles_is_a_bug(kernel: str, mmu: MmuKind) -> None:
    """The process is told where, rather than that the guest goes on (mmu.c: kvm_mmu_page_fault, -EIO)."""
    scene = guest(kernel, mmu)
    scene.cpu.read(0x5000)
    scene.cpu.vcpu.mmu.page_fault = lambda vcpu, fault: RET_PF_INVALID
    with pytest.raises(KvmBug, match="nobody handled the fault at 0x9000"):
        scene.cpu.read(0x9000)


def read_only(kernel: str, mmu: MmuKind) -> tuple[Scene, int]:
    """A guest that has read from memory that it cannot write to; where that is."""
    scene = guest(kernel, mmu)
    scene.vm.add_memory(1 << 30, MIB, flags=KVM_MEM_READONLY)
    scene.cpu.read(1 << 30)
    scene.cpu.vcpu.stat.clear()
    return scene, 1 << 30


def test_a_store_to_read_only_memory_that_cannot_be_emulated(kernel: str, mmu: MmuKind) -> None:
    """Trying it again is of no use: 6.1 finds no page there to be written to, and 6.12 does not even ask."""
    scene, where = read_only(kernel, mmu)
    with pytest.raises(EmulationFailed):
        scene.cpu.run(failing(where))


def test_a_store_to_read_only_memory_that_edits_no_tables(kernel: str, mmu: MmuKind) -> None:
    """The process carries it out; 6.1 lets the guest try once more before, as it does after any fault but MMIO."""
    scene, where = read_only(kernel, mmu)

    other_store(scene, where, 7)

    assert scene.vm.devices == {where: 7}
    assert scene.cpu.vcpu.stat["pf_emulate"] == (2 if kernel == "6.1" else 1)

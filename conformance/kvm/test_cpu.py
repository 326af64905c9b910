"""A virtual processor: what its instructions do, when it leaves the guest for KVM, and what it comes back with."""

from dataclasses import replace

import pytest

from conformance.scenes import GIB, MIB, TABLES, Scene, guest, page_tables, paging_registers
from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_SMAP,
    EFER_NXE,
    EptViolation,
    GeneralProtection,
    Mode,
    NestedPageFault,
    PageFault,
    Registers,
)
from mmu_model.kvm.requests import make_request
from mmu_model.kvm.vcpu import KVM_REQ_TLB_FLUSH, KVM_REQ_TLB_FLUSH_CURRENT, Request
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

WORD = 0x1122_3344_5566_7788
CR0_EM, CR0_TS, CR0_CD = 1 << 2, 1 << 3, 1 << 30
DEVICE = 3 * GIB
NESTED = [(mmu, kind) for mmu in (MmuKind.TDP, MmuKind.DIRECT) for kind in TdpFormat]
EVERYWHERE = [(MmuKind.SHADOW, TdpFormat.NPT), *NESTED]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_accesses_of_every_size(kernel: str, mmu: MmuKind, size: int) -> None:
    """The lowest byte first, wherever in a word; without a size it is the whole word."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: MIB})
    scene.cpu.write(0x5000, WORD)
    scene.cpu.write(0x5008, WORD)

    for at in range(0, 8, size):
        part = WORD >> 8 * at & (1 << 8 * size) - 1
        assert scene.cpu.read(0x5008 + at, size) == scene.cpu.fetch(0x5008 + at, size) == part
        scene.cpu.write(0x5000 + at, 0, size)
        assert scene.vm.memory.read(MIB) == WORD & ~((1 << 8 * (at + size)) - 1)
    assert scene.cpu.read(0x5008) == scene.cpu.fetch(0x5008) == WORD


@pytest.mark.parametrize("cpl", range(4))
def test_only_ring_3_is_the_user(kernel: str, mmu: MmuKind, cpl: int) -> None:
    """Rings 0 to 2 are the supervisor, whose pages the user has no access to (SDM vol. 3, 4.6)."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: MIB}, mapped_flags=3)
    cpu = scene.cpu
    for act, bits in (
        (lambda: cpu.read(0x5000, cpl=cpl), 0),
        (lambda: cpu.write(0x5000, 1, cpl=cpl), 2),
        (lambda: cpu.fetch(0x5000, cpl=cpl), 1 << 4),
    ):
        if cpl < 3:
            act()
            continue
        with pytest.raises(PageFault) as fault:
            act()
        assert (fault.value.error_code, fault.value.cr2) == (5 | bits, 0x5000)


def test_an_instruction_is_over_when_it_has_succeeded(kernel: str, mmu: MmuKind) -> None:
    """However many exits it takes; one that faults is not, and its fault comes once."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: MIB})
    vcpu, first = scene.cpu.vcpu, scene.cpu.vcpu.rip

    scene.cpu.write(0x5000, 1)
    scene.cpu.read(0x5000)
    assert vcpu.rip == first + 2
    with pytest.raises(PageFault):
        scene.cpu.read(0x9000)
    assert vcpu.rip == first + 2
    assert vcpu.exception is None

    assert scene.cpu.read(0x5000) == 1
    assert vcpu.rip == first + 3


def test_a_device_keeps_what_is_written_to_it(kernel: str, mmu: MmuKind) -> None:
    """Where there is no memory the process carries the access out; a device that has nothing reads as 0."""
    scene = guest(kernel, mmu)
    for _ in range(2):
        assert scene.cpu.read(DEVICE) == 0

    scene.cpu.write(DEVICE, 7)
    scene.cpu.write(DEVICE + 8, 8)
    scene.cpu.write(DEVICE, 9)

    assert scene.vm.devices == {DEVICE: 9, DEVICE + 8: 8}
    assert [scene.cpu.read(DEVICE), scene.cpu.read(DEVICE + 8), scene.cpu.read(DEVICE + 16)] == [9, 8, 0]


@pytest.mark.parametrize(("mmu", "tdp_format"), NESTED, ids=str)
def test_invlpg_is_about_one_page(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """The guest's tables change: each page is the old one until it is invalidated, by the processor alone."""
    mapped = {0x5000: 3 * MIB, 0x6000: 3 * MIB}
    scene = guest(kernel, mmu, "4-level", mapped=mapped, tdp_format=tdp_format)
    scene.vm.memory.write(3 * MIB, 3)
    scene.vm.memory.write(4 * MIB, 4)
    scene.cpu.invlpg(0x5000)  # the first thing that it does
    assert [scene.reads(0x5000), scene.reads(0x6000)] == [3, 3]
    scene.map({0x5000: 4 * MIB, 0x6000: 4 * MIB})
    assert [scene.reads(0x5000), scene.reads(0x6000)] == [3, 3]

    scene.cpu.invlpg(0x5000)

    assert [scene.reads(0x5000), scene.reads(0x6000)] == [4, 3]


@pytest.mark.parametrize("request_", [KVM_REQ_TLB_FLUSH, KVM_REQ_TLB_FLUSH_CURRENT])
@pytest.mark.parametrize(("mmu", "tdp_format"), NESTED, ids=str)
def test_a_flush_that_was_requested_happens_once(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat, request_: Request
) -> None:
    """Before the guest goes on; then the processor remembers again."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 3 * MIB}, tdp_format=tdp_format)
    for page in (3, 4, 5):
        scene.vm.memory.write(page * MIB, page)
    assert scene.reads(0x5000) == 3
    scene.map({0x5000: 4 * MIB})
    assert scene.reads(0x5000) == 3

    make_request(scene.cpu.vcpu, request_)

    assert scene.reads(0x5000) == 4
    scene.map({0x5000: 5 * MIB})
    assert scene.reads(0x5000) == 4


@pytest.mark.parametrize(("mmu", "tdp_format"), EVERYWHERE, ids=str)
def test_a_guests_page_fault_is_kvms_business_only_with_shadow_paging(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat
) -> None:
    """With nested paging it makes no exit (vmx_update_exception_bitmap, init_vmcb)."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: MIB}, tdp_format=tdp_format)
    scene.reads(0x5000)
    before = scene.cpu.vcpu.stat["pf_taken"]
    for _ in range(3):
        assert scene.reads(0x9000) == "page fault at 0x9000, error code 0x0"

    assert scene.cpu.vcpu.stat["pf_taken"] - before == (3 if mmu is MmuKind.SHADOW else 0)


@pytest.mark.parametrize(("mmu", "tdp_format"), NESTED, ids=str)
def test_what_kvm_knows_of_the_last_exit(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """NPT: EXITINFO1 and 2. EPT: the qualification; after a misconfiguration 6.12 has none, 6.1 the last one."""
    scene = guest(kernel, mmu, tdp_format=tdp_format)
    vcpu = scene.cpu.vcpu
    scene.cpu.write(0x5008, 1)
    if tdp_format is TdpFormat.NPT:
        assert isinstance(vcpu.exit, NestedPageFault)
        assert (vcpu.exit.exit_info_1, vcpu.exit.exit_info_2) == (1 << 32 | 6, 0x5008)
        return
    written = 2 | 1 << 7 | 1 << 8
    assert vcpu.exit_qualification == written
    scene.cpu.read(DEVICE)
    scene.cpu.write(0x9000, 1)
    assert vcpu.exit_qualification == written

    scene.cpu.read(DEVICE)

    assert vcpu.exit_qualification == (written if kernel == "6.1" else 0)


def test_system_management_mode(kernel: str, mmu: MmuKind) -> None:
    """SMI clears CR0.PE, EM, TS, PG, CR4 and EFER, and nothing else; RSM brings all back (SDM vol. 3, 32.5)."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 3 * MIB}, cr4=CR4_SMAP, mapped_flags=3)
    scene.vm.add_memory(0, MIB, as_id=1)
    scene.cpu.mov_cr0(CR0_PE | CR0_PG | CR0_WP | CR0_EM | CR0_TS | CR0_CD)
    scene.cpu.write(0x5000, 1)
    outside = scene.cpu.vcpu.registers

    scene.cpu.enter_smm()

    inside = scene.cpu.vcpu.registers
    assert (inside.cr0, inside.cr4, inside.efer) == (CR0_WP | CR0_CD, 0, 0)
    assert (inside.cr3, inside.mode) == (outside.cr3, Mode.OFF)
    scene.cpu.write(0x5000, 2)
    slots = scene.vm.kvm.memslots
    assert scene.cpu.vcpu.memslots is slots[1]
    scene.cpu.rsm()
    assert scene.cpu.vcpu.memslots is slots[0]
    assert scene.cpu.vcpu.registers == outside
    assert scene.cpu.read(0x5000) == 1
    assert scene.vm.memory.read(0x5000) == 0


def test_a_processor_belongs_to_its_vm(kernel: str, mmu: MmuKind) -> None:
    """What two processors of a guest write, each of them reads; what one of them has, KVM has."""
    vm = VirtualMachine(kernel, mmu)
    vm.add_memory(0, MIB)
    first, second = Scene(vm, vm.add_cpu()), Scene(vm, vm.add_cpu(Registers(cr3=0x1000, maxphyaddr=46)))

    first.cpu.write(0x5000, 5)

    assert second.reads(0x5000) == 5
    assert vm.kvm.vcpus == [first.cpu.vcpu, second.cpu.vcpu]
    assert [vcpu.registers.cr3 for vcpu in vm.kvm.vcpus] == [0, 0x1000]


def test_an_exit_makes_the_processor_forget_the_page(kernel: str) -> None:
    """EPT: once KVM has given the right that was missing, the write goes on without a flush."""
    scene = guest(kernel, MmuKind.TDP, tdp_format=TdpFormat.EPT)
    scene.cpu.read(0x5000)
    scene.vm.kvm.stat.clear()

    scene.cpu.write(0x5000, 1)

    assert not scene.vm.kvm.stat["remote_tlb_flush"]
    assert scene.vm.memory.read(0x5000) == 1
    assert EptViolation(2 | 5 << 3, 0x5000).permitted == 5


def test_registers_that_the_guest_loads_are_those_it_runs_with(kernel: str, mmu: MmuKind) -> None:
    """Each instruction loads its own register, and the next access is by it."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 3 * MIB}, cr0_wp=False, nx=False, mapped_flags=1)
    scene.cpu.write(0x5000, 5)
    own = scene.cpu.vcpu.registers
    other = page_tables(scene.vm, Mode.FOUR_LEVEL, 40 * MIB, [])
    other.map(0x5000, 4 * MIB, flags=5 | 1 << 63)

    scene.cpu.mov_cr0(own.cr0 | CR0_WP)
    with pytest.raises(PageFault):
        scene.cpu.write(0x5000, 6)
    scene.cpu.mov_cr3(other.root)
    assert scene.reads(0x5000) == "page fault at 0x5000, error code 0x9"  # XD is reserved
    scene.cpu.wrmsr_efer(own.efer | EFER_NXE)
    assert scene.reads(0x5000) == 0
    scene.cpu.mov_cr4(own.cr4 | CR4_SMAP)
    assert scene.reads(0x5000) == "page fault at 0x5000, error code 0x1"

    loaded = replace(own, cr0=own.cr0 | CR0_WP, cr3=other.root, cr4=own.cr4 | CR4_SMAP)
    assert scene.cpu.vcpu.registers == replace(loaded, efer=own.efer | EFER_NXE)


@pytest.mark.parametrize(("mmu", "tdp_format"), EVERYWHERE, ids=str)
def test_a_processor_is_made_with_the_pdptes_of_its_registers(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat
) -> None:
    """Where it has PDPTE registers they are loaded, and checked, at once; NPT looks at them at each walk."""
    vm = VirtualMachine(kernel, mmu, tdp_format=tdp_format)
    vm.add_memory(0, 64 * MIB)
    tables = page_tables(vm, Mode.PAE, TABLES, [])
    tables.map(0x5000, MIB)
    registers = paging_registers(Mode.PAE, tables.root)
    vm.memory.write(MIB, 7)
    scene = Scene(vm, vm.add_cpu(registers))
    vm.memory.write(tables.root, vm.memory.read(tables.root) | 1 << 5)
    has_registers = mmu is MmuKind.SHADOW or tdp_format is not TdpFormat.NPT

    assert scene.reads(0x5000) == (7 if has_registers else "page fault at 0x5000, error code 0x9")
    if has_registers:
        with pytest.raises(GeneralProtection, match="PDPTE0"):
            vm.add_cpu(registers)

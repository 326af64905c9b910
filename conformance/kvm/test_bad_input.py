"""What cannot be: the error names it, and the VM is to the last bit as it was before."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from mmu_model.fingerprint import fingerprint
from mmu_model.hardware import CR0_PG, CR4_PAE, EFER_LMA, GeneralProtection
from mmu_model.kvm.errors import KvmBug, KvmError
from mmu_model.kvm.memory_region import add_memory_region, move_memory_region, set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_READONLY
from mmu_model.kvm.notifier import invalidate_range_end, invalidate_range_start
from mmu_model.kvm.role import PageRole
from mmu_model.kvm.task import finish
from mmu_model.kvm.types import Hva
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

Act = Callable[[Scene], object]


@pytest.fixture(params=["6.1", "6.12"])
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(MmuKind), ids=lambda mmu: mmu.value)
def mmu(request: pytest.FixtureRequest) -> MmuKind:
    kind: MmuKind = request.param
    return kind


def state(scene: Scene) -> bytes:
    """All that the VM is, its host and its process included."""
    return fingerprint((scene.vm.kvm, scene.vm.devices, scene.cpu.vcpu))


def running(kernel: str, mmu: MmuKind, paging: str = "4-level") -> Scene:
    """A guest that has used two of its slots, and knows of a device."""
    mapped = {0x5000: 0x6000, 0x7000: GIB, 0x9000: 3 * GIB}
    scene = guest(kernel, mmu, paging, memory={GIB: MIB}, mapped=mapped)
    for address in mapped:
        scene.cpu.write(address, 7)
    return scene


def slot(scene: Scene, number: int) -> object:
    found = scene.vm.kvm.memslots[0].by_id(number)
    assert found is not None
    return found


REGIONS: dict[str, tuple[Act, str]] = {
    "overlaps": (
        lambda s: s.vm.add_memory(GIB - PAGE, 2 * PAGE),
        "slot 2 at 0x3ffff000 overlaps slot 1 at 0x40000000",
    ),
    "is empty": (lambda s: s.vm.add_memory(2 * GIB, 0), "is empty"),
    "has a negative size": (lambda s: s.vm.add_memory(2 * GIB, -PAGE), "is empty: its size is -4096"),
    "wraps": (lambda s: s.vm.add_memory((1 << 64) - PAGE, 2 * PAGE), "wraps around"),
    "has an odd address": (
        lambda s: s.vm.add_memory(2 * GIB + 8, PAGE),
        "address 0x80000008 is not a multiple",
    ),
    "has an odd size": (lambda s: s.vm.add_memory(2 * GIB, PAGE + 8), "size 0x1008 is not a multiple"),
    "is odd in the process": (
        lambda s: add_memory_region(s.vm.kvm, 9, 2 * GIB, PAGE, Hva(0x7F00_0000_0008)),
        "address in the process",
    ),
    "lies beyond the addresses": (lambda s: s.vm.add_memory(1 << 60, PAGE), "beyond the .. bits"),
    "ends beyond the addresses": (
        lambda s: s.vm.add_memory((1 << 52) - PAGE, 2 * PAGE),
        "beyond the .. bits",
    ),
    "has a number that is taken": (
        lambda s: add_memory_region(s.vm.kvm, 1, 2 * GIB, PAGE, Hva(0x7F00_0000_0000)),
        "there is a slot of that number",
    ),
    "has unknown flags": (lambda s: s.vm.add_memory(2 * GIB, PAGE, flags=1 << 9), "flags 0x200"),
    "is in no address space": (
        lambda s: s.vm.add_memory(2 * GIB, PAGE, as_id=2),
        "address space 2 does not exist",
    ),
    "moves onto another": (
        lambda s: move_memory_region(s.vm.kvm, slot(s, 1), MIB),  # type: ignore[arg-type]
        "overlaps slot 0",
    ),
    "moves beyond the addresses": (
        lambda s: move_memory_region(s.vm.kvm, slot(s, 1), 1 << 60),  # type: ignore[arg-type]
        "beyond the .. bits",
    ),
    "becomes read-only": (
        lambda s: set_memory_region_flags(s.vm.kvm, slot(s, 1), KVM_MEM_READONLY),  # type: ignore[arg-type]
        "only dirty logging can be changed",
    ),
}


@pytest.mark.parametrize("what", REGIONS)
def test_a_region_that_cannot_be(kernel: str, mmu: MmuKind, what: str) -> None:
    act, complaint = REGIONS[what]
    scene = running(kernel, mmu)
    before = state(scene)

    with pytest.raises(KvmError, match=complaint):
        act(scene)

    assert state(scene) == before


ACCESSES: dict[str, tuple[str, Act, type[Exception], str]] = {
    "is not canonical": ("4-level", lambda s: s.cpu.read(1 << 47), GeneralProtection, "0x800000000000"),
    "is negative": ("4-level", lambda s: s.cpu.read(-8), GeneralProtection, "-0x8"),
    "has 33 bits": (
        "PAE",
        lambda s: s.cpu.read(1 << 32),
        ValueError,
        "0x100000000 has more than the 32 bits",
    ),
    "has 33 bits without paging": (
        "off",
        lambda s: s.cpu.write(1 << 32, 1),
        ValueError,
        "more than the 32 bits",
    ),
    "crosses a word": ("4-level", lambda s: s.cpu.read(0x5004), ValueError, "8 bytes at 0x5004"),
    "has 3 bytes": ("4-level", lambda s: s.cpu.read(0x5000, 3), ValueError, "3 bytes at 0x5000"),
    "writes too much": (
        "4-level",
        lambda s: s.cpu.write(0x5000, 256, 1),
        ValueError,
        "0x100 is written to 1 bytes",
    ),
}


@pytest.mark.parametrize("what", ACCESSES)
def test_an_access_that_cannot_be(kernel: str, mmu: MmuKind, what: str) -> None:
    paging, act, error, complaint = ACCESSES[what]
    scene = running(kernel, mmu, paging) if paging != "off" else guest(kernel, mmu)
    scene.reads(0x6000 if paging == "off" else 0x5000)
    before = state(scene)

    with pytest.raises(error, match=complaint):
        act(scene)

    assert state(scene) == before


REGISTERS: dict[str, tuple[str, Act, str]] = {
    "LMA without PAE": (
        "4-level",
        lambda s: s.cpu.set_registers(replace(s.cpu.vcpu.registers, cr4=0)),
        "EFER.LMA without CR4.PAE",
    ),
    "LMA without PG": (
        "4-level",
        lambda s: s.cpu.set_registers(replace(s.cpu.vcpu.registers, cr0=s.cpu.vcpu.registers.cr0 & ~CR0_PG)),
        "EFER.LMA without CR0.PG",
    ),
    "PAE off in long mode": ("4-level", lambda s: s.cpu.mov_cr4(0), "EFER.LMA without CR4.PAE"),
    "PG without PE": ("off", lambda s: s.cpu.mov_cr0(CR0_PG), "CR0.PG without CR0.PE"),
    "CR3 too wide": ("4-level", lambda s: s.cpu.mov_cr3(1 << 60), "CR3 has bits above"),
}


@pytest.mark.parametrize("what", REGISTERS)
def test_a_guest_that_cannot_be(kernel: str, mmu: MmuKind, what: str) -> None:
    paging, act, complaint = REGISTERS[what]
    scene = running(kernel, mmu, paging) if paging != "off" else guest(kernel, mmu)
    before = state(scene)

    with pytest.raises(GeneralProtection, match=complaint):
        act(scene)

    assert state(scene) == before


@pytest.mark.parametrize("where", [8 * MIB, 3 * GIB], ids=["malformed", "nowhere"])
def test_pdptes_that_cannot_be_loaded(kernel: str, where: int) -> None:
    """MOV to CR3, with shadow paging: reserved bits in a PDPTE, or no memory where they should be."""
    scene = running(kernel, MmuKind.SHADOW, "PAE")
    scene.vm.memory.write(8 * MIB, 0xFF)
    before = state(scene)

    with pytest.raises(GeneralProtection, match="PDPTE"):
        scene.cpu.mov_cr3(where)

    assert state(scene) == before


def test_a_32_bit_host_runs_no_long_mode_and_has_no_tdp_mmu(kernel: str) -> None:
    scene = guest(kernel, MmuKind.SHADOW, "PAE", mapped={0x5000: 0x6000}, x86_64=False)
    scene.reads(0x5000)
    before = state(scene)
    registers = scene.cpu.vcpu.registers

    with pytest.raises(KvmError, match="32-bit host runs no guest in long mode"):
        scene.cpu.set_registers(replace(registers, efer=registers.efer | EFER_LMA, cr4=CR4_PAE))

    assert state(scene) == before
    with pytest.raises(KvmError, match="no TDP MMU"):
        VirtualMachine(kernel, MmuKind.TDP, x86_64=False)


@pytest.mark.parametrize(
    ("field", "value"), [("level", 16), ("quadrant", 4), ("access", 8), ("direct", 2), ("smm", 256)]
)
def test_a_role_that_does_not_fit_its_bits(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"role\.{field} cannot be {value}"):
        PageRole.of(**{field: value})


def test_a_guest_that_faults_for_ever(kernel: str, mmu: MmuKind) -> None:
    """The host does not come to the end of a change: the error has the address, and once it does all is well."""
    scene = guest(kernel, mmu)
    scene.cpu.write(0x5000, 7)
    (slot_at_0,) = scene.vm.kvm.memslots[0]
    start, end = slot_at_0.userspace_addr, Hva(slot_at_0.userspace_addr + MIB)
    finish(invalidate_range_start(scene.vm.kvm, start, end))

    with pytest.raises(KvmBug, match="no progress at 0x5000"):
        scene.cpu.read(0x5000)

    finish(invalidate_range_end(scene.vm.kvm, start, end))
    assert scene.cpu.read(0x5000) == 7

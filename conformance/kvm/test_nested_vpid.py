"""What a hypervisor on Intel's processors flushes with VM entry, VM exit, INVVPID, and by a fault of its EPT."""

import pytest

from conformance.kvm.nested_scenes import fault, levels
from conformance.looking import structs
from conformance.nested_ept import EPT_USED, R, nested_ept_guest
from conformance.scenes import MIB, NESTED_TABLES, USED, Scene, guest, page_tables, paging_registers
from mmu_model.hardware import EptMisconfiguration, Mode, Registers
from mmu_model.hardware.ept import EPTP_ACCESSED_DIRTY
from mmu_model.kvm.errors import VmEntryFailure
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

LINEAR = 0x2_0000_0000
"""Where the hypervisor has a small page, beyond all that it maps to itself."""


def hypervisor(kernel: str) -> tuple[Scene, int, Registers]:
    """One without EPT; its entry for LINEAR, which is for 0x6000; and an inner guest with the same memory, so that
    both can change that entry."""
    itself = {n * 2 * MIB: n * 2 * MIB for n in range(32)}
    scene = guest(
        kernel,
        MmuKind.SHADOW,
        "4-level",
        mapped=itself,
        mapped_level=2,
        mapped_flags=USED,
        tdp_format=TdpFormat.EPT,
    )
    scene.map({LINEAR: 0x6000}, flags=USED)
    inner = page_tables(scene.vm, Mode.FOUR_LEVEL, NESTED_TABLES, [])
    for address, page in itself.items():
        inner.map(address, page, 2, USED)
    inner.map(LINEAR, 0x6000, flags=USED)
    for page in (0x6000, 0x8000):
        scene.vm.memory.write(page, page)
    assert scene.tables is not None
    return scene, scene.tables.entry_address(LINEAR, 1), paging_registers(Mode.FOUR_LEVEL, inner.root)


@pytest.mark.parametrize(("vpid", "seen"), [(0, 0x8000), (1, 0x6000), (0xFFFF, 0x6000)])
def test_vm_exit_flushes_unless_the_guest_has_a_vpid(kernel: str, vpid: int, seen: int) -> None:
    """The hypervisor's own translations, while its guest edits its tables (SDM vol. 3, 29.4.3.1)."""
    scene, entry, inner = hypervisor(kernel)
    assert scene.reads(LINEAR) == 0x6000
    scene.cpu.enter_nested(None, inner, vpid=vpid)
    scene.cpu.write(entry, 0x8000 | USED)
    scene.cpu.leave_nested()

    assert scene.reads(LINEAR) == seen


@pytest.mark.parametrize(
    ("vpids", "flushed"), [((3, 3), False), ((3, 4), True), ((3, 4, 3), True), ((3, 0, 3), True)]
)
def test_of_vpids_the_last_is_remembered(kernel: str, vpids: tuple[int, ...], flushed: bool) -> None:
    """Its translations outlive VM exit and VM entry; of others there is no record."""
    scene, _, inner = hypervisor(kernel)
    first, *others = vpids
    scene.cpu.enter_nested(None, inner, vpid=first)
    assert scene.reads(LINEAR) == 0x6000
    scene.cpu.leave_nested()
    own = entry_of(scene, inner.cr3)
    scene.cpu.write(own, 0x8000 | USED)
    for vpid in others:
        scene.cpu.enter_nested(None, inner, vpid=vpid)
        seen = scene.reads(LINEAR)
        scene.cpu.leave_nested()

    assert seen == (0x8000 if flushed else 0x6000)


def entry_of(scene: Scene, root: int) -> int:
    """Where the last entry for LINEAR is in tables with that root."""
    table = root
    for shift in (39, 30, 21):
        table = scene.vm.memory.read(table + (LINEAR >> shift & 511) * 8) & ~0xFFF
    return table + (LINEAR >> 12 & 511) * 8


def test_invvpid_gives_up_what_inner_guests_had(kernel: str) -> None:
    """And nothing of the hypervisor's own."""
    scene, _, inner = hypervisor(kernel)
    other = page_tables(scene.vm, Mode.FOUR_LEVEL, 40 * MIB, [])
    other.map(0, 0, 2, USED)
    own = scene.cpu.vcpu.registers.cr3
    scene.cpu.mov_cr3(other.root)
    scene.reads(0x6000)
    scene.cpu.mov_cr3(own)
    scene.reads(LINEAR)
    scene.cpu.enter_nested(None, inner, vpid=1)
    scene.reads(LINEAR)
    scene.cpu.leave_nested()
    mmu = scene.cpu.vcpu.root_mmu
    assert [root.pgd for root in (mmu.root, *mmu.prev_roots)] == [own, inner.cr3, other.root, 0]

    scene.cpu.invvpid(0xFFFF)

    assert [root.pgd for root in (mmu.root, *mmu.prev_roots)] == [own, 0, other.root, 0]
    assert not [sp for sp in structs(scene.vm) if sp.role.guest_mode and sp.root_count]


@pytest.mark.parametrize(("vpid", "possible"), [(0, False), (1, True), (0xFFFF, True), (0x1_0000, False)])
def test_which_vpids_there_are(kernel: str, vpid: int, possible: bool) -> None:
    cpu = VirtualMachine(kernel, tdp_format=TdpFormat.EPT).add_cpu()
    if possible:
        cpu.invvpid(vpid)
        return
    with pytest.raises(VmEntryFailure, match="1 to 0xffff"):
        cpu.invvpid(vpid)


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda kind: kind.value)
def test_a_misconfiguration_drops_what_other_roots_of_the_tables_have(kernel: str, mmu: MmuKind) -> None:
    """A processor's TLB knows the tables of an EPTP and not its flags; those of other tables keep what they have."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000, 0x7000: 0x8000})
    other = page_tables(scene.vm, Mode.FOUR_LEVEL, 60 * MIB, [])
    other.map(0x5000, 0x6000, flags=EPT_USED)
    first, second = scene.eptp, other.root | scene.eptp & 0xFFF
    scene.cpu.read(0x5000)
    scene.eptp = second
    scene.as_hypervisor(lambda: None)
    scene.cpu.read(0x5000)
    scene.eptp = first
    scene.as_hypervisor(lambda: None)
    scene.edit(0x5000, 0x6000 | EPT_USED & ~R, invept=False)
    scene.eptp = first ^ EPTP_ACCESSED_DIRTY
    scene.as_hypervisor(lambda: None)
    assert isinstance(fault(scene, "read", 0x5000), EptMisconfiguration)

    last = {}
    for eptp in (first, second):
        scene.eptp = eptp
        scene.as_hypervisor(lambda: None)
        last[eptp] = levels(scene, 0x5000).get(1, 0) & 1

    assert last == {first: 0, second: 1}


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda kind: kind.value)
def test_a_root_is_taken_again_where_none_is_loaded(kernel: str, mmu: MmuKind) -> None:
    """INVEPT gave up the one that was; the hypervisor enters its guest with tables that it used before."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    other = page_tables(scene.vm, Mode.FOUR_LEVEL, 60 * MIB, [])
    other.map(0x5000, 0x8000, flags=EPT_USED)
    first, second = scene.eptp, other.root | scene.eptp & 0xFFF
    scene.cpu.read(0x5000)
    guest_mmu = scene.cpu.vcpu.guest_mmu
    root = guest_mmu.root.hpa
    scene.eptp = second
    scene.as_hypervisor(lambda: None)
    scene.cpu.read(0x5000)
    scene.cpu.leave_nested()
    scene.cpu.invept(second)
    assert [each.pgd for each in (guest_mmu.root, *guest_mmu.prev_roots)] == [0, first, 0, 0]

    scene.eptp = first
    scene.enter()

    assert [each.pgd for each in (guest_mmu.root, *guest_mmu.prev_roots)] == [first, 0, 0, 0]
    assert guest_mmu.root.hpa == root
    scene.cpu.read(0x5000)
    assert [sp.root_count for sp in structs(scene.vm) if sp.role.guest_mode and sp.root_count] == [1]
    scene.cpu.leave_nested()
    scene.cpu.invept(second)
    scene.eptp = second
    scene.enter()
    scene.cpu.leave_nested()
    scene.cpu.invept()  # nothing is loaded now, and what is remembered goes
    assert not [sp for sp in structs(scene.vm) if sp.role.guest_mode and sp.root_count]

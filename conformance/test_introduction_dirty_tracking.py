"""Introduction, "dirty tracking": whatever writes to the guest's memory for the guest is reported."""

from typing import Final

import pytest

from conformance.scenes import (
    GIB,
    MIB,
    NESTED_TABLES,
    PAGE,
    TABLES,
    USED,
    Scene,
    editing_guest,
    guest,
    nested_root,
    page_tables,
)
from mmu_model.hardware import Mode, Registers
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind

DIRTY = "introduction/dirty-tracking/writes-are-reported"

PAGES: Final = [GIB + n * PAGE for n in range(4)]
EPT_KINDS: Final = [
    (MmuKind.TDP, TdpFormat.EPT, False),
    (MmuKind.TDP, TdpFormat.EPT, True),
    (MmuKind.TDP, TdpFormat.EPT_WITHOUT_AD, False),
    (MmuKind.DIRECT, TdpFormat.EPT, False),
    (MmuKind.DIRECT, TdpFormat.EPT_WITHOUT_AD, False),
]
"""The MMU, Intel's nested paging, and whether the processor logs writes itself."""
NPT_KINDS: Final = [(mmu, TdpFormat.NPT, False) for mmu in MmuKind]
KIND = "mmu", "tdp_format", "pml"


def logged(scene: Scene, slot_id: int) -> KvmMemorySlot:
    """From now on the writes to a slot are logged."""
    slot = scene.vm.kvm.memslots[0].by_id(slot_id)
    assert slot is not None
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    return slot


def check_the_log(scene: Scene) -> None:
    """A guest writes to some of the pages of slot 1, and reads the others: what is in each log.

    Logging begins when the guest has used all of them already.
    """
    for page in PAGES:
        scene.cpu.write(page, 1)
    slot = logged(scene, 1)

    for written in ([0, 1], [1], [], [3, 2], [0, 1, 2, 3]):
        for page in PAGES:
            scene.reads(page)
        for n in written:
            scene.cpu.write(PAGES[n] + 8, 2)
        log = kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot)
        assert {PAGES[n] >> 12 for n in written} <= log <= {page >> 12 for page in PAGES}


@pytest.mark.spec(DIRTY)
@pytest.mark.parametrize("paging", ["off", "4-level"])
@pytest.mark.parametrize("level", [1, 2])
def test_what_a_guest_writes_is_in_the_next_log(kernel: str, mmu: MmuKind, paging: str, level: int) -> None:
    """Frames that it wrote since the last reading are in the log, each time anew; frames that it did not use
    are not. (One that it only read may be: an spte that permits writes counts as one.)
    """
    mapped = dict(zip(PAGES, PAGES, strict=True))
    check_the_log(guest(kernel, mmu, paging, memory={GIB: 2 * MIB}, mapped=mapped, host_level=level))


@pytest.mark.spec(DIRTY)
@pytest.mark.parametrize(KIND, EPT_KINDS)
def test_so_it_is_over_every_ept(kernel: str, mmu: MmuKind, tdp_format: TdpFormat, pml: bool) -> None:
    """With dirty flags, with a log of the processor's own, and without either."""
    check_the_log(guest(kernel, mmu, memory={GIB: 2 * MIB}, host_level=2, tdp_format=tdp_format, pml=pml))


@pytest.mark.spec(DIRTY)
@pytest.mark.parametrize(KIND, [kind for kind in (*NPT_KINDS, *EPT_KINDS) if kind[0] is not MmuKind.SHADOW])
def test_what_a_guest_of_the_guest_writes_is_in_it_too(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat, pml: bool
) -> None:
    """By nested tables; it runs without the processor's log."""
    scene = guest(
        kernel,
        mmu,
        "4-level",
        memory={GIB: 2 * MIB},
        mapped={TABLES: TABLES},
        host_level=2,
        tdp_format=tdp_format,
        pml=pml,
    )
    scene.reads(TABLES)
    nested = page_tables(scene.vm, Mode.FOUR_LEVEL, NESTED_TABLES, [])
    for page in PAGES:
        nested.map(page, page, flags=USED if tdp_format is TdpFormat.NPT else 0x7)
    scene.cpu.enter_nested(nested_root(nested.root, "4-level", tdp_format), Registers(maxphyaddr=46))

    check_the_log(scene)


@pytest.mark.spec(DIRTY)
@pytest.mark.parametrize(KIND, [*NPT_KINDS, *EPT_KINDS])
def test_the_flags_that_a_walk_sets_are_writes(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat, pml: bool
) -> None:
    """The guest reads through tables that were not used yet: all of them get accessed flags. Then it writes: the last
    one gets a dirty flag. Who sets them, KVM or the processor, makes no difference."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000}, tdp_format=tdp_format, pml=pml)
    slot = logged(scene, 0)

    scene.reads(0x5000)
    first = kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot)
    scene.cpu.write(0x5000, 1)
    second = kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot)

    assert {table >> 12 for table in scene.frames} <= first
    assert {scene.frames[-1] >> 12, 6} <= second


@pytest.mark.spec(DIRTY)
def test_what_kvm_writes_for_the_guest_is_a_write(kernel: str) -> None:
    """The guest writes to a table that is protected, and KVM emulates that."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.reads(0x5000)
    scene.reads(scene.gpte(0, 2))
    slot = logged(scene, 0)
    kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot)
    emulated = scene.cpu.vcpu.stat["pf_emulate"]

    scene.edit(20 * MIB, 0, level=2)

    assert scene.cpu.vcpu.stat["pf_emulate"] == emulated + 1
    assert scene.tables is not None
    assert scene.tables.entry_address(20 * MIB, 2) >> 12 in kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot)

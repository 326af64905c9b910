"""Section "Reaction to events": what KVM leaves to the processor, and what it does without mmu_lock."""

import pytest

from conformance.looking import structs
from conformance.scenes import (
    MIB,
    NESTED_FORMATS,
    NESTED_TABLES,
    PAGE,
    STUCK,
    Scene,
    editing_guest,
    guest,
    nested_guest,
    nested_root,
)
from mmu_model.hardware import PAGE_SHIFT, Gfn, Kind, access
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.emulate import EmulationFailed, Instruction
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.locks import LockNotFree
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.task import Task, WouldWaitForEver, running
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

UNSHADOW = "reaction-to-events/emulate-failed/unshadow"
FAST = "reaction-to-events/fast-page-fault/present-and-write"
DEVICE = 0xF000_0000
FAILED = "KVM cannot emulate it"
LOCKED = "mmu_lock is needed"


def stores(scene: Scene, address: int, value: int, *, known: bool = False, edits_tables: bool = True) -> str:
    """What becomes of an instruction that stores 8 bytes; unless `known`, KVM's emulator cannot execute it."""
    how = access(Kind.WRITE)
    try:
        scene.cpu.run(Instruction(how, address, 8, value, known=known, edits_tables=edits_tables))
    except EmulationFailed:
        return FAILED
    except (LockNotFree, WouldWaitForEver):
        return LOCKED
    except KvmBug:
        return STUCK
    return "done"


def shadows(vm: VirtualMachine, gpa: int) -> int:
    """How many usable pages shadow a table there."""
    gfn = Gfn(gpa >> PAGE_SHIFT)
    return sum(sp.gfn == gfn and not sp.role.direct and not sp.role.invalid for sp in structs(vm))


@pytest.mark.spec(UNSHADOW)
@pytest.mark.parametrize("read_before", [False, True])
def test_a_table_that_cannot_be_written_for_the_guest_is_unshadowed(kernel: str, read_before: bool) -> None:
    """The guest stores an entry of a shadowed upper table by an instruction that KVM's emulator does not know. The
    page that shadows the table goes, its frame may be written to, and the guest does it itself."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.vm.memory.write(0x6000, 77)
    scene.reads(0x5000)
    assert scene.tables is not None
    entry = scene.tables.entry_address(20 * MIB, 2)
    if read_before:
        scene.reads(scene.gpte(20 * MIB, 2))
    before_it = shadows(scene.vm, entry)

    outcome = stores(scene, scene.gpte(20 * MIB, 2), 0x1234_5000)

    (slot,) = scene.vm.kvm.memslots[0]
    assert (outcome, before_it, shadows(scene.vm, entry)) == ("done", 1, 0)
    assert slot.gfn_write_track.get(Gfn(entry >> PAGE_SHIFT), 0) == 0
    assert scene.vm.memory.read(entry) == 0x1234_5000
    assert scene.reads(0x5000) == 77
    assert shadows(scene.vm, entry) == 1


@pytest.mark.spec(UNSHADOW)
@pytest.mark.parametrize("read_before", [False, True])
def test_not_if_the_table_translates_the_very_access(kernel: str, read_before: bool) -> None:
    """Edge: the page would have to be made again for it, and so for ever. The process is told."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    own = scene.gpte(scene.window + 20 * MIB, 2)
    if read_before:
        scene.reads(own)

    assert stores(scene, own, 0) == FAILED


@pytest.mark.spec(UNSHADOW)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_not_for_nested_guests(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """Edge: what KVM shadows are the tables of the guest, not of the guest's guest."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: NESTED_TABLES}, tdp_format=tdp_format)
    scene.reads(0x5000)

    assert stores(scene, 0x5000 + 8 * 300, 0) == FAILED


@pytest.mark.spec(UNSHADOW)
def test_not_where_there_is_no_memory(kernel: str, mmu: MmuKind) -> None:
    """Edge: nothing is to be unshadowed there, before and after KVM has learned so."""
    scene = guest(kernel, mmu)

    assert [stores(scene, DEVICE, 0), stores(scene, DEVICE, 0)] == [FAILED, FAILED]


@pytest.mark.spec(UNSHADOW)
def test_what_does_not_edit_tables_is_not_emulated_at_all(kernel: str) -> None:
    """The same is done, before anything fails, for an instruction that nobody edits page tables with."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.reads(0x5000)
    assert scene.tables is not None
    entry = scene.tables.entry_address(20 * MIB, 2)

    known = stores(scene, scene.gpte(20 * MIB, 2), 1 << 5, known=True)
    after_edit = shadows(scene.vm, entry)
    other = stores(scene, scene.gpte(20 * MIB, 2), 1 << 6, known=True, edits_tables=False)

    assert (known, after_edit) == ("done", 1)
    assert (other, shadows(scene.vm, entry)) == ("done", 0)
    assert scene.vm.memory.read(entry) == 1 << 6


def logged(kernel: str, mmu: MmuKind, paging: str = "off") -> Scene:
    """A guest has written to a page, and the log of that was fetched: so its next write faults."""
    scene = guest(kernel, mmu, paging, mapped={0x5000: 0x5000})
    (slot,) = scene.vm.kvm.memslots[0]
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    scene.cpu.write(0x5000, 1)
    kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot)
    return scene


def stores_while_locked(scene: Scene, address: int = 0x5000) -> str:
    """What becomes of a store while somebody else has mmu_lock, and does not give it back."""
    scene.cpu.vcpu.stat.clear()
    somebody = Task("somebody")
    with running(somebody):
        scene.vm.kvm.mmu_lock.write.acquire()
    outcome = stores(scene, address, 2, known=True)
    with running(somebody):
        scene.vm.kvm.mmu_lock.write.release()
    return outcome


DIRECT = [
    (MmuKind.TDP, "off"),
    (MmuKind.TDP, "4-level"),
    (MmuKind.DIRECT, "4-level"),
    (MmuKind.SHADOW, "off"),
]


@pytest.mark.spec(FAST)
@pytest.mark.parametrize(("mmu", "paging"), DIRECT)
def test_a_write_to_what_is_present_needs_no_lock(kernel: str, mmu: MmuKind, paging: str) -> None:
    """W was taken from an spte of a direct page to notice the next write. It comes back while somebody holds
    mmu_lock, and the log has the write."""
    scene = logged(kernel, mmu, paging)

    outcome = stores_while_locked(scene)

    (slot,) = scene.vm.kvm.memslots[0]
    assert outcome == "done"
    assert scene.cpu.vcpu.stat["pf_fast"] >= 1  # the guest's own tables are logged, too
    assert Gfn(5) in kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot)


@pytest.mark.spec(FAST)
def test_not_below_tables_of_the_guest(kernel: str) -> None:
    """Edge: which frame the spte of another page is for is certain under the lock only."""
    scene = logged(kernel, MmuKind.SHADOW, "4-level")

    assert stores_while_locked(scene) == LOCKED
    assert (stores(scene, 0x5000, 2, known=True), scene.cpu.vcpu.stat["pf_fast"]) == ("done", 0)


@pytest.mark.spec(FAST)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_not_what_is_absent(kernel: str, mmu: MmuKind) -> None:
    """Edge: a write to a page that is not mapped."""
    scene = logged(kernel, mmu)

    assert stores_while_locked(scene, 0x20_0000) == LOCKED


@pytest.mark.spec(FAST)
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_not_what_is_protected_as_a_table(
    kernel: str, mmu: MmuKind, level: int, tdp_format: TdpFormat
) -> None:
    """Edge: KVM has to see the write to what it shadows for a nested guest, or to note that it may be written to."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000}, tdp_format=tdp_format)
    assert scene.tables is not None
    table = scene.tables.entry_address(0x5000, level) & -PAGE
    scene.cpu.leave_nested()
    hypervisor, without_paging = scene.cpu.vcpu.registers, guest(kernel, mmu).cpu.vcpu.registers
    scene.cpu.set_registers(without_paging)
    scene.reads(table)
    scene.cpu.set_registers(hypervisor)
    scene.cpu.enter_nested(nested_root(scene.tables.root, "4-level", tdp_format), without_paging)
    scene.reads(0x5000)
    scene.cpu.leave_nested()
    scene.cpu.set_registers(without_paging)
    scene.reads(table)

    assert stores_while_locked(scene, table + 8 * 300) == LOCKED
    assert scene.cpu.vcpu.stat["pf_fast"] == 0


@pytest.mark.spec(FAST)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_what_was_made_absent_to_notice_the_next_use_is_fast_too(kernel: str, mmu: MmuKind) -> None:
    """Edge: the document does not say so. On a processor without accessed flags the host's question whether a page
    is in use makes it fault; P is clear, and yet the fault needs no lock."""
    scene = guest(kernel, mmu, tdp_format=TdpFormat.EPT_WITHOUT_AD)
    scene.cpu.write(0x5000, 1)
    (slot,) = scene.vm.kvm.memslots[0]
    assert scene.vm.process.was_used(slot.hva(Gfn(5)), 1)

    assert stores_while_locked(scene) == "done"
    assert scene.cpu.vcpu.stat["pf_fast"] == 1

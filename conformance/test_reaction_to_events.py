"""Section "Reaction to events": page faults, and changes on the host's side."""

import pytest

from conformance.looking import backing, links, structs
from conformance.scenes import (
    MIB,
    NESTED_FORMATS,
    NESTED_TABLES,
    PAGE,
    USED,
    Scene,
    editing_guest,
    guest,
    nested_guest,
)
from mmu_model.hardware import PageFault
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind, Spte
from mmu_model.snapshot.spte import Kind

DEVICE = 0xF000_0000
NESTED_PAGING = [MmuKind.TDP, MmuKind.DIRECT]
PAGING = {MmuKind.TDP: "4-level", MmuKind.DIRECT: "4-level", MmuKind.SHADOW: "4-level"}


def slot_of(scene: Scene) -> KvmMemorySlot:
    """The slot at 0."""
    slot = scene.vm.kvm.memslots[0].find(0)
    assert slot is not None
    return slot


def leaf(scene: Scene, gfn: int) -> Spte | None:
    """The spte of level 1 that maps the memory behind a guest frame."""
    found = [
        spte
        for page in scene.vm.snapshot().pages
        for spte in page.sptes().values()
        if spte.kind is Kind.LEAF and page.role.level == 1 and spte.pfn == backing(scene.vm, gfn)
    ]
    return found[0] if found else None


def faults(scene: Scene) -> int:
    """How many faults KVM has handled."""
    return scene.cpu.vcpu.stat["pf_taken"]


@pytest.mark.spec("reaction-to-events/cause-missing/missing-translation")
@pytest.mark.spec("reaction-to-events/host-page/determined")
def test_a_missing_translation_is_made(kernel: str, mmu: MmuKind) -> None:
    """The guest maps the page, KVM does not yet: a fault, which the guest never sees, and then an spte with the
    host's frame."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000})
    scene.vm.memory.write(0x6000, 77)
    assert leaf(scene, 6) is None
    before_it = faults(scene)

    assert scene.reads(0x5000) == 77

    assert faults(scene) > before_it
    mapping = scene.vm.process.mapping(slot_of(scene).hva(6))
    spte = leaf(scene, 6)
    assert mapping is not None
    assert spte is not None
    assert spte.pfn == mapping.pfn


@pytest.mark.spec("reaction-to-events/cause-protected/protected-translation")
@pytest.mark.spec("reaction-to-events/cause-dirty-logging/write-protected")
def test_logged_memory_is_write_protected(kernel: str, mmu: MmuKind) -> None:
    """Logging is switched on: the spte loses W. The guest's write faults, is noted, and gets W back."""
    scene = guest(kernel, mmu)
    scene.cpu.write(0x5000, 1)
    writable = leaf(scene, 5)
    assert writable is not None
    assert writable.writable

    set_memory_region_flags(scene.vm.kvm, slot_of(scene), KVM_MEM_LOG_DIRTY_PAGES)
    protected, before_it = leaf(scene, 5), faults(scene)
    assert protected is None or not protected.writable
    scene.cpu.write(0x5000, 2)

    assert faults(scene) == before_it + 1
    again = leaf(scene, 5)
    assert again is not None
    assert again.writable
    assert kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot_of(scene)) == {5}


@pytest.mark.spec("reaction-to-events/not-in-direct-mode/footnote")
@pytest.mark.parametrize("mmu", NESTED_PAGING)
def test_under_nested_paging_guest_faults_and_tables_are_not_kvms_business(kernel: str, mmu: MmuKind) -> None:
    """The processor gives the guest its own faults, and the guest writes to its tables as to any memory."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000, 0x7000: 32 * MIB})
    scene.reads(0x5000)
    scene.cpu.write(0x7000 + 8 * 300, 0)
    before_it = faults(scene)

    scene.cpu.write(0x7000 + 8 * 301, 0)
    with pytest.raises(PageFault):
        scene.cpu.read(0x9000)

    assert faults(scene) == before_it
    assert scene.cpu.vcpu.stat["pf_emulate"] == 0


@pytest.mark.spec("reaction-to-events/not-in-direct-mode/footnote")
@pytest.mark.parametrize("mmu", NESTED_PAGING)
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_a_hypervisors_nested_tables_are_protected_in_direct_mode(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat
) -> None:
    """Edge: they are shadowed for the nested guest, so the hypervisor's write to them faults, though its own
    memory is mapped directly."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000}, tdp_format=tdp_format)
    scene.reads(0x5000)
    scene.cpu.leave_nested()
    hypervisor = guest(kernel, mmu).cpu.vcpu.registers
    scene.cpu.set_registers(hypervisor)
    scene.reads(NESTED_TABLES)
    before_it = faults(scene)

    scene.cpu.write(NESTED_TABLES + 8 * 300, 0)

    assert faults(scene) == before_it + 1


@pytest.mark.spec("reaction-to-events/shadow-walk/finds-or-instantiates")
def test_missing_tables_are_made_and_those_there_are_used(kernel: str, mmu: MmuKind) -> None:
    """The first access makes all tables down to the spte; one far away in the last table makes none, and one behind
    what that maps makes another last table alone."""
    scene = guest(kernel, mmu)
    scene.reads(0x5000)
    first = {int(sp.address) for sp in structs(scene.vm)}
    assert {link.child.role.level for link in links(scene.vm)} >= {1}

    scene.reads(0x5000 + 64 * PAGE)

    assert {int(sp.address) for sp in structs(scene.vm)} == first
    assert leaf(scene, 5 + 64) is not None

    scene.reads(4 * MIB)

    more = {link.child.role.level: link for link in links(scene.vm) if int(link.child.address) not in first}
    assert len(structs(scene.vm)) == len(first) + 1
    assert set(more) == {1}
    assert int(more[1].parent.address) in first


@pytest.mark.spec("reaction-to-events/emulate/instruction")
def test_what_cannot_be_unsync_is_emulated(kernel: str) -> None:
    """A write to an upper table: KVM carries it out, and the guest finds it done."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.reads(0x5000)
    assert scene.tables is not None

    scene.edit(20 * MIB, 0x1234_5000, level=2)

    assert scene.cpu.vcpu.stat["pf_emulate"] == 1
    assert scene.vm.memory.read(scene.tables.entry_address(20 * MIB, 2)) == 0x1234_5000


@pytest.mark.spec("reaction-to-events/update-modified/translations", refutes=True)
def test_what_an_emulated_write_changes_is_dropped_and_not_updated(kernel: str) -> None:
    """The guest makes an entry lead to another table. The spte for it is cleared; the next access makes it."""
    scene = editing_guest(kernel, {0x5000: 0x6000, 4 * MIB: 0x7000})
    scene.vm.memory.write(0x7000, 77)
    scene.reads(0x5000)
    assert scene.tables is not None
    table = scene.tables.entry_address(0, 2) >> 12
    directory = next(sp for sp in structs(scene.vm) if sp.gfn == table)
    other = scene.vm.memory.read(scene.tables.entry_address(4 * MIB, 2))

    scene.edit(0, other, level=2)

    assert scene.vm.host.read(directory.sptep(0)) == scene.vm.kvm.kernel.shadow_nonpresent_value
    assert scene.reads(0) == 77


@pytest.mark.spec("reaction-to-events/notifier-called/updated-hva")
@pytest.mark.spec("reaction-to-events/notifier-drop/translations")
def test_when_the_host_takes_a_page_away_its_sptes_go(kernel: str, mmu: MmuKind) -> None:
    """The process drops one page: KVM is told the address, drops what maps it and nothing else, its neighbours
    neither. The guest then finds what the host has there now."""
    scene = guest(kernel, mmu)
    others = (0x4000, 0x6000, 0x9000)
    for address in (0x5000, *others):
        scene.cpu.write(address, 7)
    slot, old = slot_of(scene), backing(scene.vm, 5)
    assert leaf(scene, 5) is not None

    scene.vm.process.madvise_dontneed(Hva(slot.hva(5)), 1)

    left = {
        spte.pfn
        for page in scene.vm.snapshot().pages
        for spte in page.sptes().values()
        if spte.kind is Kind.LEAF
    }
    assert old not in left
    assert {backing(scene.vm, address >> 12) for address in others} <= left
    assert scene.reads(0x5000) == 0
    assert [scene.reads(address) for address in others] == [7, 7, 7]


@pytest.mark.spec("reaction-to-events/notifier-lookup/through-reverse-map")
@pytest.mark.spec("reverse-map/all-sptes-of-a-gfn/reached-by-gfn")
@pytest.mark.spec("reverse-map/all-sptes-of-a-gfn/swapping-out")
@pytest.mark.parametrize("number", [1, 2, 20])
def test_all_sptes_of_a_frame_are_found_by_its_gfn(kernel: str, number: int) -> None:
    """The guest maps one frame at many addresses. Its list has them all; when the page goes, they all go."""
    scene = guest(
        kernel,
        MmuKind.SHADOW,
        "4-level",
        mapped={2 * MIB * n: 0x6000 for n in range(number)},
        mapped_flags=USED,
    )
    for n in range(number):
        scene.reads(2 * MIB * n)
    slot = slot_of(scene)
    (listed,) = (
        head.sptes for memslot in scene.vm.snapshot().memslots for head in memslot.rmap if head.gfn == 6
    )
    mapping = {
        (page.id, index)
        for page in scene.vm.snapshot().pages
        for index, spte in page.sptes().items()
        if spte.kind is Kind.LEAF and spte.pfn == backing(scene.vm, 6)
    }
    assert len(mapping) == number
    assert {(at.page, at.index) for at in listed} == mapping

    scene.vm.process.madvise_dontneed(Hva(slot.hva(6)), 1)

    assert not any(head.gfn == 6 for memslot in scene.vm.snapshot().memslots for head in memslot.rmap)
    assert [scene.reads(2 * MIB * n) for n in range(number)] == [0] * number


@pytest.mark.spec("reaction-to-events/notifier-lookup/through-reverse-map")
@pytest.mark.spec("reverse-map/all-sptes-of-a-gfn/reached-by-gfn")
def test_the_tdp_mmu_has_no_reverse_map(kernel: str) -> None:
    """Edge: its sptes are in no list; what maps a frame is found by walking the tables of every root."""
    scene = guest(kernel, MmuKind.TDP)
    scene.cpu.write(0x5000, 7)
    assert [memslot.rmap for memslot in scene.vm.snapshot().memslots] == [()]

    scene.vm.process.madvise_dontneed(Hva(slot_of(scene).hva(5)), 1)

    assert scene.reads(0x5000) == 0

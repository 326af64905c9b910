"""Section "Events"."""

import pytest

from conformance.looking import backing, leaves, reached, roots
from conformance.scenes import (
    GIB,
    MIB,
    NESTED_TABLES,
    PAGE,
    USED,
    Scene,
    editing_guest,
    guest,
    page_tables,
    paging_registers,
)
from mmu_model.hardware import CR0_PG, CR4_SMEP, EFER_NXE, Mode, PageFault
from mmu_model.kvm.memslot import KVM_MEM_READONLY
from mmu_model.snapshot import MmuKind

DRIVEN = "events/driven-by-events/guest-and-host"
ACCESS = "events/missing-or-protected/access"

REGISTERS = "events/control-register-writes/cr3-above-all"
CHANGES = "events/translation-changes/by-gpa-to-hva-or-hva-to-hpa"

INVALIDATIONS = "events/invalidations/invlpg-and-invlpga"

READ_ONLY = 0x2000_0000


def running(kernel: str, mmu: MmuKind) -> Scene:
    """A guest with paging, and memory in three slots, that has read a page of two."""
    scene = guest(kernel, mmu, "4-level", memory={GIB: MIB}, mapped={0x5000: 0x5000, 0x6000: 9 * MIB})
    scene.vm.add_memory(READ_ONLY, MIB, flags=KVM_MEM_READONLY)
    scene.map({READ_ONLY: READ_ONLY, READ_ONLY + PAGE: 10 * MIB})
    scene.reads(0x5000)
    scene.reads(READ_ONLY)
    return scene


@pytest.mark.spec(DRIVEN)
def test_without_an_event_nothing_changes(kernel: str, mmu: MmuKind) -> None:
    """The guest goes on with what it has, in and out: the MMU stays as it is, to the last bit."""
    scene = running(kernel, mmu)
    before = scene.vm.snapshot()

    for _ in range(3):
        scene.reads(0x5000)
        scene.reads(READ_ONLY)

    unchanged = scene.vm.snapshot() == before
    assert unchanged


@pytest.mark.spec(DRIVEN)
def test_the_guest_drives_the_mmu(kernel: str, mmu: MmuKind) -> None:
    """It uses a page for the first time: there is an spte more."""
    scene = running(kernel, mmu)
    before = scene.vm.snapshot()

    scene.reads(0x6000)

    changed = scene.vm.snapshot().pages != before.pages
    assert changed


@pytest.mark.spec(DRIVEN)
def test_the_host_drives_the_mmu(kernel: str, mmu: MmuKind) -> None:
    """The process takes a memslot away while the guest does nothing: pages go."""
    scene = running(kernel, mmu)
    before = scene.vm.snapshot()
    slot = scene.vm.kvm.memslots[0].by_id(1)
    assert slot is not None

    scene.vm.remove_memory(slot)

    changed = scene.vm.snapshot().pages != before.pages
    assert changed


@pytest.mark.spec(ACCESS)
def test_an_access_to_a_missing_translation_is_an_event(kernel: str, mmu: MmuKind) -> None:
    """No spte is there: the MMU is asked, and the access comes to what the guest has there."""
    scene = running(kernel, mmu)
    scene.vm.memory.write(9 * MIB, 99)
    asked = scene.cpu.vcpu.stat["pf_taken"]

    assert scene.reads(0x6000) == 99

    assert scene.cpu.vcpu.stat["pf_taken"] > asked


@pytest.mark.spec(ACCESS)
def test_an_access_to_a_protected_translation_is_an_event(kernel: str, mmu: MmuKind) -> None:
    """An spte is there, through which the guest reads and may not write: when it does, the MMU is asked.

    Of a write to read-only memory it makes an exit to the process.
    """
    scene = running(kernel, mmu)
    asked = scene.cpu.vcpu.stat["pf_taken"]
    assert scene.reads(READ_ONLY) == 0
    assert scene.cpu.vcpu.stat["pf_taken"] == asked

    scene.cpu.write(READ_ONLY, 5)

    assert scene.cpu.vcpu.stat["pf_taken"] > asked
    assert scene.reads(READ_ONLY) == 0
    assert scene.vm.devices == {READ_ONLY: 5}


@pytest.mark.spec(ACCESS)
@pytest.mark.parametrize("kind", ["missing", "protected"])
def test_under_nested_paging_the_guests_own_faults_are_none(kernel: str, mmu: MmuKind, kind: str) -> None:
    """Edge: what the guest's tables do not have, or forbid. Under nested paging the processor tells the guest, and the
    MMU is not asked; with shadow paging it is, and the guest gets the same fault."""
    scene = guest(kernel, mmu, "4-level", mapped={0x6000: 0x6000}, mapped_flags=USED & ~0x2)
    address, write, code = (0x5000, False, 0x0) if kind == "missing" else (0x6000, True, 0x3)
    scene.reads(0x6000)
    asked = scene.cpu.vcpu.stat["pf_taken"]

    with pytest.raises(PageFault) as raised:
        scene.cpu.write(address, 1) if write else scene.cpu.read(address)

    assert (raised.value.error_code, raised.value.cr2) == (code, address)
    assert scene.cpu.vcpu.stat["pf_taken"] - asked == (mmu is MmuKind.SHADOW)


@pytest.mark.spec(REGISTERS)
@pytest.mark.parametrize("register", ["cr0", "cr3", "cr4", "efer"])
def test_a_control_register_write_is_an_event(kernel: str, register: str) -> None:
    """With shadow paging each has an MMU for the new mode, or other roots, before the guest's next access."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    others = page_tables(scene.vm, Mode.FOUR_LEVEL, NESTED_TABLES, [])
    others.map(0x5000, 0x7000)
    for page in (0x5000, 0x6000, 0x7000):
        scene.vm.memory.write(page, page)
    assert scene.reads(0x5000) == 0x6000
    before = scene.vm.snapshot().vcpus[0].root_mmu
    cpu, old = scene.cpu, scene.cpu.vcpu.registers

    {
        "cr0": lambda: cpu.mov_cr0(old.cr0 & ~CR0_PG),
        "cr3": lambda: cpu.mov_cr3(others.root),
        "cr4": lambda: cpu.mov_cr4(old.cr4 | CR4_SMEP),
        "efer": lambda: cpu.wrmsr_efer(old.efer & ~EFER_NXE),
    }[register]()

    assert scene.reads(0x5000) == {"cr0": 0x5000, "cr3": 0x7000}.get(register, 0x6000)
    after = scene.vm.snapshot().vcpus[0].root_mmu
    assert (after.cpu_role != before.cpu_role) is (register != "cr3")
    assert (after.root.pgd != before.root.pgd) is (register in ("cr0", "cr3"))


@pytest.mark.spec(REGISTERS)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_under_nested_paging_a_write_to_cr3_is_none(kernel: str, mmu: MmuKind) -> None:
    """Edge: the guest has other tables at once. Roots and pages stay as they are, to the last bit."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000})
    others = page_tables(scene.vm, Mode.FOUR_LEVEL, NESTED_TABLES, [])
    others.map(0x5000, 0x7000)
    scene.vm.memory.write(0x7000, 77)
    scene.reads(0x5000)

    def state() -> tuple[object, ...]:
        snapshot = scene.vm.snapshot()
        return snapshot.pages, snapshot.vcpus[0].root_mmu

    before = state()

    scene.cpu.mov_cr3(others.root)

    unchanged = state() == before
    assert unchanged
    assert scene.reads(0x5000) == 77


@pytest.mark.spec(REGISTERS)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize("register", ["cr0", "cr4", "efer"])
def test_under_nested_paging_the_other_writes_change_the_mode(
    kernel: str, mmu: MmuKind, register: str
) -> None:
    """Edge: the MMU knows the guest's new mode. The root remains: its role has nothing of that."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000})
    scene.reads(0x5000)
    before, loaded = scene.vm.snapshot().vcpus[0].root_mmu, roots(scene.vm.snapshot())[0].id
    cpu, old = scene.cpu, scene.cpu.vcpu.registers

    {
        "cr0": lambda: cpu.mov_cr0(old.cr0 & ~CR0_PG),
        "cr4": lambda: cpu.mov_cr4(old.cr4 | CR4_SMEP),
        "efer": lambda: cpu.wrmsr_efer(old.efer & ~EFER_NXE),
    }[register]()
    scene.reads(0x5000)

    assert scene.vm.snapshot().vcpus[0].root_mmu.cpu_role != before.cpu_role
    assert roots(scene.vm.snapshot())[0].id == loaded


def leads_to(scene: Scene, address: int, gpa: int) -> bool:
    """Whether some spte that KVM made for the address, below any root of the vCPU, maps that guest frame."""
    snapshot = scene.vm.snapshot()
    mmu, pages = snapshot.vcpus[0].root_mmu, snapshot.by_id()
    held = [pages[root.page] for root in (mmu.root, *mmu.prev_roots) if root.page is not None]
    found = [leaf for root in held for leaf in leaves(snapshot, root, root.role.level)]
    frame = backing(scene.vm, gpa >> 12)
    return any(leaf.offset == address >> 12 and leaf.spte.pfn == frame for leaf in found)


@pytest.mark.spec(INVALIDATIONS)
@pytest.mark.spec("synchronized-and-unsynchronized-pages/reachable-table/synchronized-on-invlpg")
def test_invlpg_brings_a_translation_in_step(kernel: str) -> None:
    """Until the guest flushes, the spte for an entry that it changed stays as it was; then it does not."""
    scene = editing_guest(kernel, {0x5000: 0x6000, 0x9000: 0xA000})
    for address in (0x5000, 0x9000):
        scene.reads(address)
        scene.edit(address, 0x7067)
    assert (leads_to(scene, 0x5000, 0x6000), leads_to(scene, 0x9000, 0xA000)) == (True, True)

    scene.cpu.invlpg(0x5000)

    assert (leads_to(scene, 0x5000, 0x6000), leads_to(scene, 0x9000, 0xA000)) == (False, True)
    scene.vm.memory.write(0x7000, 77)
    assert scene.reads(0x5000) == 77


@pytest.mark.spec(INVALIDATIONS)
@pytest.mark.parametrize("asid", [1, 77])
def test_invlpga_brings_a_translation_of_a_nested_guest_in_step(kernel: str, asid: int) -> None:
    """A hypervisor changes an entry of its guest's tables, and flushes the address of its guest. Whatever ASID
    it names, KVM looks below all roots that the vCPU has or remembers, and the guest's is one of them."""
    scene = editing_guest(kernel, {0x8000: NESTED_TABLES + 3 * PAGE})
    inner = page_tables(scene.vm, Mode.FOUR_LEVEL, NESTED_TABLES, [])
    for address, page in {0x5000: 0x6000, 0x9000: 0xA000}.items():
        inner.map(address, page, flags=USED)
    scene.cpu.enter_nested(None, paging_registers(Mode.FOUR_LEVEL, inner.root))
    scene.reads(0x5000)
    scene.reads(0x9000)
    scene.cpu.leave_nested()
    for address in (0x5000, 0x9000):
        scene.cpu.write(0x8000 + (address >> 12) * 8, 0x7067)
    assert (leads_to(scene, 0x5000, 0x6000), leads_to(scene, 0x9000, 0xA000)) == (True, True)

    scene.cpu.invlpga(0x5000, asid)

    assert (leads_to(scene, 0x5000, 0x6000), leads_to(scene, 0x9000, 0xA000)) == (False, True)


@pytest.mark.spec(INVALIDATIONS)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_under_nested_paging_neither_is_an_event(kernel: str, mmu: MmuKind) -> None:
    """Edge: what is flushed there is the processor's alone. KVM intercepts INVLPGA, and has nothing to do."""
    scene = editing_guest(kernel, {0x5000: 0x6000}, mmu=mmu)
    scene.reads(0x5000)
    scene.edit(0x5000, 0x7067)
    scene.vm.memory.write(0x7000, 77)
    scene.reads(0x7000)
    before = scene.vm.snapshot()

    scene.cpu.invlpg(0x5000)
    scene.cpu.invlpga(0x5000, 1)

    unchanged = scene.vm.snapshot() == before
    assert unchanged
    assert scene.reads(0x5000) == 77


@pytest.mark.spec(CHANGES)
def test_another_user_address_is_an_event(kernel: str, mmu: MmuKind) -> None:
    """The process puts other memory in the place of a slot: the guest finds that, and the old one is gone."""
    scene = guest(kernel, mmu, memory={GIB: MIB})
    scene.vm.memory.write(GIB, 1)
    assert scene.reads(GIB) == 1
    slot = scene.vm.kvm.memslots[0].by_id(1)
    assert slot is not None

    scene.vm.remove_memory(slot)
    scene.vm.add_memory(GIB, MIB)
    scene.vm.memory.write(GIB, 2)

    assert scene.reads(GIB) == 2


@pytest.mark.spec(CHANGES)
def test_another_frame_at_the_user_address_is_an_event(kernel: str, mmu: MmuKind) -> None:
    """The host takes the frame of one page: the spte for it goes, and that of its neighbour stays."""
    scene = guest(kernel, mmu, memory={GIB: MIB})
    gone, stays = GIB, GIB + PAGE
    for page in (gone, stays):
        scene.vm.memory.write(page, 5)
        assert scene.reads(page) == 5
    slot = scene.vm.kvm.memslots[0].by_id(1)
    assert slot is not None

    scene.vm.process.madvise_dontneed(slot.userspace_addr, 1)

    offsets = {leaf.offset for leaf in reached(scene.vm.snapshot())}
    assert (gone >> 12 in offsets, stays >> 12 in offsets) == (False, True)
    assert (scene.reads(gone), scene.reads(stays)) == (0, 5)

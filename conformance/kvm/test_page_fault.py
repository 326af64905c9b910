"""The way of a fault through KVM: what is counted, and what becomes of one on a reserved bit (kvm_mmu_page_fault)."""

import pytest

from conformance.looking import reached
from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from mmu_model.kvm.fault import (
    PFERR_PRESENT_MASK,
    PFERR_RSVD_MASK,
    PFERR_USER_MASK,
    RET_PF_EMULATE,
    RET_PF_RETRY,
)
from mmu_model.kvm.page_fault import kvm_mmu_page_fault
from mmu_model.kvm.retry import EmulationType
from mmu_model.snapshot import MmuKind

DEVICE = 3 * GIB
RESERVED = PFERR_RSVD_MASK | PFERR_PRESENT_MASK | PFERR_USER_MASK


def counted(scene: Scene) -> dict[str, int]:
    """What the vCPU counted since it was last asked."""
    stat = scene.cpu.vcpu.stat
    seen = {name: number for name, number in stat.items() if number and name.startswith("pf_")}
    stat.clear()
    return seen


def test_faults_are_counted_by_what_they_came_to(kernel: str, mmu: MmuKind) -> None:
    """A page that is mapped; a device, whose first access is emulated and leaves an MMIO spte. What that, or the
    vCPU, remembers is no fault any more."""
    scene = guest(kernel, mmu)
    use = scene.cpu.read
    seen = []
    for address in (0x5000, 0x5000, DEVICE, DEVICE, DEVICE + PAGE, DEVICE):
        use(address)
        seen.append(counted(scene))
    emulated = {"pf_taken": 1, "pf_emulate": 1}

    assert seen == [{"pf_taken": 1, "pf_fixed": 1}, {}, emulated, {}, emulated, {}]


def test_what_an_mmio_spte_says_of_older_slots_is_looked_at_again(kernel: str, mmu: MmuKind) -> None:
    """It has the generation of the memslots in it: there may be memory by now."""
    scene = guest(kernel, mmu)
    for n in range(2):
        scene.cpu.read(DEVICE + n * PAGE)
    counted(scene)
    generation = scene.vm.kvm.memslots[0].generation
    scene.vm.kvm.memslots[0].generation = generation + 2

    scene.cpu.read(DEVICE)

    assert counted(scene)["pf_taken"] == 1


def test_a_spte_that_is_none_of_mmio_any_more_is_tried_again(kernel: str, mmu: MmuKind) -> None:
    """The processor found reserved bits, and somebody has changed the spte since; or there is none at all."""
    scene = guest(kernel, mmu)
    scene.cpu.read(0x5000)
    counted(scene)
    for address in (0x5000, 0x20_0000, 40 * GIB):
        assert kvm_mmu_page_fault(scene.cpu.vcpu, address, RESERVED) is RET_PF_RETRY
        assert "pf_taken" not in counted(scene)


@pytest.mark.parametrize("paging", ["off", "4-level"])
def test_what_a_vcpu_remembers_of_a_device(kernel: str, mmu: MmuKind, paging: str) -> None:
    """From the spte, when the fault finds one: its frame and what may be done; the linear address with shadow
    paging of a guest with paging only."""
    scene = guest(kernel, mmu, paging, mapped={0x7000: DEVICE, 0x8000: DEVICE + PAGE}, mapped_flags=5)
    first, second = (DEVICE, DEVICE + PAGE) if paging == "off" else (0x7000, 0x8000)
    shadowed = mmu is MmuKind.SHADOW and paging != "off"
    for address in (first, second, first + 8):
        scene.cpu.read(address)
    (seen,) = scene.vm.snapshot().vcpus
    access = scene.vm.kvm.masks.mmio_access

    assert (seen.mmio.gfn, seen.mmio.gva) == (DEVICE >> 12, first if shadowed else 0)
    assert seen.mmio.access == (4 if shadowed else access)


def test_who_asks_what_the_emulator_has_to_know(kernel: str, mmu: MmuKind) -> None:
    """Where the fault was and whether it was user code."""
    scene = guest(kernel, mmu)
    scene.cpu.read(0x5000)
    for user in (PFERR_USER_MASK, 0):
        emulation = EmulationType()
        assert kvm_mmu_page_fault(scene.cpu.vcpu, DEVICE + 8, user, emulation) is RET_PF_EMULATE
        assert (emulation.address, emulation.user) == (DEVICE + 8, bool(user))
        assert not emulation.allow_retry_pf
        assert not emulation.write_pf_to_sp


def test_memory_that_came_where_a_device_was(kernel: str, mmu: MmuKind) -> None:
    """What was remembered of the device is forgotten; and when the memory goes, the device is there again."""
    scene = guest(kernel, mmu)
    scene.cpu.write(DEVICE, 5)
    slot = scene.vm.add_memory(DEVICE, MIB)
    seen = [scene.reads(DEVICE)]
    leaves = {leaf.offset for leaf in reached(scene.vm.snapshot())}
    scene.vm.remove_memory(slot)
    seen.append(scene.reads(DEVICE))

    assert (seen, DEVICE >> 12 in leaves) == ([0, 5], True)

"""Section "Events"."""

import pytest

from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from mmu_model.kvm.memslot import KVM_MEM_READONLY
from mmu_model.snapshot import MmuKind

DRIVEN = "events/driven-by-events/guest-and-host"
ACCESS = "events/missing-or-protected/access"

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

"""A guest under the TDP MMU that has touched a few pages."""

from typing import Final

from conformance.scenes import MIB, Scene, guest
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.snapshot import MmuKind

KERNEL: Final = "6.12"
ADDRESSES: Final = (0, 0x5000, 2 * MIB, 40 * MIB)


def touched_guest() -> Scene:
    """It wrote each address, and one, there."""
    scene = guest(KERNEL, MmuKind.TDP)
    for address in ADDRESSES:
        scene.cpu.write(address, address + 1)
    return scene


def the_slot(scene: Scene) -> KvmMemorySlot:
    """The slot at 0."""
    return next(iter(scene.vm.kvm.memslots[0]))

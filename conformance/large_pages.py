"""Guests with large pages on hosts with large pages, and the spte that maps an address."""

from typing import Final

from conformance.looking import Leaf, backing, leaves, roots
from conformance.scenes import GIB, MIB, PAGE, USED, Scene, guest
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.snapshot import MmuKind

SIZES: Final = {1: PAGE, 2: 2 * MIB, 3: GIB}
FAR: Final = 2 * GIB
"""Where the guest has memory to map with large pages."""


def large_guest(
    kernel: str,
    mmu: MmuKind,
    *,
    guest_level: int,
    host_level: int,
    flags: int = USED,
    paging: str = "4-level",
) -> Scene:
    """A guest that maps FAR with a page of one level, on a host that does with pages of another."""
    return guest(
        kernel,
        mmu,
        paging,
        memory={FAR: 2 * GIB - 64 * MIB if paging in ("32-bit", "PAE") else 2 * GIB},
        host_level=host_level,
        mapped={FAR: FAR},
        mapped_level=guest_level,
        mapped_flags=flags,
    )


def leaves_for(scene: Scene, gpa: int) -> list[Leaf]:
    """The sptes that map a guest-physical address."""
    snapshot = scene.vm.snapshot()
    return [
        leaf
        for root in roots(snapshot)
        for leaf in leaves(snapshot, root, root.role.level)
        if covers(scene, leaf, gpa)
    ]


def leaf_for(scene: Scene, gpa: int) -> Leaf:
    """The spte that maps a guest-physical address; there must be exactly one."""
    found = leaves_for(scene, gpa)
    assert len(found) == 1
    return found[0]


def level_for(scene: Scene, gpa: int) -> int:
    """How large that spte is, as a level."""
    return leaf_for(scene, gpa).holder.role.level


def covers(scene: Scene, leaf: Leaf, gpa: int) -> bool:
    """Whether the frames that an spte maps have the one behind a guest-physical address."""
    pfn = backing(scene.vm, gpa >> 12)
    assert pfn is not None
    span: int = 512 ** (leaf.holder.role.level - 1)
    return leaf.spte.pfn <= pfn < leaf.spte.pfn + span


def slot_at(scene: Scene, gpa: int) -> KvmMemorySlot:
    """The slot that has a guest-physical address."""
    slot = scene.vm.kvm.memslots[0].find(gpa >> 12)
    assert slot is not None
    return slot

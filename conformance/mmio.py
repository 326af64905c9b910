"""A guest that uses addresses without memory, and what is remembered of that."""

from typing import Final

from conformance.scenes import GIB, MIB, Scene
from mmu_model.hardware import Gfn
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind, Spte
from mmu_model.snapshot.spte import Kind

DEVICE: Final = 0xF000_0000
"""A guest-physical address without memory."""

UPDATE: Final = "kvm.memory_region.finish_memslots_update"
"""What KVM calls at the end of a change of memslots, when nobody uses the old ones any more."""


def mmio_spte(scene: Scene) -> Spte | None:
    """The only MMIO spte that there is."""
    found = [
        spte
        for page in scene.vm.snapshot().pages
        for spte in page.sptes().values()
        if spte.kind is Kind.MMIO and page.role.level == 1
    ]
    assert len(found) <= 1
    return found[0] if found else None


def slow(scene: Scene) -> bool:
    """Whether an access to DEVICE goes the long way, through the memslots."""
    stat = scene.cpu.vcpu.stat
    taken = stat["pf_taken"]
    scene.reads(DEVICE)
    return stat["pf_taken"] == taken + 1


def add_a_slot(scene: Scene, gpa: int = 4 * GIB) -> None:
    """The guest gets memory."""
    scene.vm.add_memory(gpa, MIB)


def forget_in_the_vcpu(scene: Scene) -> None:
    """What the vCPU itself remembers of its last MMIO goes; the sptes stay."""
    scene.cpu.vcpu.mmio.gfn = Gfn(0)
    scene.cpu.vcpu.mmio.gva = 0


KINDS: Final = [
    (MmuKind.TDP, TdpFormat.NPT),
    (MmuKind.TDP, TdpFormat.EPT),
    (MmuKind.DIRECT, TdpFormat.NPT),
    (MmuKind.DIRECT, TdpFormat.EPT),
    (MmuKind.SHADOW, TdpFormat.NPT),
]
"""Every MMU, over every format of sptes."""

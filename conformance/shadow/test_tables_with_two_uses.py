"""A hypervisor uses the nested tables of its guest as its own page tables, too: KVM shadows them no more."""

import pytest

from conformance.scenes import Scene, nested_guest
from mmu_model.hardware import Registers
from mmu_model.kernels import KERNELS
from mmu_model.snapshot import MmuKind

pytestmark = [
    pytest.mark.parametrize("kernel", KERNELS),
    pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value),
]


def shadowed(scene: Scene) -> set[int]:
    """The frames of tables that are shadowed."""
    return {page.gfn << 12 for page in scene.vm.snapshot().pages if not page.role.direct}


def after_its_guest(kernel: str, mmu: MmuKind, *, reads_tables: bool) -> Scene:
    """A hypervisor with NPT whose guest has run; it then loads the nested tables as its own.

    If it `reads_tables` before, their frames are mapped for it, write-protected.
    """
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000})
    scene.vm.memory.write(0x6000, 77)
    assert scene.reads(0x5000) == 77
    scene.cpu.leave_nested()
    own = scene.cpu.vcpu.registers
    scene.cpu.set_registers(Registers(maxphyaddr=46))
    for frame in scene.frames if reads_tables else ():
        scene.cpu.read(frame)
    scene.cpu.set_registers(own)
    assert scene.tables is not None
    scene.cpu.mov_cr3(scene.tables.root)
    scene.cpu.vcpu.stat.clear()
    return scene


def test_a_walk_that_would_mark_a_shadowed_table_unshadows_it(kernel: str, mmu: MmuKind) -> None:
    """The processor takes every access to a table for a write (APM vol. 2, 15.25.6), and KVM could emulate no walk:
    the tables are zapped, and the guest tries again, one table after the other (kvm_mmu_page_fault)."""
    scene = after_its_guest(kernel, mmu, reads_tables=True)
    assert shadowed(scene) == set(scene.frames)

    assert scene.reads(0x5000) == 77

    stat = scene.cpu.vcpu.stat
    assert shadowed(scene) == set()
    assert (stat["pf_emulate"], stat["pf_retry"] > 0) == (0, True)


def test_a_walk_of_tables_that_are_not_mapped_is_emulated(kernel: str, mmu: MmuKind) -> None:
    """Edge: KVM maps the frame, and finds only then that it is a table."""
    scene = after_its_guest(kernel, mmu, reads_tables=False)

    assert scene.reads(0x5000) == 77

    assert shadowed(scene) == set(scene.frames)
    assert scene.cpu.vcpu.stat["pf_emulate"] == 1

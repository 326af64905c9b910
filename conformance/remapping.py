"""A guest that is about to point entries of its own at another frame."""

from conformance.looking import structs
from conformance.scenes import Editor, editing_guest
from mmu_model.kvm.page import KvmMmuPage

HERE, OTHER = 0x6000, 0x7000
OLD, NEW = 111, 222
"""What is in the one and in the other."""


def page_at(scene: Editor, address: int, level: int = 1) -> KvmMmuPage:
    """The page of that level that shadows the guest's table for an address."""
    assert scene.tables is not None
    gfn = scene.tables.entry_address(address, level) >> 12
    (sp,) = (sp for sp in structs(scene.vm) if int(sp.gfn) == gfn and sp.role == now(scene, sp))
    return sp


def now(scene: Editor, sp: KvmMmuPage) -> int:
    """The role of a page as pages of the guest's present mode have it."""
    role = scene.cpu.vcpu.mmu.root_role
    return sp.role.replace(cr0_wp=role.cr0_wp, smep_andnot_wp=role.smep_andnot_wp)


def remappable(kernel: str, *addresses: int, paging: str = "4-level") -> Editor:
    """A guest that has read OLD at these addresses, and has NEW at OTHER."""
    scene = editing_guest(kernel, dict.fromkeys(addresses, HERE), paging)
    scene.vm.memory.write(HERE, OLD)
    scene.vm.memory.write(OTHER, NEW)
    for address in addresses:
        assert scene.reads(address) == OLD
    return scene

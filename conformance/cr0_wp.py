"""A guest kernel that may write to read-only pages, on a host that may not: scenes, accesses, the spte."""

from conformance.looking import structs
from conformance.scenes import STUCK, USED, Scene, guest
from mmu_model.hardware import Kind, PageFault
from mmu_model.kvm.errors import KvmBug
from mmu_model.snapshot import MmuKind, Spte

READ_ONLY = USED & ~0x2
"""gpte.u = 1, gpte.w = 0."""
XD = 1 << 63
HERE = 0x5000
DENIED = "page fault"


def guest_without_wp(
    kernel: str,
    paging: str = "4-level",
    *,
    mmu: MmuKind = MmuKind.SHADOW,
    cr0_wp: bool = False,
    cr4: int = 0,
    flags: int = READ_ONLY,
    nx: bool = True,
) -> Scene:
    """A shadowed guest with CR0.WP = 0 and a page at HERE that its table has as read-only and user; or another."""
    scene = guest(
        kernel, mmu, paging, mapped={HERE: 0x6000}, mapped_flags=flags, cr0_wp=cr0_wp, cr4=cr4, nx=nx
    )
    scene.vm.memory.write(0x6000, 5)
    return scene


def tries(scene: Scene, kind: Kind, cpl: int = 0) -> object:
    """What comes of an access to HERE: DENIED if the guest gets a page fault, STUCK if it faults for ever."""
    try:
        if kind is Kind.WRITE:
            scene.cpu.write(HERE, 9, cpl=cpl)
            return scene.vm.memory.read(0x6000)
        return scene.cpu.fetch(HERE, cpl=cpl) if kind is Kind.FETCH else scene.cpu.read(HERE, cpl=cpl)
    except PageFault:
        return DENIED
    except KvmBug:
        return STUCK


def leaf(scene: Scene) -> Spte:
    """The spte of HERE in the page that the loaded root leads to."""
    role = scene.cpu.vcpu.mmu.root_role
    (page,) = (
        sp
        for sp in structs(scene.vm)
        if sp.role.level == 1
        and sp.role.cr0_wp == role.cr0_wp
        and sp.role.smep_andnot_wp == role.smep_andnot_wp
        and sp.role.smap_andnot_wp == role.smap_andnot_wp
    )
    return Spte(scene.vm.host.read(page.sptep(HERE >> 12)), 1)


def faults(scene: Scene) -> int:
    """How many faults KVM has handled."""
    return scene.cpu.vcpu.stat["pf_taken"]

"""Section "Emulating cr0.wp": a guest kernel that may write to read-only pages, on a host that may not."""

from itertools import product

import pytest

from conformance.looking import structs
from conformance.scenes import STUCK, USED, Scene, editing_guest, guest
from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NXE,
    Access,
    Kind,
    PageFault,
    Registers,
    access,
    permissions,
)
from mmu_model.kvm.errors import KvmBug
from mmu_model.snapshot import MmuKind, Spte

READ_ONLY = USED & ~0x2
"""gpte.u = 1, gpte.w = 0."""
XD = 1 << 63
HERE = 0x5000
DENIED = "page fault"


def guest_without_wp(kernel: str, *, cr4: int = 0, flags: int = READ_ONLY, nx: bool = True) -> Scene:
    """A shadowed guest with CR0.WP = 0 and a page at HERE that its table has as read-only and user."""
    scene = guest(
        kernel,
        MmuKind.SHADOW,
        "4-level",
        mapped={HERE: 0x6000},
        mapped_flags=flags,
        cr0_wp=False,
        cr4=cr4,
        nx=nx,
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


@pytest.mark.spec("emulating-cr0.wp/host-keeps-wp/host-wp-is-1")
def test_the_host_sees_writes_of_a_kernel_without_write_protection(kernel: str) -> None:
    """A guest kernel with CR0.WP = 0 writes to a table that KVM protects: it comes to KVM all the same."""
    scene = editing_guest(kernel, {HERE: 0x6000})
    scene.cpu.mov_cr0(scene.cpu.vcpu.registers.cr0 & ~CR0_WP)
    scene.reads(HERE)
    scene.reads(scene.gpte(20 << 21, 2))
    emulated = scene.cpu.vcpu.stat["pf_emulate"]

    scene.edit(20 << 21, 0, level=2)

    assert scene.cpu.vcpu.stat["pf_emulate"] == emulated + 1


@pytest.mark.spec("emulating-cr0.wp/host-keeps-wp/guest-wp-1-is-no-problem")
def test_with_write_protection_the_spte_is_like_the_gpte(kernel: str) -> None:
    """U and W of the guest's entry are those of the spte, and the kernel's write is denied as it should be."""
    scene = guest_without_wp(kernel)
    scene.cpu.mov_cr0(scene.cpu.vcpu.registers.cr0 | CR0_WP)

    assert tries(scene, Kind.READ) == tries(scene, Kind.READ, 3) == 5
    assert tries(scene, Kind.WRITE) == tries(scene, Kind.WRITE, 3) == DENIED
    assert (leaf(scene).user, leaf(scene).writable) == (True, False)


@pytest.mark.spec("emulating-cr0.wp/host-keeps-wp/guest-wp-0-has-no-spte")
def test_no_entry_grants_the_kernel_everything_and_users_reading() -> None:
    """All four combinations of U and W in an entry, on a processor with CR0.WP = 1."""
    host = Registers(cr0=CR0_PE | CR0_PG | CR0_WP, cr4=1 << 5, efer=EFER_NXE)
    wanted = {
        access(Kind.READ): True,
        access(Kind.WRITE): True,
        access(Kind.READ, user=True): True,
        access(Kind.WRITE, user=True): False,
    }

    def granted(user: bool, writable: bool) -> dict[Access, bool]:
        rights = {"user": user, "writable": writable, "executable": True}
        return {how: permissions.permitted(host, how, **rights) for how in wanted}

    assert [granted(*combination) == wanted for combination in product((False, True), repeat=2)] == [
        False
    ] * 4


@pytest.mark.spec("emulating-cr0.wp/two-sptes/by-fault-type")
def test_one_gpte_has_one_of_two_sptes(kernel: str) -> None:
    """Which, is a matter of who faulted last: a kernel that wrote, or a user that read."""
    scene = guest_without_wp(kernel)

    seen = []
    for kind, cpl in ((Kind.WRITE, 0), (Kind.READ, 3), (Kind.WRITE, 0)):
        tries(scene, kind, cpl)
        seen.append((leaf(scene).user, leaf(scene).writable))

    assert seen == [(False, True), (True, False), (False, True)]


@pytest.mark.spec("emulating-cr0.wp/kernel-write/u0-w1")
def test_a_kernel_write_makes_the_spte_the_kernels(kernel: str) -> None:
    """Writable, and closed to users: the kernel reads and writes without another fault."""
    scene = guest_without_wp(kernel)
    assert tries(scene, Kind.WRITE) == 9
    faults = scene.cpu.vcpu.stat["pf_taken"]

    assert tries(scene, Kind.READ) == 9
    assert tries(scene, Kind.WRITE) == 9

    assert scene.cpu.vcpu.stat["pf_taken"] == faults
    assert (leaf(scene).user, leaf(scene).writable) == (False, True)


@pytest.mark.spec("emulating-cr0.wp/read/u1-w0")
@pytest.mark.parametrize("cpl", [0, 3])
def test_a_read_makes_the_spte_everybodys(kernel: str, cpl: int) -> None:
    """Open to users, and not writable: all may read without another fault."""
    scene = guest_without_wp(kernel)
    assert tries(scene, Kind.READ, cpl) == 5
    faults = scene.cpu.vcpu.stat["pf_taken"]

    assert tries(scene, Kind.READ, 0) == 5
    assert tries(scene, Kind.READ, 3) == 5

    assert scene.cpu.vcpu.stat["pf_taken"] == faults
    assert (leaf(scene).user, leaf(scene).writable) == (True, False)


@pytest.mark.spec("emulating-cr0.wp/user-write/page-fault")
def test_a_user_write_is_the_guests_own_fault(kernel: str) -> None:
    """Also while the spte is writable, for the kernel."""
    scene = guest_without_wp(kernel)
    assert tries(scene, Kind.WRITE, 3) == DENIED
    assert tries(scene, Kind.WRITE, 0) == 9

    assert tries(scene, Kind.WRITE, 3) == DENIED


@pytest.mark.spec("emulating-cr0.wp/smep/kernel-may-execute")
def test_a_kernel_page_may_be_executed_with_smep() -> None:
    """SMEP keeps the kernel from executing a user page; with U taken from the entry nothing does but XD."""
    host = Registers(cr0=CR0_PE | CR0_PG | CR0_WP, cr4=1 << 5 | CR4_SMEP, efer=EFER_NXE)
    fetch = access(Kind.FETCH)

    assert not permissions.permitted(host, fetch, writable=False, user=True, executable=True)
    assert permissions.permitted(host, fetch, writable=True, user=False, executable=True)
    assert not permissions.permitted(host, fetch, writable=True, user=False, executable=False)


@pytest.mark.spec("emulating-cr0.wp/smep/nx-set")
@pytest.mark.parametrize("smep", [0, CR4_SMEP])
def test_with_smep_the_kernels_spte_is_not_executable(kernel: str, smep: int) -> None:
    """The kernel wrote to a user page; it may execute it only without SMEP."""
    scene = guest_without_wp(kernel, cr4=smep)
    tries(scene, Kind.WRITE)

    assert leaf(scene).executable == (not smep)
    assert tries(scene, Kind.FETCH) == (DENIED if smep else 9)


@pytest.mark.spec("emulating-cr0.wp/smep/user-fault-reverts")
@pytest.mark.parametrize("kind", [Kind.READ, Kind.FETCH])
@pytest.mark.parametrize("xd", [0, XD])
def test_a_users_fault_takes_it_back(kernel: str, kind: Kind, xd: int) -> None:
    """U is 1 again, and XD is that of the guest's entry."""
    scene = guest_without_wp(kernel, cr4=CR4_SMEP, flags=READ_ONLY | xd)
    assert tries(scene, Kind.WRITE) == 9

    seen = tries(scene, kind, 3)

    if kind is Kind.FETCH and xd:
        assert seen == DENIED
    else:
        assert seen == 9
        assert (leaf(scene).user, leaf(scene).executable) == (True, not xd)


@pytest.mark.spec("emulating-cr0.wp/smep/efer.nx-forced")
def test_xd_works_though_the_guest_has_no_nx(kernel: str) -> None:
    """A guest with EFER.NXE = 0: the spte with XD set is no malformed one for the processor."""
    scene = guest_without_wp(kernel, cr4=CR4_SMEP, nx=False)

    assert tries(scene, Kind.WRITE) == 9
    assert not leaf(scene).executable


@pytest.mark.spec("emulating-cr0.wp/smap/not-reused-with-smap")
def test_the_kernels_spte_is_not_used_once_smap_is_on(kernel: str) -> None:
    """With SMAP the kernel may not touch user pages. The spte from before, which says kernel, would let it."""
    scene = guest_without_wp(kernel)
    assert tries(scene, Kind.WRITE) == 9

    scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 | CR4_SMAP)

    assert tries(scene, Kind.READ) == DENIED


@pytest.mark.spec("emulating-cr0.wp/smap/in-the-role")
def test_smap_without_wp_is_in_the_role(kernel: str) -> None:
    """The pages for one value are others than those for the other."""
    scene = guest_without_wp(kernel)
    tries(scene, Kind.READ, 3)
    scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 | CR4_SMAP)
    tries(scene, Kind.READ, 3)

    levels = sorted((sp.role.level, sp.role.smap_andnot_wp) for sp in structs(scene.vm))

    assert levels == [(level, value) for level in (1, 2, 3, 4) for value in (0, 1)]


@pytest.mark.spec("emulating-cr0.wp/smap/smap-on-is-no-case")
def test_with_smap_the_kernels_write_is_a_fault_of_the_guest(kernel: str) -> None:
    """KVM's own walk denies it: the guest gets the fault, and there is no spte."""
    scene = guest_without_wp(kernel, cr4=CR4_SMAP)

    assert tries(scene, Kind.WRITE) == DENIED

    assert [sp for sp in structs(scene.vm) if sp.role.level == 1] == []


@pytest.mark.spec("emulating-cr0.wp/roles/cr0.wp-in-role")
def test_the_kernels_spte_is_not_used_once_wp_is_on(kernel: str) -> None:
    """With CR0.WP = 1 the kernel's write to a read-only page is denied, though there was a writable spte."""
    scene = guest_without_wp(kernel)
    assert tries(scene, Kind.WRITE) == 9

    scene.cpu.mov_cr0(scene.cpu.vcpu.registers.cr0 | CR0_WP)

    assert tries(scene, Kind.WRITE) == DENIED


@pytest.mark.spec("emulating-cr0.wp/roles/missed-by-lookup")
def test_pages_of_the_other_wp_are_missed_and_found_again(kernel: str) -> None:
    """With CR0.WP = 1 there are new pages; back at 0, the old ones are found, with what they had."""
    scene = guest_without_wp(kernel)
    tries(scene, Kind.WRITE)
    old = {sp.address for sp in structs(scene.vm)}
    cr0 = scene.cpu.vcpu.registers.cr0

    scene.cpu.mov_cr0(cr0 | CR0_WP)
    tries(scene, Kind.READ)
    new = {sp.address for sp in structs(scene.vm)} - old
    scene.cpu.mov_cr0(cr0)
    faults = scene.cpu.vcpu.stat["pf_taken"]

    assert len(new) == len(old) == 4
    assert tries(scene, Kind.READ) == 9
    assert scene.cpu.vcpu.stat["pf_taken"] == faults
    assert {sp.address for sp in structs(scene.vm)} == old | new


@pytest.mark.spec("emulating-cr0.wp/roles/smep-issue")
def test_the_kernels_spte_is_not_used_once_smep_is_on(kernel: str) -> None:
    """Made without SMEP it may be executed. With SMEP the kernel may not execute the user page."""
    scene = guest_without_wp(kernel)
    assert tries(scene, Kind.WRITE) == 9
    assert tries(scene, Kind.FETCH) == 9

    scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 | CR4_SMEP)

    assert tries(scene, Kind.FETCH) == DENIED


@pytest.mark.spec("emulating-cr0.wp/roles/smep-in-role")
def test_smep_without_wp_is_in_the_role(kernel: str) -> None:
    """The pages for one value are others than those for the other."""
    scene = guest_without_wp(kernel)
    tries(scene, Kind.READ)
    scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 | CR4_SMEP)
    tries(scene, Kind.READ)

    levels = sorted((sp.role.level, sp.role.smep_andnot_wp) for sp in structs(scene.vm))

    assert levels == [(level, value) for level in (1, 2, 3, 4) for value in (0, 1)]

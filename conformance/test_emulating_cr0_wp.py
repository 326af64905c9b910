"""Section "Emulating cr0.wp": a guest kernel that may write to read-only pages, on a host that may not."""

from itertools import product

import pytest

from conformance.cr0_wp import DENIED, HERE, READ_ONLY, faults, guest_without_wp, leaf, tries
from conformance.looking import processor
from conformance.scenes import editing_guest
from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    EFER_NXE,
    Access,
    Kind,
    PageFault,
    Registers,
    access,
    permissions,
)
from mmu_model.snapshot import MmuKind


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


@pytest.mark.spec("emulating-cr0.wp/host-keeps-wp/host-wp-is-1")
@pytest.mark.parametrize("cr0_wp", [False, True])
def test_the_processor_has_write_protection_whatever_the_guest_has(
    kernel: str, mmu: MmuKind, cr0_wp: bool
) -> None:
    """Edge: under nested paging it has what the guest has, and the pages are protected elsewhere."""
    scene = guest_without_wp(kernel, mmu=mmu, cr0_wp=cr0_wp)

    assert tries(scene, Kind.READ) == 5

    assert bool(processor(scene.cpu).registers.cr0 & CR0_WP) is (mmu is MmuKind.SHADOW or cr0_wp)


@pytest.mark.spec("emulating-cr0.wp/host-keeps-wp/guest-wp-1-is-no-problem")
@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("user", [False, True])
def test_with_write_protection_the_spte_is_like_the_gpte(kernel: str, user: bool, writable: bool) -> None:
    """U and W of the guest's entry are those of the spte, and each access is granted or denied as it should be."""
    flags = READ_ONLY & ~0x4 | 0x4 * user | 0x2 * writable
    scene = guest_without_wp(kernel, cr0_wp=True, flags=flags)

    assert tries(scene, Kind.READ) == 5
    assert tries(scene, Kind.READ, 3) == (5 if user else DENIED)
    assert (leaf(scene).user, leaf(scene).writable) == (user, writable)
    assert tries(scene, Kind.WRITE, 3) == (9 if user and writable else DENIED)
    assert tries(scene, Kind.WRITE) == (9 if writable else DENIED)
    assert (leaf(scene).user, leaf(scene).writable) == (user, writable)


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
@pytest.mark.parametrize("kind", [Kind.READ, Kind.FETCH])
def test_a_kernel_write_makes_the_spte_the_kernels(kernel: str, kind: Kind) -> None:
    """Writable, and closed to users: the kernel reads and writes without another fault, a user does not read."""
    scene = guest_without_wp(kernel)
    assert tries(scene, Kind.WRITE) == 9
    before = faults(scene)

    assert tries(scene, Kind.READ) == 9
    assert tries(scene, Kind.WRITE) == 9

    assert faults(scene) == before
    assert (leaf(scene).user, leaf(scene).writable) == (False, True)
    tries(scene, kind, 3)
    assert faults(scene) == before + 1


@pytest.mark.spec("emulating-cr0.wp/read/u1-w0")
@pytest.mark.parametrize("cpl", [0, 3])
def test_a_read_makes_the_spte_everybodys(kernel: str, cpl: int) -> None:
    """Open to users, and not writable: all may read without another fault, and the kernel may not write."""
    scene = guest_without_wp(kernel)
    assert tries(scene, Kind.READ, cpl) == 5
    before = faults(scene)

    assert tries(scene, Kind.READ, 0) == 5
    assert tries(scene, Kind.READ, 3) == 5

    assert faults(scene) == before
    assert (leaf(scene).user, leaf(scene).writable) == (True, False)
    tries(scene, Kind.WRITE)
    assert faults(scene) == before + 1


@pytest.mark.spec("emulating-cr0.wp/user-write/page-fault")
@pytest.mark.parametrize(
    "last", [None, Kind.READ, Kind.WRITE], ids=lambda last: last.value if last else "none"
)
def test_a_user_write_is_the_guests_own_fault(kernel: str, last: Kind | None) -> None:
    """For a write by a user to a page that is there, whatever spte the kernel's last access left."""
    scene = guest_without_wp(kernel)
    if last is not None:
        tries(scene, last)

    with pytest.raises(PageFault) as raised:
        scene.cpu.write(HERE, 1, cpl=3)

    assert (raised.value.error_code, raised.value.cr2) == (0x7, HERE)

"""Section "Shadow pages": the fields of pages that shadow the EPT of a hypervisor on Intel's processors."""

import pytest

from conformance.looking import FLAGS, flags_after_use, roots
from conformance.nested_ept import EPT_USED, NestedEpt, R, W, X, nested_ept_guest
from conformance.scenes import MIB, TABLES, nested_guest
from mmu_model.hardware import CR0_WP, Registers
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind

ACC_EXEC, ACC_WRITE, ACC_READ = 1, 2, 4

both_mmus = pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])


def roles(scene: NestedEpt, field: str) -> set[int]:
    """All values of a field in the pages of EPT02."""
    return {getattr(page.role, field) for page in scene.shadows()}


@pytest.mark.spec("role.ad_disabled/ept-and-shadow-ept")
@pytest.mark.spec("role.ad_disabled/cannot-use-ad-bits")
@both_mmus
@pytest.mark.parametrize("enabled", [True, False])
def test_shadow_ept_has_ad_disabled_unless_the_hypervisor_enables_the_flags(
    kernel: str, mmu: MmuKind, enabled: bool
) -> None:
    """The host's EPT has them either way; its pages for the hypervisor have the field 0, and those that shadow
    the hypervisor's EPT have what bit 6 of its EPTP says. The processor marks their entries accordingly."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000}, accessed_dirty=enabled)
    scene.as_hypervisor(lambda: scene.cpu.read(0x6000))
    scene.cpu.write(0x5000, 5)
    flags = FLAGS[TdpFormat.EPT]

    seen = flags_after_use(scene.vm, scene.cpu, flags)

    assert seen == ({"read": flags & -flags, "write": flags} if enabled else {"read": 0, "write": 0})
    assert roles(scene, "ad_disabled") == {int(not enabled)}
    own = [page for page in scene.vm.snapshot().pages if not page.role.guest_mode]
    assert {page.role.ad_disabled for page in own} == {0}
    types = {spte.ad_type for page in scene.shadows() for spte in page.sptes().values()}
    assert types == {int(not enabled)}


@pytest.mark.spec("role.ad_disabled/ept-and-shadow-ept")
def test_a_hypervisor_that_changes_its_mind_gets_other_pages(kernel: str) -> None:
    """The same tables, once with the flags and once without: shadowed twice."""
    scene = nested_ept_guest(kernel, MmuKind.TDP, {0x5000: 0x6000})
    scene.cpu.read(0x5000)
    scene.eptp ^= 1 << 6
    scene.as_hypervisor(lambda: None)
    scene.cpu.read(0x5000)

    pages = sorted((page.role.level, page.role.ad_disabled) for page in scene.shadows())

    assert pages == [(level, disabled) for level in (1, 2, 3, 4) for disabled in (0, 1)]


@pytest.mark.spec("role.guest_mode/nested-guest")
@both_mmus
@pytest.mark.parametrize("nested_tables", [True, False])
def test_pages_made_for_a_nested_guest_say_so(kernel: str, mmu: MmuKind, nested_tables: bool) -> None:
    """Those of EPT02, and those for a nested guest whose hypervisor uses no EPT; not the hypervisor's own."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000})
    if not nested_tables:
        scene.cpu.leave_nested()
        scene.cpu.read(0x6000)
        scene.cpu.enter_nested(None, Registers(maxphyaddr=46))
    before = {page.id: page.role.guest_mode for page in scene.vm.snapshot().pages}
    scene.cpu.read(0x5000)
    after = {page.id: page.role.guest_mode for page in scene.vm.snapshot().pages}

    assert set(before.values()) <= {0}
    assert {mode for page, mode in after.items() if page not in before} == {1}


@pytest.mark.spec("role.access/inherited-uwx")
@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize(
    ("rights", "access"),
    [(R | W, ACC_READ | ACC_WRITE), (R | X, ACC_READ | ACC_EXEC), (X, ACC_EXEC), (R, ACC_READ)],
)
def test_a_page_inherits_what_the_levels_of_ept_above_grant(
    kernel: str, level: int, rights: int, access: int
) -> None:
    """Edge: there are no users in EPT. The u of uwx says that the hypervisor lets its guest read."""
    scene = nested_ept_guest(kernel, MmuKind.TDP, {0x5000: 0x6000})
    scene.edit(0x5000, scene.entry(0x5000, level) & ~7 | rights, level)
    scene.outcome("fetch" if rights & X else "read", 0x5000)

    found = {page.role.level: page.role.access for page in scene.shadows()}

    assert found == {n: access if n < level else 7 for n in (1, 2, 3, 4)}


@pytest.mark.spec("role.access/inherited-uwx")
@pytest.mark.spec("role.access/execute-positive")
@pytest.mark.parametrize("rights", [R | W | X, R | W, R | X, X])
def test_a_part_of_a_large_page_of_ept_has_the_access_of_its_entry(kernel: str, rights: int) -> None:
    """Edge: the page that maps a large page of EPT12 in parts counts the entry of that page, too; execution is
    the bit of value 1, and set where it is granted."""
    scene = nested_ept_guest(kernel, MmuKind.TDP, {4 * MIB: 8 * MIB}, level=2, flags=EPT_USED & ~7 | rights)
    scene.outcome("fetch" if rights & X else "read", 4 * MIB)

    access = {page.role.level: page.role.access for page in scene.shadows()}

    expected = bool(rights & R) * ACC_READ | rights & W | bool(rights & X) * ACC_EXEC
    assert access == {4: 7, 3: 7, 2: 7, 1: expected}


@pytest.mark.spec("role.efer_nx/efer.nx")
@pytest.mark.spec("role.cr0_wp/cr0.wp")
def test_neither_efer_nor_cr0_counts_in_the_shadow_of_ept(kernel: str) -> None:
    """Edge: the hypervisor has both bits set, and its EPT knows of none: the fields are 0."""
    scene = nested_ept_guest(kernel, MmuKind.TDP, {0x5000: 0x6000})
    scene.cpu.read(0x5000)
    hypervisor = scene.cpu.vcpu.l1_registers
    assert hypervisor is not None and hypervisor.nxe and hypervisor.cr0 & CR0_WP

    assert [roles(scene, field) for field in ("efer_nx", "cr0_wp", "smep_andnot_wp", "smap_andnot_wp")] == [
        {0}
    ] * 4


@pytest.mark.spec("role.passthrough/five-over-four-levels")
@pytest.mark.parametrize("walk_length", [4, 5])
def test_ept_needs_no_passthrough(kernel: str, walk_length: int) -> None:
    """Edge: a host that walks 5 levels of EPT walks 4 as well, if the EPTP says so: the shadow has as many as
    the hypervisor's EPT, and each of its pages shadows a table."""
    scene = nested_ept_guest(kernel, MmuKind.TDP, {0x5000: 0x6000}, walk_length=walk_length)
    scene.cpu.read(0x5000)

    (root,) = roots(scene.vm.snapshot())

    assert (root.role.level, root.role.passthrough) == (walk_length, 0)
    assert {page.gfn << 12 for page in scene.shadows()} == set(scene.frames)


@pytest.mark.spec("gfn/table-or-base-frame")
@pytest.mark.spec("role.direct/clear-guest-page-table")
@both_mmus
def test_the_gfn_of_a_page_of_ept02_is_a_table_of_ept12(kernel: str, mmu: MmuKind) -> None:
    """Level by level."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000, TABLES: 0x7000}, tdp_format=TdpFormat.EPT)
    for address in (0x5000, TABLES):
        scene.reads(address)

    pages = [page for page in scene.vm.snapshot().pages if page.role.guest_mode]

    assert {page.role.direct for page in pages} == {0}
    assert sorted(page.gfn << 12 for page in pages) == sorted(scene.frames)

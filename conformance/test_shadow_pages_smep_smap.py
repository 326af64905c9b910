"""Section "Shadow pages": role.smep_andnot_wp, role.smap_andnot_wp."""

import pytest

from conformance.nested_ept import nested_ept_guest
from conformance.scenes import P_W_U, Scene, guest, nested_guest
from mmu_model.hardware import CR0_WP, CR4_SMAP, CR4_SMEP
from mmu_model.snapshot import MmuKind

FIELDS = {"smep_andnot_wp": CR4_SMEP, "smap_andnot_wp": CR4_SMAP}
SMEP, SMAP = "role.smep_andnot_wp/smep-and-not-wp", "role.smap_andnot_wp/smap-and-not-wp"
KERNEL_PAGE = P_W_U & ~0x4
"""Flags of an entry that the kernel may use with SMAP."""


def values(scene: Scene, *, guest_mode: int = 0) -> dict[str, set[int]]:
    """What both fields are in the pages that there are for the guest, or for its guest."""
    pages = [page for page in scene.vm.snapshot().pages if page.role.guest_mode == guest_mode]
    return {field: {getattr(page.role, field) for page in pages} for field in FIELDS}


@pytest.mark.spec(SMEP)
@pytest.mark.spec(SMAP)
@pytest.mark.parametrize("cr4", [0, CR4_SMEP, CR4_SMAP, CR4_SMEP | CR4_SMAP])
@pytest.mark.parametrize("paging", ["32-bit", "PAE", "4-level"])
def test_each_counts_without_write_protection(kernel: str, cr4: int, paging: str) -> None:
    """A field is 1 with its own bit of CR4 and without CR0.WP, in all pages; the other's bit is nothing to it."""
    found = {}
    for wp in (False, True):
        scene = guest(
            kernel,
            MmuKind.SHADOW,
            paging,
            mapped={0x5000: 0x6000},
            mapped_flags=KERNEL_PAGE,
            cr0_wp=wp,
            cr4=cr4,
        )
        scene.reads(0x5000)
        found[wp] = values(scene)

    assert found == {
        False: {field: {int(bool(cr4 & bit))} for field, bit in FIELDS.items()},
        True: {field: {0} for field in FIELDS},
    }


@pytest.mark.parametrize(
    "field",
    [
        pytest.param("smep_andnot_wp", marks=pytest.mark.spec(SMEP)),
        pytest.param("smap_andnot_wp", marks=pytest.mark.spec(SMAP)),
    ],
)
def test_pages_for_which_it_is_true_are_others(kernel: str, field: str) -> None:
    """The guest sets the bit of CR4, and clears it again. Without CR0.WP every table is shadowed once for each;
    with CR0.WP it makes no difference."""
    pages = {}
    for wp in (False, True):
        scene = guest(
            kernel,
            MmuKind.SHADOW,
            "4-level",
            mapped={0x5000: 0x6000},
            mapped_flags=KERNEL_PAGE,
            cr0_wp=wp,
        )
        cr4 = scene.cpu.vcpu.registers.cr4
        for value in (cr4, cr4 | FIELDS[field], cr4):
            scene.cpu.mov_cr4(value)
            scene.reads(0x5000)
        shadows = [(page.gfn, getattr(page.role, field)) for page in scene.vm.snapshot().pages]
        pages[wp] = sorted(shadows)

    tables = sorted({gfn for gfn, _ in pages[True]})
    assert len(tables) == 4
    assert pages == {
        False: [(gfn, value) for gfn in tables for value in (0, 1)],
        True: [(gfn, 0) for gfn in tables],
    }


@pytest.mark.spec(SMEP)
@pytest.mark.spec(SMAP)
def test_without_guest_paging_it_does_not_count(kernel: str) -> None:
    """Edge: CR4.SMEP and CR4.SMAP are set and CR0.WP is not, but CR0.PG is not either."""
    scene = guest(kernel, MmuKind.SHADOW, "off")
    scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 | CR4_SMEP | CR4_SMAP)
    scene.reads(0x5000)
    assert not scene.cpu.vcpu.registers.cr0 & CR0_WP

    assert values(scene) == {field: {0} for field in FIELDS}


@pytest.mark.spec(SMEP)
@pytest.mark.spec(SMAP)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_under_nested_paging_it_does_not_count(kernel: str, mmu: MmuKind) -> None:
    """Edge: the processor judges by the guest's own registers, and the pages are for all of them."""
    scene = guest(
        kernel,
        mmu,
        "4-level",
        mapped={0x5000: 0x6000},
        mapped_flags=KERNEL_PAGE,
        cr0_wp=False,
        cr4=CR4_SMEP | CR4_SMAP,
    )
    assert scene.reads(0x5000) == 0

    assert values(scene) == {field: {0} for field in FIELDS}


@pytest.mark.spec(SMEP)
@pytest.mark.spec(SMAP)
@pytest.mark.parametrize("cr4", [CR4_SMEP, CR4_SMAP])
def test_in_the_shadow_of_nested_tables_write_protection_does_not_count(kernel: str, cr4: int) -> None:
    """Edge: the hypervisor has CR0.WP, which its nested page tables are not looked at with; its CR4 is."""
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: 0x6000}, cr4=cr4)
    scene.reads(0x5000)
    hypervisor = scene.cpu.vcpu.l1_registers
    assert hypervisor is not None
    assert hypervisor.cr0 & CR0_WP

    assert values(scene, guest_mode=1) == {field: {int(bool(cr4 & bit))} for field, bit in FIELDS.items()}


@pytest.mark.spec(SMEP)
@pytest.mark.spec(SMAP)
def test_in_the_shadow_of_ept_it_does_not_count(kernel: str) -> None:
    """Edge: EPT knows of no users, whatever the hypervisor has in its registers."""
    scene = nested_ept_guest(kernel, MmuKind.TDP, {0x5000: 0x6000})

    def without_protection() -> None:
        registers = scene.cpu.vcpu.registers
        scene.cpu.mov_cr0(registers.cr0 & ~CR0_WP)
        scene.cpu.mov_cr4(registers.cr4 | CR4_SMEP | CR4_SMAP)

    scene.as_hypervisor(without_protection)
    scene.cpu.read(0x5000)

    assert values(scene, guest_mode=1) == {field: {0} for field in FIELDS}

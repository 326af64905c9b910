"""Role words, and the roles that follow from a guest's mode."""

import pickle
from copy import deepcopy

import pytest

from mmu_model.hardware import CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CR4_SMAP, CR4_SMEP, EFER_LMA, Registers
from mmu_model.kvm.cpu_role import (
    kvm_calc_cpu_role,
    shadow_ept_cpu_role,
    shadow_npt_root_role,
    shadow_root_role,
    tdp_root_role,
)
from mmu_model.kvm.role import ACC_ALL, PageRole, child_role


def test_every_field_stands_where_the_kernel_has_it() -> None:
    """kvm_host.h, in order from bit 0, GCC's layout of bit fields."""
    role = PageRole.of(level=4, has_4_byte_gpte=1, quadrant=2, direct=1, access=5, invalid=1, smm=1)

    assert int(role) == 4 | 1 << 4 | 2 << 5 | 1 << 7 | 5 << 8 | 1 << 11 | 1 << 24
    assert int(PageRole.of(efer_nx=1, cr0_wp=1, smep_andnot_wp=1, smap_andnot_wp=1)) == 0xF << 12
    assert int(PageRole.of(ad_disabled=1, guest_mode=1, passthrough=1)) == 7 << 16
    assert (role.level, role.quadrant, role.access, role.smm, role.ad_disabled) == (4, 2, 5, 1, 0)


def test_a_value_that_does_not_fit_is_refused() -> None:
    """A quadrant has two bits."""
    with pytest.raises(ValueError, match=r"role\.quadrant cannot be 4: 3 is the most it holds"):
        PageRole.of(quadrant=4)


def test_a_role_stays_what_it_is() -> None:
    """Another one is made of it; equal ones are the same, also when they were copied."""
    role = PageRole.of(level=4, access=ACC_ALL)
    with pytest.raises(AttributeError, match=r"role\.level cannot be set"):
        role.level = 3

    assert (role.level, role.replace(level=3).level, role.replace(level=3).access) == (4, 3, ACC_ALL)
    assert role.replace(level=3).replace(level=4) is role
    assert deepcopy(role) is role
    assert pickle.loads(pickle.dumps(role)) is role


def test_a_child_inherits_all_but_what_is_its_own() -> None:
    """mmu.c: kvm_mmu_child_role."""
    parent = PageRole.of(level=2, has_4_byte_gpte=1, quadrant=3, access=ACC_ALL, cr0_wp=1, smm=1)

    child = child_role(parent, 5, direct=False, access=1)

    assert child == PageRole.of(level=1, has_4_byte_gpte=1, quadrant=1, access=1, cr0_wp=1, smm=1)


@pytest.mark.parametrize(("smep", "smap"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_protections_count_only_without_write_protection(smep: int, smap: int) -> None:
    """smep_andnot_wp and smap_andnot_wp."""
    cr4 = CR4_PAE | CR4_SMEP * smep | CR4_SMAP * smap
    for wp in (0, CR0_WP):
        registers = Registers(cr0=CR0_PE | CR0_PG | wp, cr4=cr4, efer=EFER_LMA)
        base = kvm_calc_cpu_role(registers, smm=False, guest_mode=False).base
        assert (base.smep_andnot_wp, base.smap_andnot_wp) == ((0, 0) if wp else (smep, smap))
        assert base.level == 4


def test_roots_of_each_mmu() -> None:
    """The table of root roles: TDP, shadow paging with and without paging, nested NPT."""
    off = kvm_calc_cpu_role(Registers(), smm=False, guest_mode=False)
    two = kvm_calc_cpu_role(Registers(cr0=CR0_PE | CR0_PG), smm=True, guest_mode=False)
    four = Registers(cr0=CR0_PE | CR0_PG, cr4=CR4_PAE, efer=EFER_LMA)
    nested = kvm_calc_cpu_role(four, smm=False, guest_mode=True)

    assert tdp_root_role(off, level=4, ad_disabled=True) == PageRole.of(
        level=4, direct=1, access=ACC_ALL, efer_nx=1, cr0_wp=1, ad_disabled=1
    )
    assert shadow_root_role(off) == PageRole.of(level=3, direct=1, access=ACC_ALL, efer_nx=1)
    assert shadow_root_role(two) == PageRole.of(level=3, has_4_byte_gpte=1, access=ACC_ALL, efer_nx=1, smm=1)
    assert shadow_npt_root_role(nested, level=5) == PageRole.of(
        level=5, access=ACC_ALL, guest_mode=1, passthrough=1
    )
    assert shadow_npt_root_role(nested, level=4).passthrough == 0


@pytest.mark.parametrize(
    ("level", "accessed_dirty", "execonly", "word"),
    [
        (4, True, True, 0x0003_0002_0704),
        (4, False, True, 0x0003_0003_0704),
        (5, True, False, 0x0001_0002_0705),
        (5, False, False, 0x0001_0003_0705),
    ],
)
def test_the_mode_of_a_hypervisors_ept(level: int, accessed_dirty: bool, execonly: bool, word: int) -> None:
    """By hand: level 3:0, all of access 10:8, ad_disabled 16, guest_mode 17; then valid 32 and execonly 33."""
    role = shadow_ept_cpu_role(level=level, accessed_dirty=accessed_dirty, execonly=execonly)

    assert role.as_u64 == word

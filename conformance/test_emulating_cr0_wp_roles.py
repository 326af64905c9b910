"""Section "Emulating cr0.wp": SMEP, SMAP, and which pages serve in which mode."""

from dataclasses import replace

import pytest

from conformance.cr0_wp import DENIED, READ_ONLY, XD, faults, guest_without_wp, leaf, tries
from conformance.looking import processor, structs
from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NXE,
    Kind,
    Registers,
    access,
    permissions,
)
from mmu_model.snapshot import MmuKind


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
@pytest.mark.parametrize("paging", ["32-bit", "PAE", "4-level", "5-level"])
def test_xd_works_though_the_guest_has_no_nx(kernel: str, paging: str) -> None:
    """A guest with EFER.NXE = 0: the spte with XD set is no malformed one for the processor."""
    scene = guest_without_wp(kernel, paging, cr4=CR4_SMEP, nx=False)

    assert tries(scene, Kind.WRITE) == 9
    assert not leaf(scene).executable
    assert tries(scene, Kind.READ) == 9


@pytest.mark.spec("emulating-cr0.wp/smep/efer.nx-forced")
@pytest.mark.parametrize("nx", [False, True])
def test_the_processor_has_nx_when_shadow_paging_is_in_use(kernel: str, mmu: MmuKind, nx: bool) -> None:
    """Edge: under nested paging it has what the guest has."""
    scene = guest_without_wp(kernel, mmu=mmu, nx=nx)

    assert tries(scene, Kind.READ) == 5

    assert bool(processor(scene.cpu).registers.efer & EFER_NXE) is (mmu is MmuKind.SHADOW or nx)


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


@pytest.mark.spec("emulating-cr0.wp/smap/in-the-role")
def test_with_wp_smap_makes_no_difference_to_the_role(kernel: str) -> None:
    """Edge: CR0.WP = 1. With CR4.SMAP and without it there is one set of pages."""
    scene = guest_without_wp(kernel, cr0_wp=True)
    tries(scene, Kind.READ, 3)
    scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 | CR4_SMAP)
    tries(scene, Kind.READ, 3)

    levels = sorted((sp.role.level, sp.role.smap_andnot_wp) for sp in structs(scene.vm))

    assert levels == [(level, 0) for level in (1, 2, 3, 4)]


@pytest.mark.spec("emulating-cr0.wp/smap/smap-on-is-no-case")
def test_with_smap_the_kernels_write_is_a_fault_of_the_guest(kernel: str) -> None:
    """KVM's own walk denies it: the guest gets the fault, and there is no spte."""
    scene = guest_without_wp(kernel, cr4=CR4_SMAP)

    assert tries(scene, Kind.WRITE) == DENIED

    assert [sp for sp in structs(scene.vm) if sp.role.level == 1] == []


@pytest.mark.spec("emulating-cr0.wp/smap/smap-on-is-no-case")
def test_with_smap_and_ac_the_kernels_write_makes_an_entry(kernel: str) -> None:
    """Edge: EFLAGS.AC lets the kernel reach user pages in spite of SMAP. It gets no fault but an spte of the kernel;
    when it has cleared AC, that lets it in still."""
    scene = guest_without_wp(kernel, cr4=CR4_SMAP)
    registers = scene.cpu.vcpu.registers
    scene.cpu.set_registers(replace(registers, ac=True))

    assert tries(scene, Kind.WRITE) == 9

    assert (leaf(scene).user, leaf(scene).writable) == (False, True)
    scene.cpu.set_registers(registers)
    assert tries(scene, Kind.READ) == 9


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
    before = faults(scene)

    assert len(new) == len(old) == 4
    assert tries(scene, Kind.READ) == 9
    assert faults(scene) == before
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


@pytest.mark.spec("emulating-cr0.wp/roles/smep-in-role")
def test_with_wp_smep_makes_no_difference_to_the_role(kernel: str) -> None:
    """Edge: CR0.WP = 1. With CR4.SMEP and without it there is one set of pages."""
    scene = guest_without_wp(kernel, cr0_wp=True)
    tries(scene, Kind.READ)
    scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 | CR4_SMEP)
    tries(scene, Kind.READ)

    levels = sorted((sp.role.level, sp.role.smep_andnot_wp) for sp in structs(scene.vm))

    assert levels == [(level, 0) for level in (1, 2, 3, 4)]

"""The mode of a vCPU as KVM's MMUs see it, and the roles of the roots that follow from it (mmu.c)."""

from typing import Final, NamedTuple, Self

from mmu_model.hardware.registers import (
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
    Registers,
)
from mmu_model.kvm.role import ACC_ALL, PageRole
from mmu_model.kvm.types import PT32_ROOT_LEVEL, PT32E_ROOT_LEVEL, PT64_ROOT_4LEVEL, PT64_ROOT_5LEVEL

_EXT_BITS: Final = (
    "valid",
    "execonly",
    "cr4_pse",
    "cr4_pke",
    "cr4_smap",
    "cr4_smep",
    "cr4_la57",
    "efer_lma",
)


class ExtendedRole(int):
    """`union kvm_mmu_extended_role`: what the mode is besides what a page can be valid for."""

    @classmethod
    def of(cls, **values: bool) -> Self:
        """The role with these bits, all others 0."""
        return cls(sum(1 << _EXT_BITS.index(name) for name, value in values.items() if value))

    def has(self, name: str) -> bool:
        """Whether one of them is set."""
        return bool(self >> _EXT_BITS.index(name) & 1)


class CpuRole(NamedTuple):
    """`union kvm_cpu_role`: `base` as if it were the role of a page, and `ext`."""

    base: PageRole
    ext: ExtendedRole

    @property
    def as_u64(self) -> int:
        """Both words in one."""
        return int(self.base) | int(self.ext) << 32


NO_CPU_ROLE: Final = CpuRole(PageRole(0), ExtendedRole(0))


def kvm_calc_cpu_role(registers: Registers, *, smm: bool, guest_mode: bool) -> CpuRole:
    """The mode that these registers of a guest select."""
    base = PageRole.of(access=ACC_ALL, smm=int(smm), guest_mode=int(guest_mode))
    if not registers.cr0 & CR0_PG:
        return CpuRole(base.replace(direct=1), ExtendedRole.of(valid=True))
    cr4, lma = registers.cr4, bool(registers.efer & EFER_LMA)
    wp = bool(registers.cr0 & CR0_WP)
    base = base.replace(
        level=_guest_level(registers),
        has_4_byte_gpte=int(not cr4 & CR4_PAE),
        efer_nx=int(bool(registers.efer & EFER_NXE)),
        cr0_wp=int(wp),
        smep_andnot_wp=int(bool(cr4 & CR4_SMEP) and not wp),
        smap_andnot_wp=int(bool(cr4 & CR4_SMAP) and not wp),
    )
    ext = ExtendedRole.of(
        valid=True,
        cr4_pse=bool(cr4 & CR4_PSE),
        cr4_smap=bool(cr4 & CR4_SMAP),
        cr4_smep=bool(cr4 & CR4_SMEP),
        cr4_pke=lma and bool(cr4 & CR4_PKE),
        cr4_la57=lma and bool(cr4 & CR4_LA57),
        efer_lma=lma,
    )
    return CpuRole(base, ext)


def _guest_level(registers: Registers) -> int:
    if registers.efer & EFER_LMA:
        return PT64_ROOT_5LEVEL if registers.cr4 & CR4_LA57 else PT64_ROOT_4LEVEL
    return PT32E_ROOT_LEVEL if registers.cr4 & CR4_PAE else PT32_ROOT_LEVEL


def tdp_root_role(cpu_role: CpuRole, *, level: int, ad_disabled: bool) -> PageRole:
    """The role of a root that maps guest-physical memory (kvm_calc_tdp_mmu_root_page_role)."""
    return PageRole.of(
        access=ACC_ALL,
        cr0_wp=1,
        efer_nx=1,
        smm=cpu_role.base.smm,
        guest_mode=cpu_role.base.guest_mode,
        ad_disabled=int(ad_disabled),
        level=level,
        direct=1,
    )


def shadow_npt_root_role(cpu_role: CpuRole, *, level: int) -> PageRole:
    """The role of a root that shadows a guest's nested page tables (kvm_init_shadow_npt_mmu).

    The host walks its own number of levels. Where it walks five and the guest's tables have four, the first
    has no counterpart in the guest.
    """
    passthrough = level == PT64_ROOT_5LEVEL and cpu_role.base.level == PT64_ROOT_4LEVEL
    return cpu_role.base.replace(level=level, passthrough=int(passthrough))


def shadow_ept_cpu_role(*, level: int, accessed_dirty: bool, execonly: bool) -> CpuRole:
    """The mode of a guest hypervisor's EPT; its base is the role of the root that shadows it, too.

    Nothing of the hypervisor's registers counts, nor whether it is in SMM: no guest can be entered from there
    (kvm_calc_shadow_ept_root_page_role).

    Parameters
    ----------
    level :
        The walk length.
    accessed_dirty :
        Whether the EPTP enables accessed and dirty flags.
    execonly :
        Whether pages may be executable and not readable.

    """
    base = PageRole.of(level=level, access=ACC_ALL, ad_disabled=int(not accessed_dirty), guest_mode=1)
    return CpuRole(base, ExtendedRole.of(valid=True, execonly=execonly))


def shadow_root_role(cpu_role: CpuRole) -> PageRole:
    """The role of the roots that shadow a guest's own paging (kvm_init_shadow_mmu).

    The host's processor runs with PAE paging at least, and always with EFER.NX.
    """
    return cpu_role.base.replace(level=max(cpu_role.base.level, PT32E_ROOT_LEVEL), efer_nx=1)

"""The kernels whose behaviour a model follows, and every switch in which they differ.

A switch is a field of :class:`Kernel`; its comment says what hangs on it, its metadata where each value is
seen in the sources of the releases (Debian's 6.1.192 and 6.12.117).
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Final


def _switch(**where: str) -> Any:
    """A field of Kernel; `where` names file and function for each release."""
    return field(metadata={release.replace("_", ".")[1:]: place for release, place in where.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One release.

    Attributes
    ----------
    release :
        As documents and recordings name it.
    shadow_nonpresent_value :
        What an spte holds that was never used or was cleared.
    frozen_spte :
        What keeps others from an entry that the TDP MMU is taking apart under a read lock.
    shadowed_translation_max_level :
        Shadow pages above this level get no shadowed_translation.
    tdp_root_alloc_exclusive :
        Whether mmu_lock is held for write while a vCPU obtains a TDP root.
    nx_adjusts_any_table :
        Whether any table in the way of a huge page makes a fault go down one level, or only a table that
        exists because of the NX mitigation.
    nx_marks_smaller_pages :
        Whether every table that is made for a fetch under that mitigation is marked for it, or only one in whose
        place there could be a large page but for it, and not one of a guest without paging.
    nx_recovery_skips_logged_slots :
        Whether such a table stays, unmarked, if the writes of its slot are logged: it would only be made again.
    change_pte :
        Whether the host also tells by which page it replaces one.
    sync_skips_equal_access :
        Whether synchronizing leaves an spte as it is if the access that it shadows did not change. Otherwise
        it is built anew, not accessed.
    invlpg_zaps :
        Whether INVLPG drops an unsync spte and makes it again in advance, or synchronizes it in its place.
    unused_role_is_invalid :
        What the role of an MMU's root is from KVM_SET_CPUID2 on until the MMU is used: 0, but for the invalid
        bit.
    fault_splits_huge_page :
        Whether a fault that needs a smaller page than the TDP MMU has there splits the large one. Otherwise
        the large one is zapped, and what is not accessed again is mapped no more.
    bad_root_is_dummy :
        A guest whose CR3 points at no memory gets a root of zeroes, or a triple fault.
    retries_what_was_unprotected :
        When the guest is to execute an instruction that KVM had to, or could not, emulate: only after a write to a
        shadowed table, and once; or after any fault but MMIO, as often as emulation fails.
    ept_suppresses_ve :
        Whether sptes of EPT have bit 63 set, which keeps violations from becoming virtualization exceptions.
    has_guest_memfd :
        Whether a guest may have memory that its process cannot map.
    reflected_stage_is_the_last :
        What a hypervisor is told an access of its guest was for (bits 8:7 of the qualification) if the exit
        was not an EPT violation or KVM came upon it by itself: what the last violation was for, or, in turn,
        nothing and what this access is for.

    """

    release: str
    shadow_nonpresent_value: int = _switch(
        v6_1="mmu/mmu.c: __update_clear_spte_fast is called with 0",
        v6_12="mmu/spte.h: SHADOW_NONPRESENT_VALUE",
    )
    frozen_spte: int = _switch(v6_1="mmu/spte.h: REMOVED_SPTE", v6_12="mmu/spte.h: FROZEN_SPTE")
    shadowed_translation_max_level: int = _switch(
        v6_1="mmu/mmu.c: kvm_mmu_alloc_shadow_page tests role.direct alone",
        v6_12="mmu/mmu.c: kvm_mmu_alloc_shadow_page tests KVM_MAX_HUGEPAGE_LEVEL too",
    )
    tdp_root_alloc_exclusive: bool = _switch(
        v6_1="mmu/tdp_mmu.c: kvm_tdp_mmu_get_vcpu_root_hpa asserts mmu_lock held for write",
        v6_12="mmu/tdp_mmu.c: kvm_tdp_mmu_alloc_root takes mmu_lock for read",
    )
    nx_adjusts_any_table: bool = _switch(
        v6_1="mmu/mmu.c: disallowed_hugepage_adjust tests for a table only",
        v6_12="mmu/mmu.c: disallowed_hugepage_adjust tests nx_huge_page_disallowed",
    )
    nx_marks_smaller_pages: bool = _switch(
        v6_1="mmu/mmu.c: direct_map tests req_level and is_tdp before account_huge_nx_page",
        v6_12="mmu/mmu.c: account_nx_huge_page sets nx_huge_page_disallowed in any case",
    )
    nx_recovery_skips_logged_slots: bool = _switch(
        v6_1="mmu/mmu.c: kvm_recover_nx_lpages zaps every page",
        v6_12="mmu/mmu.c: kvm_recover_nx_huge_pages asks kvm_slot_dirty_track_enabled",
    )
    change_pte: bool = _switch(
        v6_1="virt/kvm/kvm_main.c: kvm_mmu_notifier_change_pte",
        v6_12="virt/kvm/kvm_main.c: kvm_mmu_notifier_ops has no change_pte",
    )
    sync_skips_equal_access: bool = _switch(
        v6_1="mmu/paging_tmpl.h: sync_page builds every spte anew",
        v6_12="mmu/paging_tmpl.h: sync_spte compares kvm_mmu_page_get_access",
    )
    invlpg_zaps: bool = _switch(
        v6_1="mmu/paging_tmpl.h: invlpg calls mmu_page_zap_pte and prefetch_gpte",
        v6_12="mmu/mmu.c: __kvm_mmu_invalidate_addr calls kvm_sync_spte",
    )
    unused_role_is_invalid: bool = _switch(
        v6_1="mmu/mmu.c: kvm_mmu_after_set_cpuid sets root_role.word to 0",
        v6_12="mmu/mmu.c: kvm_mmu_after_set_cpuid sets root_role.invalid",
    )
    fault_splits_huge_page: bool = _switch(
        v6_1="mmu/tdp_mmu.c: kvm_tdp_mmu_map calls tdp_mmu_zap_spte_atomic",
        v6_12="mmu/tdp_mmu.c: kvm_tdp_mmu_map calls tdp_mmu_split_huge_page",
    )
    bad_root_is_dummy: bool = _switch(
        v6_1="mmu/mmu.c: mmu_check_root requests KVM_REQ_TRIPLE_FAULT",
        v6_12="mmu/mmu.c: mmu_alloc_shadow_roots takes kvm_mmu_get_dummy_root",
    )
    retries_what_was_unprotected: bool = _switch(
        v6_1="x86.c: reexecute_instruction, retry_instruction",
        v6_12="mmu/mmu.c: kvm_mmu_write_protect_fault, __kvm_mmu_unprotect_gfn_and_retry",
    )
    ept_suppresses_ve: bool = _switch(
        v6_1="mmu/spte.c: kvm_mmu_set_ept_masks knows no VMX_EPT_SUPPRESS_VE_BIT",
        v6_12="mmu/spte.c: kvm_mmu_set_ept_masks has VMX_EPT_SUPPRESS_VE_BIT in shadow_present_mask",
    )
    has_guest_memfd: bool = _switch(
        v6_1="virt/kvm/kvm_main.c: check_memory_region_flags knows no KVM_MEM_GUEST_MEMFD",
        v6_12="virt/kvm/guest_memfd.c: kvm_gmem_get_pfn",
    )
    reflected_stage_is_the_last: bool = _switch(
        v6_1="mmu/paging_tmpl.h: walk_addr_generic keeps bits of vcpu->arch.exit_qualification",
        v6_12="vmx/nested.c: nested_ept_inject_page_fault tests from_hardware",
    )


KERNELS: Final = {
    kernel.release: kernel
    for kernel in (
        Kernel(
            release="6.1",
            shadow_nonpresent_value=0,
            frozen_spte=0x5A0,
            shadowed_translation_max_level=5,
            tdp_root_alloc_exclusive=True,
            nx_adjusts_any_table=True,
            nx_marks_smaller_pages=False,
            nx_recovery_skips_logged_slots=False,
            change_pte=True,
            sync_skips_equal_access=False,
            invlpg_zaps=True,
            unused_role_is_invalid=False,
            fault_splits_huge_page=False,
            bad_root_is_dummy=False,
            retries_what_was_unprotected=False,
            ept_suppresses_ve=False,
            has_guest_memfd=False,
            reflected_stage_is_the_last=True,
        ),
        Kernel(
            release="6.12",
            shadow_nonpresent_value=1 << 63,
            frozen_spte=1 << 63 | 0x5A0,
            shadowed_translation_max_level=3,
            tdp_root_alloc_exclusive=False,
            nx_adjusts_any_table=False,
            nx_marks_smaller_pages=True,
            nx_recovery_skips_logged_slots=True,
            change_pte=False,
            sync_skips_equal_access=True,
            invlpg_zaps=False,
            unused_role_is_invalid=True,
            fault_splits_huge_page=True,
            bad_root_is_dummy=True,
            retries_what_was_unprotected=True,
            ept_suppresses_ve=True,
            has_guest_memfd=True,
            reflected_stage_is_the_last=False,
        ),
    )
}
"""Every kernel by release."""


def kernel_named(release: str) -> Kernel:
    """The kernel of that release.

    Raises
    ------
    ValueError
        There is no model of it; the message names those that there are.

    """
    try:
        return KERNELS[release]
    except KeyError:
        raise ValueError(f"no model of kernel {release!r}; there are {', '.join(KERNELS)}") from None


def on_32_bit(kernel: Kernel) -> Kernel:
    """The same release without CONFIG_X86_64: there bit 63 of an spte is of no use for virtualization exceptions
    (mmu/spte.h: SHADOW_NONPRESENT_VALUE)."""
    bits = kernel.shadow_nonpresent_value
    return replace(kernel, shadow_nonpresent_value=0, frozen_spte=kernel.frozen_spte & ~bits)


def switches() -> dict[str, dict[str, str]]:
    """Every switch, and for each release where its value is seen."""
    return {entry.name: dict(entry.metadata) for entry in fields(Kernel) if entry.metadata}

"""Wrong models: mmu_valid_gen."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.kvm.vcpu import KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, Request
from mmuspec.violations import violates


@violates("mmu_valid_gen/generation-mismatch")
def the_generation_stands_still(model: BrokenModel) -> None:
    """A fast zap does not change the VM's generation."""
    model.replace("kvm.zap_all.next_generation", lambda generation: generation)


@violates("mmu_valid_gen/generation-mismatch")
def pages_move_on_with_the_vm(model: BrokenModel) -> None:
    """The pages that there are take the new generation over."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, request: Request) -> None:
            for sp in kvm.active_mmu_pages:
                sp.mmu_valid_gen = kvm.mmu_valid_gen
            original(kvm, request)

        return wrong

    model.wrap("kvm.vm.Kvm.make_all_cpus_request", wrap)


@violates("mmu_valid_gen/all-obsolete", "mmu_valid_gen/obsolete-unusable")
def generations_make_no_page_obsolete(model: BrokenModel) -> None:
    """Only role.invalid counts."""
    model.replace("kvm.vm.Kvm.is_obsolete", lambda kvm, sp: bool(sp.role.invalid))


@violates("mmu_valid_gen/obsolete-unusable")
def obsolete_pages_are_found_and_used(model: BrokenModel) -> None:
    """The lookup takes any page with the right gfn and role."""
    model.replace(
        "kvm.vm.Kvm.valid_pages_at",
        lambda kvm, gfn: (sp for sp in tuple(kvm.bucket(gfn)) if sp.gfn == gfn),
    )


@violates("mmu_valid_gen/load-new-root", "role.invalid/unusable")
def vcpus_are_not_told(model: BrokenModel) -> None:
    """Nothing makes a vCPU give its root up."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, request: Request) -> None:
            if request != KVM_REQ_MMU_FREE_OBSOLETE_ROOTS:
                original(kvm, request)

        return wrong

    model.wrap("kvm.vm.Kvm.make_all_cpus_request", wrap)


@violates("mmu_valid_gen/zero-or-one")
def generations_are_counted(model: BrokenModel) -> None:
    """Each is one more than the last."""
    model.replace("kvm.zap_all.next_generation", lambda generation: generation + 1)


@violates("mmu_valid_gen/tdp-does-not-use-it")
def tdp_pages_have_a_generation(model: BrokenModel) -> None:
    """The TDP MMU stamps its pages as the shadow MMU does."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, *arguments: Any) -> Any:
            sp = original(kvm, *arguments)
            sp.mmu_valid_gen = kvm.mmu_valid_gen
            return sp

        return wrong

    model.wrap("tdp.root.tdp_mmu_alloc_sp", wrap)


@violates("mmu_valid_gen/tdp-role.invalid-suffices")
def all_pages_of_the_tdp_mmu_are_marked(model: BrokenModel) -> None:
    """Invalidating the roots goes through all tables and marks every page."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any) -> None:
            original(kvm)
            for address in kvm.host.page_private.values():
                sp = kvm.host.at(address)
                sp.role = sp.role.replace(invalid=1)

        return wrong

    model.wrap("tdp.zap.kvm_tdp_mmu_invalidate_all_roots", wrap)


@violates("mmu_valid_gen/tdp-role.invalid-suffices", "role.invalid/unusable")
def invalid_tdp_roots_are_found_and_used(model: BrokenModel) -> None:
    """A vCPU takes a root of its role whether it is valid or not."""

    model.replace("tdp.root.is_usable_root", lambda root, role: root.role.replace(invalid=0) == role)

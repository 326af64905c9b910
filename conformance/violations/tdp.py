"""Wrong models: references to roots of the TDP MMU, and zapping everything."""

from typing import Any

from conformance.broken import BrokenModel
from conformance.races.wrong import references_are_dropped_in_two_steps, references_are_taken_in_two_steps
from mmu_model.kvm.vcpu import KVM_REQ_MMU_FREE_OBSOLETE_ROOTS
from mmuspec.violations import violates


@violates("root_count/tdp_mmu_root_count-is-atomic")
def new_tdp_roots_have_one_reference(model: BrokenModel) -> None:
    """The TDP MMU keeps none of its own."""
    model.replace("tdp.root.REFERENCES_OF_A_NEW_ROOT", 1)


@violates("root_count/tdp_mmu_root_count-is-atomic")
def tdp_references_are_dropped_in_two_steps(model: BrokenModel) -> None:
    """The count is read, and then written: no atomic operation."""
    references_are_dropped_in_two_steps(model)


@violates("root_count/tdp_mmu_root_count-is-atomic")
def tdp_references_are_taken_in_two_steps(model: BrokenModel) -> None:
    """The same where a reference is taken: seen where that happens with mmu_lock held for read."""
    references_are_taken_in_two_steps(model)


@violates("root_count/tdp_mmu_root_count-is-atomic")
def tdp_references_have_storage_of_their_own(model: BrokenModel) -> None:
    """tdp_mmu_root_count is a member beside root_count."""
    stored: dict[int, int] = {}
    model.replace(
        "kvm.page.KvmMmuPage.tdp_mmu_root_count",
        property(
            lambda sp: stored.get(sp.address, 0), lambda sp, count: stored.__setitem__(sp.address, count)
        ),
    )


@violates("mmu_valid_gen/fast-zap")
def obsolete_pages_go_in_one_batch(model: BrokenModel) -> None:
    """Nobody else gets mmu_lock before the last obsolete page of the shadow MMU is zapped."""
    model.replace("shadow.obsolete.BATCH_ZAP_PAGES", 1 << 30)


@violates("mmu_valid_gen/fast-zap")
def tdp_roots_are_zapped_under_the_write_lock(model: BrokenModel) -> None:
    """The tables of the TDP MMU are taken apart before mmu_lock is given back."""

    def wrong(kvm: Any) -> Any:
        yield from kvm.mmu_lock.write.wait()
        with kvm.mmu_lock.write:
            kvm.mmu_valid_gen = 1 - kvm.mmu_valid_gen
            if kvm.parameters.tdp_mmu_enabled:
                kvm.tdp.kvm_tdp_mmu_invalidate_all_roots(kvm)
            kvm.make_all_cpus_request(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)
            yield from kvm.shadow.kvm_zap_obsolete_pages(kvm)
            for root in kvm.tdp_mmu_roots:
                for index in range(512):
                    yield from _zap_below(kvm, root, index)
        if kvm.parameters.tdp_mmu_enabled:
            yield from kvm.tdp.kvm_tdp_mmu_zap_invalidated_roots(kvm)

    model.replace("kvm.zap_all.kvm_mmu_zap_all_fast", wrong)


def _zap_below(kvm: Any, sp: Any, index: int) -> Any:
    """A step for each spte that leads somewhere, down to the last level."""
    spte = kvm.host.read(sp.sptep(index))
    if not spte & 1 << 11:
        return
    yield "looks at an spte"
    if sp.role.level > 1 and not spte & 1 << 7:
        child = kvm.host.at(kvm.host.page_private[(spte & (1 << 52) - 1) >> 12])
        for below in range(512):
            yield from _zap_below(kvm, child, below)


@violates("mmu_valid_gen/fast-zap")
def invalid_tdp_roots_are_never_zapped(model: BrokenModel) -> None:
    """What is below them stays, and so does the reference of the MMU."""

    def wrong(kvm: Any) -> Any:
        yield "does nothing"

    model.replace("tdp.entry.kvm_tdp_mmu_zap_invalidated_roots", wrong)

"""Wrong models: root_count, role.invalid."""

from typing import Any

from conformance.broken import BrokenModel
from mmuspec.violations import violates


def _root(model: BrokenModel, change: Any) -> None:
    """Change the count of a root that a vCPU has just got, given whether it is one of several."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, gfn: int, quadrant: int, level: int) -> Any:
            hpa = original(vcpu, gfn, quadrant, level)
            kvm = vcpu.kvm
            sp = kvm.host.at(kvm.host.page_private[hpa >> 12])
            sp.root_count = change(sp.root_count, level)
            return hpa

        return wrong

    model.wrap("shadow.roots.mmu_alloc_root", wrap)


@violates("root_count/counts-references")
def a_root_is_counted_once(model: BrokenModel) -> None:
    """A second vCPU on the same root does not count."""
    _root(model, lambda count, level: min(count, 1))


@violates("root_count/vcpus-take-references")
def page_directories_are_not_counted(model: BrokenModel) -> None:
    """What PDPTEs lead to is not referenced."""
    _root(model, lambda count, level: 0 if level == 2 else count)


@violates("root_count/vcpus-take-references")
def top_level_tables_are_not_counted(model: BrokenModel) -> None:
    """What CR3 or nCR3 leads to is not referenced."""
    _root(model, lambda count, level: 0 if level > 2 else count)


@violates("root_count/vcpus-take-references", "root_count/counts-hardware-registers")
def remembered_roots_are_not_counted(model: BrokenModel) -> None:
    """A vCPU that loads another root gives its reference back, but goes on remembering."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, new_pgd: int) -> None:
            kvm, loaded = vcpu.kvm, vcpu.mmu.root.hpa
            original(vcpu, new_pgd)
            kvm.host.at(kvm.host.page_private[loaded >> 12]).root_count -= 1

        return wrong

    model.wrap("kvm.roots.kvm_mmu_new_pgd", wrap)


@violates("root_count/vcpus-take-references")
def two_roots_are_remembered(model: BrokenModel) -> None:
    """Not three."""
    model.replace("kvm.mmu.KVM_MMU_NUM_PREV_ROOTS", 2)


@violates("root_count/vcpus-take-references")
def four_roots_are_remembered(model: BrokenModel) -> None:
    """Nor as few as three."""
    model.replace("kvm.mmu.KVM_MMU_NUM_PREV_ROOTS", 4)


@violates(
    "root_count/not-destroyed-while-referenced",
    "root_count/not-destroyed-while-nonzero",
    "role.invalid/pinned-root",
)
def a_root_in_use_is_destroyed(model: BrokenModel) -> None:
    """References do not keep a zapped page alive."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any, invalid_list: list[Any]) -> int:
            sp.root_count = 0
            return int(original(kvm, sp, invalid_list))

        return wrong

    model.wrap("shadow.zap.kvm_mmu_prepare_zap_page", wrap)


@violates("role.invalid/pinned-root")
def an_unpinned_root_stays(model: BrokenModel) -> None:
    """The last reference to an invalid root is given back, and nothing happens."""

    def wrong(kvm: Any, sp: Any) -> None:
        sp.root_count -= 1

    model.replace("shadow.roots.put_root", wrong)


@violates("role.invalid/pinned-root")
def the_first_vcpu_that_lets_go_of_a_root_frees_it(model: BrokenModel) -> None:
    """Whoever else has it."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any) -> None:
            if sp.role.invalid:
                sp.root_count = 1
            original(kvm, sp)

        return wrong

    model.wrap("shadow.roots.put_root", wrap)


@violates("role.invalid/pinned-root")
def only_roots_become_invalid(model: BrokenModel) -> None:
    """As the document has it: a page with the bit is a root that is in use."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any, invalid_list: list[Any]) -> int:
            zapped = int(original(kvm, sp, invalid_list))
            sp.role = sp.role.replace(invalid=int(sp.root_count > 0))
            return zapped

        return wrong

    model.wrap("shadow.zap.kvm_mmu_prepare_zap_page", wrap)


@violates("role.invalid/pinned-root")
def vcpus_alone_hold_roots_of_the_tdp_mmu(model: BrokenModel) -> None:
    """As those of the shadow MMU: when it is invalidated, the MMU lets go of a root at once."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any) -> None:
            original(kvm)
            for root in kvm.tdp_mmu_roots:
                root.tdp_mmu_root_count -= 1
                root.tdp_mmu_scheduled_root_to_zap = False

        return wrong

    model.wrap("tdp.zap.kvm_tdp_mmu_invalidate_all_roots", wrap)


@violates("role.invalid/unusable")
def faults_build_on_invalid_roots(model: BrokenModel) -> None:
    """Nobody looks at the root again before something is mapped below it."""
    model.replace("kvm.faultin.is_page_fault_stale", lambda vcpu, fault: False)


@violates("role.invalid/unusable")
def invalid_pages_count_as_usable(model: BrokenModel) -> None:
    """Whether a page may be used is a matter of its generation only."""
    model.replace("kvm.vm.Kvm.is_obsolete", lambda kvm, sp: sp.mmu_valid_gen != kvm.mmu_valid_gen)

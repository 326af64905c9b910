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


@violates("role.invalid/unusable")
def invalid_pages_count_as_usable(model: BrokenModel) -> None:
    """Whether a page may be used is a matter of its generation only."""
    model.replace("kvm.vm.Kvm.is_obsolete", lambda kvm, sp: sp.mmu_valid_gen != kvm.mmu_valid_gen)

"""Wrong models: ptep, tdp_mmu_page."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.kvm.types import PAGE_OFFSET
from mmuspec.violations import violates


def _change_ptep(model: BrokenModel, change: Any) -> None:
    def wrong_alloc(original: Any) -> Any:
        return lambda kvm, role, gfn, ptep: original(kvm, role, gfn, ptep and change(ptep))

    model.wrap("tdp.root.tdp_mmu_alloc_sp", wrong_alloc)


@violates("ptep/points-at-parent-spte")
def ptep_is_a_physical_address(model: BrokenModel) -> None:
    """Not where the kernel sees the spte."""
    _change_ptep(model, lambda ptep: ptep - PAGE_OFFSET)


@violates("ptep/points-at-parent-spte")
def ptep_points_at_the_first_spte_of_the_parent(model: BrokenModel) -> None:
    """The table is right, the entry is not."""
    _change_ptep(model, lambda ptep: ptep & ~0xFFF)


@violates("ptep/tdp-only-union")
def ptep_has_storage_of_its_own(model: BrokenModel) -> None:
    """What is written to ptep is not seen in parent_ptes."""
    stored: dict[int, Any] = {}
    model.replace(
        "kvm.page.KvmMmuPage.ptep",
        property(lambda sp: stored.get(sp.address), lambda sp, ptep: stored.__setitem__(sp.address, ptep)),
    )


@violates("ptep/tdp-only-union")
def the_shadow_mmu_uses_ptep(model: BrokenModel) -> None:
    """A shadow page keeps the address of the entry that was linked last, in place of the list."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any, sptep: int, child: Any) -> None:
            original(kvm, sptep, child)
            child.ptep = sptep

        return wrong

    model.wrap("shadow.pages.link_shadow_page", change)


@violates("tdp_mmu_page/marks-tdp-pages")
def only_roots_of_the_tdp_mmu_are_marked(model: BrokenModel) -> None:
    """Pages below look like those of the shadow MMU."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any, role: Any, gfn: int, ptep: int | None) -> Any:
            sp = original(kvm, role, gfn, ptep)
            sp.tdp_mmu_page = ptep is None
            return sp

        return wrong

    model.wrap("tdp.root.tdp_mmu_alloc_sp", change)


@violates("tdp_mmu_page/marks-tdp-pages")
def direct_pages_are_marked(model: BrokenModel) -> None:
    """A page of the shadow MMU that maps a linear range is taken for one of the TDP MMU."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any, gfn: int, role: Any) -> Any:
            sp = original(kvm, gfn, role)
            sp.tdp_mmu_page = bool(role.direct)
            return sp

        return wrong

    model.wrap("shadow.pages.kvm_mmu_alloc_shadow_page", change)


@violates("tdp_mmu_page/bifurcates-control-flow", "mmu_valid_gen/tdp-does-not-use-it")
def tdp_pages_are_judged_by_generation(model: BrokenModel) -> None:
    """Whether a page is obsolete is decided as if it belonged to the shadow MMU."""

    def wrong(kvm: Any, sp: Any) -> bool:
        return bool(sp.role.invalid) or sp.mmu_valid_gen != kvm.mmu_valid_gen

    model.replace("kvm.vm.Kvm.is_obsolete", wrong)


@violates("tdp_mmu_page/bifurcates-control-flow")
def roots_of_the_tdp_mmu_are_passed_over(model: BrokenModel) -> None:
    """Where roots are let go of, only those of the shadow MMU are: the others stay for ever."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any, hpa: int) -> Any:
            if not kvm.host.at(kvm.host.page_private[hpa >> 12]).tdp_mmu_page:
                yield from original(kvm, hpa)

        return wrong

    model.wrap("kvm.roots.free_root", change)

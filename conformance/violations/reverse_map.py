"""Wrong models: the reverse map."""

from typing import Any

from conformance.broken import BrokenModel, nothing
from mmu_model.kvm.page import sptep_to_sp
from mmu_model.kvm.rmap import RmapHead, pte_list, pte_list_add, pte_list_remove
from mmuspec.violations import violates

REACHED = "reverse-map/all-sptes-of-a-gfn/reached-by-gfn"
SWAPPING = "reverse-map/all-sptes-of-a-gfn/swapping-out"


@violates(REACHED)
def all_sizes_are_in_one_list(model: BrokenModel) -> None:
    """Large sptes are listed with the small ones of their first frame."""
    model.wrap(
        "kvm.memslot.KvmMemorySlot.gfn_to_rmap",
        lambda original: lambda slot, gfn, level: original(slot, gfn, 1),
    )


@violates(REACHED)
def lists_keep_what_maps_no_more(model: BrokenModel) -> None:
    """An spte that goes stays in its list."""
    model.replace("shadow.sptes.rmap_remove", lambda kvm, sptep: None)


@violates(REACHED)
def another_spte_leaves_the_list(model: BrokenModel) -> None:
    """When one goes, the one that was listed first is taken out."""

    def wrap(original: Any) -> Any:
        return lambda host, head, sptep: original(host, head, next(iter(pte_list(host, head))))

    model.wrap("kvm.rmap.pte_list_remove", wrap)


@violates(REACHED)
def direct_pages_are_in_no_list(model: BrokenModel) -> None:
    """Only what shadows tables is listed."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, slot: Any, sptep: Any, *more: Any) -> None:
            if not sptep_to_sp(kvm.host, sptep).role.direct:
                original(kvm, slot, sptep, *more)

        return wrong

    model.wrap("shadow.sptes.rmap_add", wrap)


@violates(SWAPPING)
def large_sptes_stay(model: BrokenModel) -> None:
    """The list of small sptes is gone through, and no other."""
    small: list[bool] = []

    def unmap(original: Any) -> Any:
        def wrong(*arguments: Any) -> bool:
            small.append(True)
            try:
                return bool(original(*arguments))
            finally:
                small.pop()

        return wrong

    def lists(original: Any) -> Any:
        def wrong(slot: Any, gfn: int, level: int) -> Any:
            return RmapHead() if small and level > 1 else original(slot, gfn, level)

        return wrong

    model.wrap("shadow.notifier.kvm_unmap_gfn_range", unmap)
    model.wrap("kvm.memslot.KvmMemorySlot.gfn_to_rmap", lists)


@violates(SWAPPING)
def one_descriptor_of_the_list_goes(model: BrokenModel) -> None:
    """Sptes beyond the first 14 stay."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, head: Any) -> bool:
            beyond = RmapHead()
            for sptep in pte_list(kvm.host, head)[14:]:
                pte_list_add(kvm.host, beyond, sptep)
                pte_list_remove(kvm.host, head, sptep)
            found = bool(original(kvm, head))
            head.val = beyond.val
            return found

        return wrong

    model.wrap("shadow.sptes.zap_all_rmap_sptes", wrap)


@violates(SWAPPING)
def what_is_in_no_list_stays(model: BrokenModel) -> None:
    """As the document has it: the reverse map is the way to the sptes, so that those of the TDP MMU are not found."""
    model.replace("tdp.notifier.kvm_tdp_mmu_unmap_gfn_range", nothing(False))

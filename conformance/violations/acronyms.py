"""Wrong models: acronyms. Those of gva, gpa, ngva and ngpa are in `translation`, too."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.hardware import Hpa, NestedPaging
from mmuspec.violations import violates


def _sptes_hold(model: BrokenModel, frame: Any) -> None:
    def change(original: Any) -> Any:
        def wrong(
            kvm: Any, sp: Any, slot: Any, access: int, gfn: int, pfn: int, *more: Any, **named: Any
        ) -> Any:
            return original(kvm, sp, slot, access, gfn, frame(gfn, pfn), *more, **named)

        return wrong

    model.wrap("kvm.make_spte.make_spte", change)


@violates("acronyms/pfn/meaning")
def a_pfn_counts_pieces_of_2_kib(model: BrokenModel) -> None:
    """It is a host-physical address less its low 11 bits."""
    _sptes_hold(model, lambda gfn, pfn: 2 * pfn)


@violates("acronyms/spte/meaning")
def sptes_refer_to_gfns(model: BrokenModel) -> None:
    """An spte has the frame number that the gpte has."""
    _sptes_hold(model, lambda gfn, pfn: gfn)


@violates("acronyms/hpa/meaning")
def an_hpa_is_where_a_page_begins(model: BrokenModel) -> None:
    """Translations lose the place within the page."""

    def change(original: Any) -> Any:
        return lambda processor, address, how: Hpa(original(processor, address, how) & -4096)

    model.wrap("hardware.processor.LogicalProcessor.translate", change)


@violates("acronyms/hva/meaning")
def an_hva_is_not_of_the_process(model: BrokenModel) -> None:
    """A guest frame is at another address than the process has said."""
    model.wrap("kvm.memslot.KvmMemorySlot.hva", lambda original: lambda slot, gfn: original(slot, gfn ^ 1))


@violates("acronyms/gfn/meaning")
def a_gfn_counts_from_one(model: BrokenModel) -> None:
    """The frame at guest-physical 0 is number 1."""

    def change(original: Any) -> Any:
        def wrong(*arguments: Any) -> Any:
            walker = original(*arguments)
            walker.gfn += 1
            return walker

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", change)


@violates("acronyms/pte/meaning")
def ptes_are_of_the_last_but_one_level(model: BrokenModel) -> None:
    """Entries of upper levels are not kept as ptes."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any, sptep: int, child: Any) -> None:
            original(kvm, sptep, child)
            if child.role.level > 1:
                child.parent_ptes.val = 0

        return wrong

    model.wrap("shadow.pages.link_shadow_page", change)


def _tables_are_not_translated(model: BrokenModel, *, npt: bool) -> None:
    def change(original: Any) -> Any:
        def wrong(tables: Any, address: int, size: int = 8) -> Any:
            entry = original(tables, address, size)
            return (
                tables._memory.read(address, size) if isinstance(tables._host, NestedPaging) is npt else entry
            )

        return wrong

    model.wrap("hardware.nested.GuestTables.read", change)


@violates("acronyms/tdp/meaning")
def npt_translates_the_page_alone(model: BrokenModel) -> None:
    """With NPT the guest's tables hold host-physical addresses."""
    _tables_are_not_translated(model, npt=True)


@violates("acronyms/tdp/meaning")
def ept_translates_the_page_alone(model: BrokenModel) -> None:
    """With EPT the guest's tables hold host-physical addresses."""
    _tables_are_not_translated(model, npt=False)

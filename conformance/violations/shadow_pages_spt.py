"""Wrong models: spt."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.hardware import PAGE_SHIFT
from mmu_model.kvm.types import pa
from mmuspec.violations import violates


@violates("spt/pageful-of-sptes")
def sptes_have_32_bits(model: BrokenModel) -> None:
    """The upper half of what KVM writes is lost."""

    def change(original: Any) -> Any:
        return lambda host, sptep, value: original(host, sptep, value & 0xFFFF_FFFF)

    model.wrap("kvm.host.Host.write", change)


@violates("spt/pageful-of-sptes", "shadow-pages/structure/contains-512-sptes")
def a_page_has_256_sptes(model: BrokenModel) -> None:
    """KVM uses the first half of a page and begins again."""

    def change(original: Any) -> Any:
        return lambda address, level: original(address, level) & 255

    model.wrap("kvm.types.shadow_index", change)


@violates("spt/accessed-by-kvm-and-hardware")
def the_processor_walks_a_copy(model: BrokenModel) -> None:
    """What the processor sets in an spte, KVM never sees."""

    def change(original: Any) -> Any:
        def wrong(processor: Any, address: int, how: Any) -> Any:
            real = processor.memory
            processor.memory = real.copy()
            try:
                return original(processor, address, how)
            finally:
                processor.memory = real

        return wrong

    model.wrap("hardware.processor.LogicalProcessor.translate", change)


@violates("spt/page-private-points-back")
def private_points_at_the_first_page_of_all(model: BrokenModel) -> None:
    """Every frame of sptes names the page that was made first."""

    def change(original: Any) -> Any:
        def wrong(host: Any, spt: int, owner: int) -> None:
            original(host, spt, next(iter(host.page_private.values()), owner))

        return wrong

    model.wrap("kvm.page.set_page_private", change)


@violates("spt/points-at-guest-or-shadow-pages", "shadow-pages/leaf/points-at-guest-pages")
def leaf_sptes_point_at_memory_of_the_kernel(model: BrokenModel) -> None:
    """The guest gets the kernel's page of zeroes in the place of its own."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any, *arguments: Any, **named: Any) -> Any:
            spte, wrprot = yield from original(kvm, *arguments, **named)
            zeroes = pa(kvm.host.zero_page)
            return spte & ~((1 << 52) - (1 << PAGE_SHIFT)) | zeroes, wrprot

        return wrong

    model.wrap("kvm.make_spte.make_spte", change)


@violates("spt/points-at-guest-or-shadow-pages")
def nonleaf_sptes_point_at_pages_of_the_same_level(model: BrokenModel) -> None:
    """The page that an entry leads to is of the level that the entry is in."""
    model.replace("kvm.role.child_level", lambda level: level)


@violates("spt/points-at-guest-or-shadow-pages", "reaction-to-events/shadow-walk-mmio/spte-caches-info")
def an_spte_without_memory_holds_another_frame(model: BrokenModel) -> None:
    """What remembers that there is no memory is about the frame behind the one that was accessed."""

    def change(original: Any) -> Any:
        return lambda masks, generation, gfn, access: original(masks, generation, gfn + 1, access)

    model.wrap("kvm.spte.make_mmio_spte", change)


@violates("spt/nonleaf-is-pa-of-spt", "shadow-pages/nonleaf/points-at-shadow-pages")
def nonleaf_sptes_point_at_copies(model: BrokenModel) -> None:
    """The processor goes to a copy of `spt`, which is kept up to date in its stead."""

    def change(original: Any) -> Any:
        def wrong(masks: Any, child: int, *, ad_disabled: bool) -> int:
            return int(original(masks, twin_of(child), ad_disabled=ad_disabled))

        return wrong

    hosts: list[Any] = []

    def twin_of(child: int) -> int:
        host = hosts[-1]
        twin = host.alloc_page()
        for offset in range(0, 4096, 8):
            host.memory.write(pa(twin) + offset, host.memory.read(child + offset))
        host.page_private[pa(twin) >> PAGE_SHIFT] = host.page_private[child >> PAGE_SHIFT]
        return pa(twin)

    def remember(original: Any) -> Any:
        def wrong(host: Any, *arguments: Any, **features: Any) -> None:
            original(host, *arguments, **features)
            hosts.append(host)

        return wrong

    model.wrap("kvm.host.Host.__init__", remember)
    model.wrap("kvm.spte.make_nonleaf_spte", change)


@violates("spt/child-points-back")
def a_child_points_back_at_the_parents_struct(model: BrokenModel) -> None:
    """As the document has it: sp2 has the address of sp1, and not of the entry in sp1->spt."""

    def in_tdp(original: Any) -> Any:
        def wrong(kvm: Any, role: Any, gfn: int, ptep: int | None) -> Any:
            back = kvm.host.page_private[pa(ptep) >> PAGE_SHIFT] if ptep else None  # type: ignore[arg-type]
            return original(kvm, role, gfn, back)

        return wrong

    def in_shadow(original: Any) -> Any:
        def wrong(kvm: Any, sptep: int, child: Any) -> None:
            original(kvm, sptep, child)
            child.parent_ptes.val = kvm.host.page_private[pa(sptep) >> PAGE_SHIFT]  # type: ignore[arg-type]

        return wrong

    model.wrap("tdp.root.tdp_mmu_alloc_sp", in_tdp)
    model.wrap("shadow.pages.link_shadow_page", in_shadow)


@violates("spt/dag")
def shadow_pages_are_never_shared(model: BrokenModel) -> None:
    """Each entry that leads to a table gets a page of its own."""
    model.replace("shadow.pages.kvm_mmu_find_shadow_page", lambda vcpu, gfn, role: None)


@violates("spt/dag")
def one_page_serves_all_levels_of_a_table(model: BrokenModel) -> None:
    """A page that shadows the table already is taken, whatever level it is for."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, gfn: int, role: Any) -> Any:
            for sp in vcpu.kvm.valid_pages_at(gfn):
                return sp
            return original(vcpu, gfn, role)

        return wrong

    model.wrap("shadow.pages.kvm_mmu_find_shadow_page", change)


@violates("spt/dag")
def tdp_pages_are_linked_twice(model: BrokenModel) -> None:
    """The TDP MMU lets the entry beside lead to a new page, too."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any, place: Any, sp: Any) -> Any:
            linked = yield from original(kvm, place, sp)
            kvm.host.write(place.sptep ^ 8, kvm.host.read(place.sptep))
            return linked

        return wrong

    model.wrap("tdp.map.tdp_mmu_link_sp", change)

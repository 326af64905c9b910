"""What must be true of a TDP MMU, whatever was done to it and in which order."""

from collections.abc import Iterator

from conformance.looking import backing, structs
from mmu_model.hardware import PAGE_SHIFT
from mmu_model.kvm.page import KvmMmuPage, spte_to_child_sp
from mmu_model.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_pfn
from mmu_model.kvm.types import PG_LEVEL_4K, Sptep
from mmu_model.machine import VirtualMachine
from mmu_model.tdp.changed import PAGES_STAT


def leafs(vm: VirtualMachine) -> Iterator[tuple[KvmMmuPage, int, int]]:
    """All present leaf sptes of pages of the TDP MMU: page, index, spte."""
    for sp in structs(vm):
        for index, spte in enumerate(vm.host.words(sp.spt)):
            if sp.tdp_mmu_page and is_shadow_present_pte(spte) and is_last_spte(spte, sp.role.level):
                yield sp, index, spte


def whole(vm: VirtualMachine) -> None:
    """Every page of the TDP MMU is reached from a root, once, and all that is counted is right."""
    kvm = vm.kvm
    reached = list(kvm.tdp_mmu_roots)
    for sp in reached:
        for index, spte in enumerate(vm.host.words(sp.spt)):
            if is_shadow_present_pte(spte) and not is_last_spte(spte, sp.role.level):
                child = spte_to_child_sp(vm.host, spte)
                assert child.ptep == sp.sptep(index), "a page does not point back at its spte"
                reached.append(child)
    there = [sp for sp in structs(vm) if sp.tdp_mmu_page]
    assert len(reached) == len(set(reached)), "a page is reached twice"
    assert set(there) == set(reached), f"{len(there)} pages exist, {len(reached)} are reached"
    assert kvm.tdp_mmu_pages == len(reached) - len(kvm.tdp_mmu_roots), "tdp_mmu_pages is wrong"
    for level, name in PAGES_STAT.items():
        count = sum(sp.role.level == level for sp, _, _ in leafs(vm))
        assert kvm.stat[name] == count, f"{name} is {kvm.stat[name]}, there are {count}"


def maps_what_the_host_does(vm: VirtualMachine, gpa: int) -> None:
    """What is mapped at an address is the frame that the process has there now."""
    gfn = gpa >> PAGE_SHIFT
    for sp, index, spte in leafs(vm):
        if sp.role.level == PG_LEVEL_4K and sp.gfn + index == gfn:
            assert spte_to_pfn(spte) == backing(vm, gfn), "an spte maps a frame that the process has not"


def leaf(vm: VirtualMachine, gpa: int) -> Sptep:
    """Where the spte of level 1 for an address is."""
    gfn = gpa >> PAGE_SHIFT
    (found,) = (
        sp.sptep(gfn - sp.gfn)
        for sp in structs(vm)
        if sp.tdp_mmu_page and sp.role.level == PG_LEVEL_4K and 0 <= gfn - sp.gfn < 512
    )
    return found

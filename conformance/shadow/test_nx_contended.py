"""Large pages come back while others want mmu_lock; and tables that go are forgotten by those who wait for them."""

from dataclasses import replace

import pytest

from conformance.looking import structs
from conformance.scenes import MIB, Scene, guest
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import PG_LEVEL_2M
from mmu_model.schedule import Race, blocked_steps
from mmu_model.shadow.nx import kvm_recover_nx_huge_pages
from mmu_model.snapshot import MmuKind

PAGES = 6


def split_guest(kernel: str, mmu: MmuKind) -> Scene:
    """A guest that fetched from so many large pages, which are small since."""
    scene = guest(kernel, mmu, host_level=PG_LEVEL_2M)
    parameters = scene.vm.kvm.parameters
    scene.vm.kvm.parameters = replace(parameters, nx_huge_pages=True, nx_huge_pages_recovery_ratio=1)
    for number in range(PAGES):
        scene.cpu.fetch(number * 2 * MIB)
    assert len(scene.vm.kvm.possible_nx_huge_pages) == PAGES
    return scene


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_who_wants_the_lock_gets_it_after_one_page(kernel: str, mmu: MmuKind) -> None:
    """What was zapped is flushed and freed by then; afterwards it goes on to the end."""
    scene, seen = split_guest(kernel, mmu), list[tuple[int, int, int]]()
    kvm = scene.vm.kvm
    flushes = kvm.stat["remote_tlb_flush"]

    def looks() -> Steps[None]:
        yield from kvm.mmu_lock.write.wait()
        with kvm.mmu_lock.write:
            tables = [sp for sp in structs(scene.vm) if sp.role.level == 1]
            seen.append(
                (len(kvm.possible_nx_huge_pages), len(tables), kvm.stat["remote_tlb_flush"] - flushes)
            )
            yield "has the lock"

    blocked_steps(Race({"recovers": kvm_recover_nx_huge_pages(kvm), "looks": looks()}))

    ((possible, tables, flushed),) = seen
    assert 0 < possible < PAGES
    assert (tables, flushed) == (possible, 1)
    assert kvm.possible_nx_huge_pages == {}
    assert [sp for sp in structs(scene.vm) if sp.role.level == 1] == []
    assert kvm.stat["remote_tlb_flush"] - flushes == 2


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_without_contention_one_flush_is_enough(kernel: str, mmu: MmuKind) -> None:
    scene = split_guest(kernel, mmu)
    kvm = scene.vm.kvm
    flushes = kvm.stat["remote_tlb_flush"]
    for _ in kvm_recover_nx_huge_pages(kvm):
        pass
    assert kvm.stat["remote_tlb_flush"] - flushes == 1
    assert kvm.possible_nx_huge_pages == {}


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_what_goes_otherwise_is_not_to_be_recovered(kernel: str, mmu: MmuKind) -> None:
    """Everything is zapped; nobody waits for these pages, and none of them is marked any more."""
    scene = split_guest(kernel, mmu)
    marked = [sp for sp in structs(scene.vm) if sp.nx_huge_page_disallowed]
    assert marked
    slot = scene.vm.add_memory(1 << 40, 4096)

    scene.vm.remove_memory(slot)

    assert scene.vm.kvm.possible_nx_huge_pages == {}
    assert not any(sp.nx_huge_page_disallowed for sp in marked)


def test_what_is_left_small_for_the_log_is_not_marked_any_more() -> None:
    """6.12: a large page would not be there anyway."""
    scene = split_guest("6.12", MmuKind.DIRECT)
    marked = [sp for sp in structs(scene.vm) if sp.nx_huge_page_disallowed and sp.role.level == 1]
    (slot,) = scene.vm.kvm.memslots[0]
    slot.dirty_bitmap = set()

    for _ in kvm_recover_nx_huge_pages(scene.vm.kvm):
        pass

    assert len(marked) == PAGES
    assert not any(sp.nx_huge_page_disallowed or sp.role.invalid for sp in marked)

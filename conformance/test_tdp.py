"""The TDP MMU's references to its roots, and how long a vCPU waits while everything goes."""

from dataclasses import dataclass

import pytest

from conformance.looking import structs
from conformance.races import last_reference_against_iteration, references_come_and_go
from conformance.races.actors import any_fault, faults, zaps_all
from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.task import Steps
from mmu_model.schedule import Race, blocked_steps, explore
from mmu_model.snapshot import MmuKind


def the_root(scene: Scene) -> KvmMmuPage:
    """The only root there is."""
    (root,) = (sp for sp in structs(scene.vm) if sp.tdp_mmu_page and sp.ptep is None)
    return root


@pytest.mark.spec("root_count/tdp_mmu_root_count-is-atomic")
def test_a_root_has_a_reference_of_each_vcpu_and_one_of_the_mmu(kernel: str) -> None:
    """A new root starts with two. A second vCPU adds one and takes it away again; when the MMU has let go, too,
    the last vCPU frees it."""
    scene = guest(kernel, MmuKind.TDP, memory={GIB: MIB})
    scene.reads(0x5000)
    root = the_root(scene)
    seen = [root.tdp_mmu_root_count]
    second = scene.vm.add_cpu()
    second.read(0x5000)
    seen.append(root.tdp_mmu_root_count)

    *_, spare = scene.vm.kvm.memslots[0]
    scene.vm.remove_memory(spare)
    seen.append(root.tdp_mmu_root_count)
    second.read(0x5000)
    seen.append(root.tdp_mmu_root_count)
    assert root in structs(scene.vm)
    scene.reads(0x5000)

    assert seen == [2, 3, 2, 1]
    assert root not in structs(scene.vm)


@pytest.mark.spec("root_count/tdp_mmu_root_count-is-atomic")
def test_the_shadow_mmu_counts_in_the_same_word_from_one(kernel: str, mmu: MmuKind) -> None:
    """Edge: root_count and tdp_mmu_root_count are two names of one word. A page of the shadow MMU has no
    reference of the MMU itself, so that its root starts with one."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000})
    scene.reads(0x5000)

    counts = {sp.root_count for sp in structs(scene.vm)}

    assert counts == ({2, 0} if mmu is MmuKind.TDP else {1, 0})
    assert all(sp.root_count == sp.tdp_mmu_root_count for sp in structs(scene.vm))


@pytest.mark.spec("root_count/tdp_mmu_root_count-is-atomic")
def test_no_reference_is_lost_in_any_order(kernel: str) -> None:
    """Two vCPUs let go of a root while a third takes it: on 6.12 all with mmu_lock held for read."""
    explored = explore(lambda: references_come_and_go(kernel))

    assert explored.schedules > 100


@pytest.mark.spec("root_count/tdp_mmu_root_count-is-atomic")
def test_a_root_that_is_gone_gets_no_reference_in_any_order(kernel: str) -> None:
    """Somebody goes through all roots while the last reference to one is let go of."""
    explored = explore(lambda: last_reference_against_iteration(kernel))

    assert explored.schedules > 100


@dataclass
class Zapped:
    """A guest had touched pages, 2 MiB apart; everything was zapped, and meanwhile it touched another.

    Attributes
    ----------
    vcpu_blocked_steps :
        What others did while its vCPU waited for them.
    steps :
        What who zaps everything did in all.

    """

    vcpu_blocked_steps: int
    steps: int = 0


def zap_below_a_guest(kernel: str, mmu: MmuKind, pages: int) -> Zapped:
    """So many pages."""
    scene = guest(kernel, mmu, memory={GIB: (pages + 2) * 2 * MIB})
    for page in range(pages):
        scene.cpu.read(GIB + page * 2 * MIB)
    address = GIB + pages * 2 * MIB
    touch = faults if mmu is MmuKind.TDP else any_fault
    before, found = scene.vm.kvm.mmu_valid_gen, Zapped(0)

    def zaps() -> Steps[None]:
        for step in zaps_all(scene.vm):
            found.steps += 1
            yield step

    def runs() -> Steps[None]:
        while scene.vm.kvm.mmu_valid_gen == before:
            yield "runs the guest"
        yield from touch(scene.cpu.vcpu, address)

    found.vcpu_blocked_steps = blocked_steps(Race({"process": zaps(), "vcpu": runs()}))["vcpu"]
    assert scene.reads(address + PAGE) == 0
    return found


TWO_DIMENSIONS = pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value)


@pytest.mark.spec("mmu_valid_gen/fast-zap")
@TWO_DIMENSIONS
def test_how_long_a_vcpu_waits_does_not_depend_on_the_number_of_pages(kernel: str, mmu: MmuKind) -> None:
    """It does wait for mmu_lock, but as long for 50 tables as for 150. In the shadow MMU it needs the lock up to
    four times until it runs again, and each time gets it after ten pages."""
    few, many = (zap_below_a_guest(kernel, mmu, pages).vcpu_blocked_steps for pages in (50, 150))

    assert 1 <= few == many <= (4 if mmu is MmuKind.TDP else 4 * 12)


@pytest.mark.spec("mmu_valid_gen/fast-zap")
@TWO_DIMENSIONS
def test_zapping_everything_takes_longer_the_more_there_is(kernel: str, mmu: MmuKind) -> None:
    """A step for every table at least: of which the vCPU waits for a few, and for fewer the more there are."""
    few, many = (zap_below_a_guest(kernel, mmu, pages) for pages in (50, 150))

    assert many.steps - few.steps >= 100
    assert many.vcpu_blocked_steps * few.steps < few.vcpu_blocked_steps * many.steps
    assert many.vcpu_blocked_steps * 3 < many.steps


@pytest.mark.spec("mmu_valid_gen/fast-zap-without-blocking", refutes=True)
@TWO_DIMENSIONS
def test_a_vcpu_is_kept_waiting(kernel: str, mmu: MmuKind) -> None:
    """For at least one step of who zaps everything, however little there is to zap."""
    assert zap_below_a_guest(kernel, mmu, 1).vcpu_blocked_steps >= 1


@pytest.mark.spec("mmu_valid_gen/fast-zap")
def test_every_page_goes(kernel: str, mmu: MmuKind) -> None:
    """None of the pages that there were is left once the vCPU has changed over to a new root."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000, GIB: 0x7000}, memory={2 * GIB: MIB})
    scene.reads(0x5000)
    scene.reads(GIB)
    old = set(structs(scene.vm))
    *_, spare = scene.vm.kvm.memslots[0]
    scene.vm.remove_memory(spare)
    left = old & set(structs(scene.vm))
    scene.reads(0x5000)

    assert len(old) >= 4
    assert len(left) == 1, "all but the root that the vCPU holds go at once"
    assert not old & set(structs(scene.vm))

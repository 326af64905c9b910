"""Section "Shadow pages": role.invalid, in pages of both MMUs, and in those that are no roots."""

import pytest

from conformance.between import before
from conformance.looking import roots, structs
from conformance.scenes import GIB, MIB, Scene, guest
from mmu_model.kvm.fault import PFERR_USER_MASK, RET_PF_RETRY
from mmu_model.kvm.page_fault import kvm_mmu_page_fault
from mmu_model.snapshot import MmuKind, Snapshot

UNUSABLE, PINNED = "role.invalid/unusable", "role.invalid/pinned-root"


def used_guest(kernel: str, mmu: MmuKind) -> Scene:
    """A guest that has used one page of two, and a slot that it does not use."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000, 0x40_5000: 0x7000}, memory={GIB: MIB})
    scene.vm.memory.write(0x6000, 77)
    assert scene.reads(0x5000) == 77
    return scene


def drop_everything(scene: Scene) -> None:
    """Take away the slot that nobody uses, for which KVM makes all roots invalid."""
    *_, extra = scene.vm.kvm.memslots[0]
    scene.vm.remove_memory(extra)


@pytest.mark.spec(UNUSABLE)
def test_no_vcpu_enters_with_an_invalid_root(kernel: str, mmu: MmuKind) -> None:
    """Both vCPUs have one loaded. The one that enters first gets another, though the other still has the old one
    and its page is there; the second then has the same as the first."""
    scene = used_guest(kernel, mmu)
    second = scene.vm.add_cpu(scene.cpu.vcpu.registers)
    assert second.read(0x5000) == 77
    (old,) = roots(scene.vm.snapshot())
    drop_everything(scene)
    assert scene.vm.snapshot().by_id()[old.id].role.invalid == 1

    assert scene.reads(0x5000) == 77
    (first,) = roots(scene.vm.snapshot())
    assert (first.id == old.id, first.role.invalid) == (False, 0)
    assert old.id in scene.vm.snapshot().by_id()

    assert second.read(0x5000) == 77
    pages = scene.vm.snapshot().pages
    assert {page.role.invalid for page in pages} == {0}
    assert {vcpu.root_mmu.root.page for vcpu in scene.vm.snapshot().vcpus} == {first.id}


@pytest.mark.spec(UNUSABLE)
def test_a_fault_maps_nothing_below_an_invalid_root(kernel: str, mmu: MmuKind) -> None:
    """The vCPU came out with a fault, and its root became invalid before KVM looks at it: the guest has to try again,
    and the page that it had is as empty as before."""
    scene = used_guest(kernel, mmu)
    (old,) = roots(scene.vm.snapshot())
    drop_everything(scene)
    address = 0x40_5000 if mmu is MmuKind.SHADOW else 0x7000

    result = kvm_mmu_page_fault(scene.cpu.vcpu, address, PFERR_USER_MASK)

    invalid = scene.vm.snapshot().by_id()[old.id]
    assert (invalid.role.invalid, result) == (1, RET_PF_RETRY)
    assert invalid.sptes() == {}


@pytest.mark.spec(PINNED)
@pytest.mark.parametrize("mmu", [MmuKind.DIRECT, MmuKind.SHADOW])
def test_an_invalid_root_lives_as_long_as_any_vcpu_has_it(kernel: str, mmu: MmuKind) -> None:
    """Of two vCPUs that have it one lets go, and it is there; then the other, and it is gone."""
    scene = used_guest(kernel, mmu)
    second = scene.vm.add_cpu(scene.cpu.vcpu.registers)
    second.read(0x5000)
    drop_everything(scene)
    held = [invalid_pages(scene.vm.snapshot())]

    for cpu in (scene.cpu, second):
        cpu.read(0x5000)
        held.append(invalid_pages(scene.vm.snapshot()))

    assert held == [[2], [1], []]


def invalid_pages(snapshot: Snapshot) -> list[int | None]:
    """root_count of every invalid page that there is."""
    return [page.root_count for page in snapshot.pages if page.role.invalid]


@pytest.mark.spec(PINNED)
@pytest.mark.parametrize("mmu", [MmuKind.DIRECT, MmuKind.SHADOW])
def test_pages_that_are_no_roots_are_invalid_until_they_are_freed(kernel: str, mmu: MmuKind) -> None:
    """Edge: nobody has a reference to them, and they have the bit all the same while the TLBs are flushed."""
    scene = used_guest(kernel, mmu)
    seen: list[list[tuple[int, int, int]]] = []

    def look() -> None:
        pages = [sp for sp in structs(scene.vm) if sp.role.level < 4]
        seen.append(sorted((sp.role.level, sp.role.invalid, sp.root_count) for sp in pages))

    with before("shadow.zap.commit_zap_page", look):
        drop_everything(scene)

    assert [(level, 1, 0) for level in (1, 2, 3)] == sorted(set(seen[0]))


@pytest.mark.spec(PINNED)
def test_an_invalid_root_of_the_tdp_mmu_lives_without_a_vcpu(kernel: str) -> None:
    """Edge: its only vCPU has another root already, but its tables are not taken apart yet: the MMU itself has the
    last reference to it. After that it is gone."""
    scene = used_guest(kernel, MmuKind.TDP)
    (old,) = roots(scene.vm.snapshot())
    seen: list[tuple[int | None, int]] = []

    def run() -> None:
        assert scene.reads(0x5000) == 77
        left = scene.vm.snapshot().by_id()[old.id]
        seen.append((left.tdp_mmu_root_count, left.role.invalid))
        assert roots(scene.vm.snapshot())[0].id != old.id

    with before("tdp.zap.kvm_tdp_mmu_zap_invalidated_roots", run):
        drop_everything(scene)

    assert seen == [(1, 1)]
    assert invalid_pages(scene.vm.snapshot()) == []

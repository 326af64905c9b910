"""Section "Shadow pages": mmu_valid_gen."""

import pytest

from conformance.between import before, mmu_lock_dropped
from conformance.looking import roots, structs
from conformance.pictures import Camera
from conformance.scenes import GIB, MIB, Scene, guest
from mmu_model.snapshot import MmuKind, Snapshot

SHADOW_MMU = [MmuKind.DIRECT, MmuKind.SHADOW]


def spare_memory_guest(kernel: str, mmu: MmuKind) -> Scene:
    """A guest that has read a few pages, with memory to take away that it does not use."""
    scene = guest(
        kernel, mmu, "4-level", mapped={0x5000: 0x6000, GIB: 0x7000}, memory={GIB: MIB, 2 * GIB: MIB}
    )
    scene.vm.memory.write(0x6000, 77)
    scene.reads(0x5000)
    scene.reads(GIB)
    return scene


def fast_zap(scene: Scene) -> None:
    """Take a slot away, for which KVM drops everything that it has built."""
    *_, spare = scene.vm.kvm.memslots[0]
    scene.vm.remove_memory(spare)


@pytest.mark.spec("mmu_valid_gen/generation-mismatch")
@pytest.mark.parametrize("mmu", SHADOW_MMU)
def test_the_vms_generation_moves_on_and_that_of_the_pages_does_not(
    kernel: str, mmu: MmuKind, picture: Camera
) -> None:
    """Before: all the same. Once KVM has called for the zap, and before it took anything apart: all differ."""
    scene = spare_memory_guest(kernel, mmu)
    seen: list[Snapshot] = [scene.vm.snapshot()]
    with before("shadow.obsolete.kvm_zap_obsolete_pages", lambda: seen.append(scene.vm.snapshot())):
        fast_zap(scene)

    first, middle = seen

    assert len(middle.pages) == len(first.pages) >= 4
    assert {page.mmu_valid_gen for page in first.pages} == {first.mmu_valid_gen}
    assert {page.mmu_valid_gen for page in middle.pages} == {first.mmu_valid_gen}
    assert middle.mmu_valid_gen != first.mmu_valid_gen
    picture(f"The VM's generation moves on, {mmu.value}", middle, first)


@pytest.mark.spec("mmu_valid_gen/all-obsolete")
@pytest.mark.parametrize("mmu", SHADOW_MMU)
def test_every_page_there_is_becomes_obsolete(kernel: str, mmu: MmuKind) -> None:
    """None of them before; then, without one of them being touched, all."""
    scene = spare_memory_guest(kernel, mmu)
    seen: list[set[bool]] = []

    def look() -> None:
        seen.append({scene.vm.kvm.is_obsolete(sp) for sp in structs(scene.vm)})

    look()
    with before("shadow.obsolete.kvm_zap_obsolete_pages", look):
        fast_zap(scene)

    assert seen == [{False}, {True}]


@pytest.mark.spec("mmu_valid_gen/obsolete-unusable")
@pytest.mark.parametrize("mmu", SHADOW_MMU)
def test_no_obsolete_page_is_used_while_it_waits_for_its_end(
    kernel: str, mmu: MmuKind, picture: Camera
) -> None:
    """KVM yields before it zaps anything. The guest runs on, on pages of the new generation alone."""
    scene = spare_memory_guest(kernel, mmu)
    old = {page.id for page in scene.vm.snapshot().pages}
    seen: list[tuple[object, Snapshot]] = []

    def run() -> None:
        with mmu_lock_dropped(scene.vm):
            seen.append((scene.reads(0x5000), scene.vm.snapshot()))

    with before("shadow.obsolete.kvm_zap_obsolete_pages", run):
        fast_zap(scene)

    ((value, middle),) = seen
    assert value == 77
    assert len(old & set(middle.by_id())) >= 3  # not the root: the vCPU has let go of it
    assert {page.mmu_valid_gen for page in roots(middle)} == {middle.mmu_valid_gen}
    new = [page for page in middle.pages if page.mmu_valid_gen == middle.mmu_valid_gen]
    assert not old & {at.page for page in new for at in page.parent_ptes or ()}
    picture(f"The guest runs on beside obsolete pages, {mmu.value}", middle)


@pytest.mark.spec("mmu_valid_gen/load-new-root")
def test_every_vcpu_loads_another_root_before_it_runs(kernel: str, mmu: MmuKind, picture: Camera) -> None:
    """Both vCPUs; the guest goes on, and the roots are valid and of the new generation."""
    scene = spare_memory_guest(kernel, mmu)
    second = scene.vm.add_cpu(scene.cpu.vcpu.registers)
    second.read(0x5000)

    fast_zap(scene)
    old = [vcpu.root_mmu.root.page for vcpu in scene.vm.snapshot().vcpus]
    held = {page.id: page.role.invalid for page in scene.vm.snapshot().pages}
    assert [held[page] for page in old if page is not None] == [1, 1]

    assert scene.reads(0x5000) == 77
    assert Scene(scene.vm, second).reads(0x5000) == 77

    snapshot = scene.vm.snapshot()
    for vcpu in snapshot.vcpus:
        assert vcpu.root_mmu.root.page is not None
        root = snapshot.by_id()[vcpu.root_mmu.root.page]
        assert root.role.invalid == 0
        assert root.mmu_valid_gen in (None, snapshot.mmu_valid_gen)
    picture(f"Two vCPUs with new roots, {mmu.value}", snapshot)


@pytest.mark.spec("mmu_valid_gen/zero-or-one")
def test_the_generation_is_0_or_1(kernel: str, mmu: MmuKind) -> None:
    """It is the other one after each zap, again and again."""
    scene = spare_memory_guest(kernel, mmu)
    seen = [scene.vm.snapshot().mmu_valid_gen]
    for _ in range(2):
        fast_zap(scene)
        assert scene.reads(0x5000) == 77
        seen.append(scene.vm.snapshot().mmu_valid_gen)

    assert seen == [0, 1, 0]


@pytest.mark.spec("mmu_valid_gen/tdp-does-not-use-it")
def test_pages_of_the_tdp_mmu_have_no_generation(kernel: str) -> None:
    """The VM's generation is 1; the new pages serve the guest with a 0 in that place, for it means another
    thing there. Each of them but the root hangs on one entry of one other."""
    scene = spare_memory_guest(kernel, MmuKind.TDP)

    fast_zap(scene)

    assert scene.reads(0x5000) == 77
    assert scene.vm.snapshot().mmu_valid_gen == 1
    pages = structs(scene.vm)
    assert {sp.mmu_valid_gen for sp in pages} == {0}
    assert [sp.ptep for sp in pages].count(None) == 1


@pytest.mark.spec("mmu_valid_gen/tdp-role.invalid-suffices")
def test_marking_the_root_is_enough_for_the_tdp_mmu(kernel: str, picture: Camera) -> None:
    """Before its tables are taken apart the old root is invalid and nothing else is. The guest runs on, and
    not one of the old pages is below its new root."""
    scene = spare_memory_guest(kernel, MmuKind.TDP)
    old = {page.id for page in scene.vm.snapshot().pages}
    seen: list[tuple[object, Snapshot]] = []

    def run() -> None:
        value = scene.reads(0x5000)
        seen.append((value, scene.vm.snapshot()))

    with before("tdp.zap.kvm_tdp_mmu_zap_invalidated_roots", run):
        fast_zap(scene)

    ((value, middle),) = seen
    assert value == 77
    assert {page.role.invalid for page in middle.pages if page.id in old and page.ptep is None} == {1}
    assert {page.role.invalid for page in middle.pages if page.ptep is not None} == {0}
    assert len(roots(middle)) == 1
    assert roots(middle)[0].id not in old
    new = {page.id for page in middle.pages if page.id not in old}
    assert {page.ptep.page in new for page in middle.pages if page.id in new and page.ptep} == {True}
    picture("Only the old root is invalid", middle)

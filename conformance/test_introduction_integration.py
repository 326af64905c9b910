"""Introduction, "integration": Linux goes on managing the memory that a guest uses."""

from collections.abc import Callable

import pytest

from conformance.looking import backing, reached
from conformance.scenes import MIB, PAGE, Scene, guest
from mmu_model.hardware import Gfn
from mmu_model.kvm.process import HostMapping
from mmu_model.kvm.types import PG_LEVEL_2M, PG_LEVEL_4K, Hva
from mmu_model.snapshot import MmuKind

CONTROLS = "introduction/integration/linux-controls-guest-memory"
FIRST, SECOND, BESIDE = 2 * MIB, 2 * MIB + PAGE, 2 * MIB + 2 * PAGE


def running(kernel: str, mmu: MmuKind) -> Scene:
    """A guest that has written 7 to two pages, and 9 beside them; the host maps it with large pages."""
    scene = guest(kernel, mmu, host_level=PG_LEVEL_2M)
    for address, value in ((FIRST, 7), (SECOND, 7), (BESIDE, 9)):
        scene.cpu.write(address, value)
    return scene


def hva(scene: Scene, address: int) -> Hva:
    """Where the process has what the guest has at an address."""
    (slot,) = scene.vm.kvm.memslots[0]
    return slot.hva(Gfn(address >> 12))


def swap(scene: Scene) -> None:
    """Take a page away, and keep what was in it."""
    scene.vm.process.swap_out(hva(scene, FIRST))


def migrate(scene: Scene) -> None:
    """Move a page."""
    scene.vm.process.replace_page(hva(scene, FIRST), writable=True)


def merge(scene: Scene) -> None:
    """Make one page of two."""
    scene.vm.process.merge(hva(scene, FIRST), hva(scene, SECOND))


def split(scene: Scene) -> None:
    """Map small what was mapped large."""
    scene.vm.process.mprotect(hva(scene, FIRST), 1, writable=True)
    scene.vm.process.madvise_hugepage(hva(scene, 2 * MIB), 512, PG_LEVEL_4K)


def collapse(scene: Scene) -> None:
    """Map large what was mapped small."""
    split(scene)
    scene.reads(FIRST)
    scene.vm.process.madvise_hugepage(hva(scene, 2 * MIB), 512, PG_LEVEL_2M)


FEATURES = [swap, migrate, merge, split, collapse]


def foreign(scene: Scene) -> list[int]:
    """The guest frames whose sptes map a frame that the process does not have there."""
    leaves = reached(scene.vm.snapshot())
    return [leaf.offset for leaf in leaves if leaf.spte.pfn != backing(scene.vm, leaf.offset)]


@pytest.mark.spec(CONTROLS)
@pytest.mark.parametrize("feature", FEATURES)
def test_the_guest_does_not_notice_what_linux_does(
    kernel: str, mmu: MmuKind, feature: Callable[[Scene], None]
) -> None:
    """It reads what it wrote and writes on, also to each of two pages that were made one. KVM maps nothing but what
    Linux has there."""
    scene = running(kernel, mmu)

    feature(scene)

    left = foreign(scene)
    seen = [scene.reads(address) for address in (FIRST, SECOND, BESIDE)]
    scene.cpu.write(FIRST, 8)
    assert left == []
    assert seen == [7, 7, 9]
    assert [scene.reads(address) for address in (FIRST, SECOND, BESIDE)] == [8, 7, 9]
    assert foreign(scene) == []


class Watcher:
    """Hears of each change after KVM has; notes who still maps what is about to change."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.late: list[int] = []
        self.heard = 0

    def invalidate_range_start(self, start: Hva, end: Hva) -> None:
        self.heard += 1
        (slot,) = self.scene.vm.kvm.memslots[0]
        gone = range(start - slot.userspace_addr >> 12, end - slot.userspace_addr >> 12)
        self.late += [leaf.offset for leaf in reached(self.scene.vm.snapshot()) if leaf.offset in gone]

    def invalidate_range_end(self, start: Hva, end: Hva) -> None: ...

    def change_pte(self, address: Hva, mapping: HostMapping) -> None: ...

    def clear_flush_young(self, start: Hva, end: Hva) -> bool:
        return False

    def test_young(self, start: Hva, end: Hva) -> bool:
        return False


@pytest.mark.spec(CONTROLS)
@pytest.mark.parametrize("feature", [swap, migrate, merge])
def test_kvm_lets_go_before_linux_changes_anything(
    kernel: str, mmu: MmuKind, feature: Callable[[Scene], None]
) -> None:
    """When the change begins no spte maps the page any more."""
    scene = running(kernel, mmu)
    watcher = Watcher(scene)
    scene.vm.process.notifiers.append(watcher)

    feature(scene)

    assert watcher.heard
    assert watcher.late == []

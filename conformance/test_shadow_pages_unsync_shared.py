"""Section "Shadow pages": unsync, where a page has several parents, or a table several pages."""

import pytest

from conformance.looking import links, structs
from conformance.scenes import GIB, MIB, PAGE, USED, Editor, editing_guest
from mmu_model.kvm.page import KvmMmuPage

HERE, OTHER = 0x6000, 0x7000
OLD, NEW = 111, 222
FRAME = (1 << 52) - PAGE
READ_ONLY = USED & ~0x2


def pages_of(scene: Editor, address: int, level: int = 1) -> list[KvmMmuPage]:
    """The pages that shadow the table which the guest has for an address, lowest level first."""
    assert scene.tables is not None
    gfn = scene.tables.entry_address(address, level) >> 12
    found = [sp for sp in structs(scene.vm) if int(sp.gfn) == gfn and not sp.role.direct]
    return sorted(found, key=lambda sp: sp.role.level)


def shared_table(kernel: str, flags: int = USED) -> Editor:
    """A guest that has OLD at 0x5000, and also 2 MiB further on, by a second entry that leads to the same table
    with these flags; it has used the first."""
    scene = editing_guest(kernel, {0x5000: HERE, 0x8000: HERE, 2 * MIB: OTHER})
    scene.vm.memory.write(HERE, OLD)
    scene.vm.memory.write(OTHER, NEW)
    assert scene.tables is not None
    table = scene.vm.memory.read(scene.tables.entry_address(0x5000, 2)) & FRAME
    scene.vm.memory.write(scene.tables.entry_address(2 * MIB, 2), table | flags)
    assert scene.reads(0x5000) == OLD
    return scene


@pytest.mark.spec("unsync/synchronized-on-flush")
def test_a_page_that_is_linked_once_more_is_in_step_but_stays_unsync(kernel: str) -> None:
    """The guest changed an entry and has not flushed. It comes to the table by an address that it never used, and
    for another entry: but all sptes of the page were brought in step. Its table may still be written to."""
    scene = shared_table(kernel)
    assert scene.reads(0x8000) == OLD
    scene.edit(0x8000, OTHER | USED)
    (page,) = pages_of(scene, 0x5000)
    stale = scene.vm.host.read(page.sptep(8)) & FRAME

    assert scene.reads(2 * MIB + 0x5000) == OLD

    assert stale == scene.vm.memory.hpa(HERE)
    assert scene.vm.host.read(page.sptep(8)) & FRAME != stale
    assert scene.reads(2 * MIB + 0x8000) == NEW
    assert page.unsync
    assert len([link for link in links(scene.vm) if link.child is page]) == 2


@pytest.mark.spec("unsync_child_bitmap/marks-unsync-entries")
@pytest.mark.spec("unsync_children/counts-unsync-entries")
def test_every_entry_that_leads_there_is_marked(kernel: str) -> None:
    """Two entries of the directory lead to one page: both are marked, whether it became unsync before or after the
    second was made."""
    for order in ("linked first", "changed first"):
        scene = shared_table(kernel)
        if order == "linked first":
            scene.reads(2 * MIB + 0x5000)
        scene.edit(0x9000, HERE | USED)
        scene.reads(2 * MIB + 0x5000)

        (directory,) = pages_of(scene, 0x5000, 2)
        assert (directory.unsync_child_bitmap, directory.unsync_children) == (0b11, 2), order


@pytest.mark.spec("reaction-to-events/unsync/tried")
def test_all_pages_that_shadow_the_table_become_unsync(kernel: str) -> None:
    """One entry leads to the table with W and one without: it is shadowed twice, and neither page is in step."""
    scene = shared_table(kernel, READ_ONLY)
    scene.reads(2 * MIB + 0x5000)

    scene.edit(0x9000, HERE | USED)

    assert [(sp.role.access, sp.unsync) for sp in pages_of(scene, 0x5000)] in (
        [(7, True), (5, True)],
        [(5, True), (7, True)],
    )


@pytest.mark.spec("reaction-to-events/unsync/tried")
@pytest.mark.spec("unsync/leaf-pages-only")
def test_a_table_that_is_also_of_an_upper_level_stays_in_step(kernel: str) -> None:
    """Edge: the guest uses one frame as a table of the last level and as a directory. KVM cannot make the page for the
    directory unsync, so it makes none, and carries out the write itself."""
    scene = shared_table(kernel)
    assert scene.tables is not None
    table = scene.tables.entry_address(0x5000, 1) & FRAME
    scene.vm.memory.write(scene.tables.entry_address(GIB, 3), table | USED)
    scene.vm.memory.write(HERE, OTHER | USED)
    assert scene.reads(GIB + 5 * 2 * MIB) == NEW
    emulated = scene.cpu.vcpu.stat["pf_emulate"]

    scene.edit(0x9000, OTHER | USED)

    assert [(sp.role.level, sp.unsync) for sp in pages_of(scene, 0x5000)] == [(1, False), (2, False)]
    assert scene.cpu.vcpu.stat["pf_emulate"] == emulated + 1
    assert scene.vm.memory.read(table + 8 * 9) == OTHER | USED


@pytest.mark.spec("unsync/leaf-pages-only")
def test_a_directory_of_large_pages_alone_stays_in_step(kernel: str) -> None:
    """Edge: every spte of its page is a leaf, but it is no page of the last level."""
    scene = editing_guest(kernel, {0x5000: HERE})
    scene.map({GIB: 0, GIB + 2 * MIB: 2 * MIB}, level=2, flags=USED | 1 << 7)
    scene.reads(GIB)

    scene.edit(GIB + 2 * MIB, 4 * MIB | USED | 1 << 7, level=2)

    (directory,) = pages_of(scene, GIB, 2)
    assert (directory.role.level, directory.unsync) == (2, False)

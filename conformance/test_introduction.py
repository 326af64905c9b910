"""The introduction: what the MMU is for, and the goals that can be held against what it does."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from conformance.computers import Computer
from conformance.features import user_page
from conformance.looking import backing
from conformance.programs import Program
from conformance.scenes import GIB, MIB, NESTED_FORMATS, PAGE, Scene, guest, nested_guest
from mmu_model.hardware import CR4_SMAP, EFER_NXE, Kind, Mode
from mmu_model.kvm.memory_region import add_memory_region
from mmu_model.kvm.types import pa, pages_per_hpage
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind, Snapshot, read_recording
from mmu_model.snapshot.spte import Kind as SpteKind

TASK = "introduction/task/task"
CORRECT = "introduction/correctness/indistinguishable-but-for-timing"
SECURE = "introduction/security/no-host-memory-but-its-own"
FOOTPRINT = "introduction/footprint/little-pinned-memory"

RECORDINGS = Path(__file__).parent / "recordings"
PROGRAMS = [
    *((MmuKind.SHADOW, mode) for mode in Mode if mode is not Mode.OFF),
    (MmuKind.TDP, Mode.THIRTY_TWO_BIT),
    (MmuKind.TDP, Mode.FOUR_LEVEL),
    (MmuKind.DIRECT, Mode.PAE),
    (MmuKind.DIRECT, Mode.FIVE_LEVEL),
]
"""Every paging mode under shadow paging and, where the processor walks the guest's tables, under one MMU."""
STEPS = 80

SECRET = 0x5EC2_E75E_C2E7
NO_DEVICE = 0
"""What is read where the guest has no memory."""


@pytest.mark.spec(TASK)
@pytest.mark.spec(CORRECT)
@pytest.mark.parametrize(("mmu", "mode"), PROGRAMS, ids=lambda which: which.value)
def test_a_program_cannot_tell_kvm_from_a_processor(kernel: str, mmu: MmuKind, mode: Mode) -> None:
    """A random program, user and kernel, that edits its page tables: the same data, faults, error codes, and
    accessed and dirty flags as on the processor itself, though its memory is elsewhere."""
    program = Program(mode, seed=list(MmuKind).index(mmu), length=STEPS)

    alone = program.run(Computer(kernel, None))
    under_kvm = program.run(Computer(kernel, mmu))

    told = [
        f"{right}, not: {wrong}"
        for right, wrong in zip(alone.steps, under_kvm.steps, strict=True)
        if right != wrong
    ]
    assert told[:1] == []
    assert under_kvm.entries == alone.entries
    same_data = under_kvm.data == alone.data
    assert same_data


@pytest.mark.spec(CORRECT)
@pytest.mark.parametrize("mmu", [None, *MmuKind], ids=lambda mmu: mmu.value if mmu else "processor")
def test_shadow_paging_does_not_notice_that_nx_became_reserved(kernel: str, mmu: MmuKind | None) -> None:
    """Edge: a guest uses a page that is not executable, and turns EFER.NX off. Its entry now has a reserved
    bit, and the processor faults; with shadow paging the page stays readable."""
    computer = Computer(kernel, mmu)
    registers, address = user_page(computer, execute=False)
    computer.start(registers)
    assert computer.access(Kind.READ, address) == 0

    computer.start(replace(registers, efer=registers.efer & ~EFER_NXE))

    assert computer.access(Kind.READ, address) == (0 if mmu is MmuKind.SHADOW else "#PF 0x9")


@pytest.mark.spec(CORRECT)
@pytest.mark.parametrize("mmu", [None, *MmuKind], ids=lambda mmu: mmu.value if mmu else "processor")
def test_shadow_paging_loses_smap_with_cr0_wp_clear(kernel: str, mmu: MmuKind | None) -> None:
    """Edge: a kernel with CR0.WP = 0 writes to a read-only page of users under EFLAGS.AC, and clears AC. SMAP
    now forbids it the page; with shadow paging the page is one of the kernel meanwhile."""
    computer = Computer(kernel, mmu)
    registers, address = user_page(computer, write=False)
    registers = replace(registers, cr0=registers.cr0 & ~(1 << 16), cr4=registers.cr4 | CR4_SMAP)
    computer.start(replace(registers, ac=True))
    assert computer.access(Kind.WRITE, address, value=5) == 5

    computer.start(registers)

    assert computer.access(Kind.READ, address) == (5 if mmu is MmuKind.SHADOW else "#PF 0x1")


@pytest.mark.spec(TASK, refutes=True, tier="live")
def test_the_mmu_is_in_more_files_than_those(kernel: str) -> None:
    """On real kernels the pages that map a guest with nested paging are those of the TDP MMU, which is in
    none of the files that the sentence names."""
    snapshots = recorded(kernel, MmuKind.TDP)

    assert snapshots
    assert {page.tdp_mmu_page for snapshot in snapshots for page in snapshot.pages} == {True}


@pytest.mark.spec(TASK, refutes=True)
def test_the_tdp_mmu_serves_guests_with_nested_paging(kernel: str) -> None:
    """In the model, too, no other MMU has a part in it."""
    scene = guest(kernel, MmuKind.TDP, "4-level", mapped={0x5000: 0x6000})
    scene.reads(0x5000)

    assert {page.tdp_mmu_page for page in scene.vm.snapshot().pages} == {True}


@pytest.mark.spec(SECURE)
@pytest.mark.parametrize("paging", ["off", "PAE", "4-level"])
def test_a_guest_cannot_reach_what_is_not_its_own(kernel: str, mmu: MmuKind, paging: str) -> None:
    """It tries the numbers of frames of the kernel and of the process, by address or through its tables: what
    it reads is something else, what it writes does not arrive there."""
    scene = guest(kernel, mmu, paging)
    secrets = [hpa for hpa in secret_frames(scene) if paging != "off" or hpa < 1 << 32]
    linear = (
        {n * PAGE: hpa for n, hpa in enumerate(secrets)} if paging != "off" else {hpa: hpa for hpa in secrets}
    )
    if paging != "off":
        scene.map(linear)
        scene.cpu.set_registers(scene.cpu.vcpu.registers)

    assert {scene.reads(address) for address in linear} == {NO_DEVICE}
    for address in linear:
        scene.cpu.write(address, 1)

    assert {scene.vm.host.memory.read(hpa) for hpa in secrets} == {SECRET}
    assert strays(scene) == []


@pytest.mark.spec(SECURE)
def test_a_slot_ends_where_it_ends(kernel: str, mmu: MmuKind) -> None:
    """The host has 2 MiB in one piece, of which all but the last page are the guest's."""
    scene = guest(kernel, mmu)
    start = scene.vm.process.mmap(512, level=2)
    add_memory_region(scene.vm.kvm, 1, GIB, 2 * MIB - PAGE, start)
    scene.vm.host.memory.write(scene.vm.process.hpa(start + 2 * MIB - PAGE) or 0, SECRET)

    assert scene.reads(GIB) == 0

    assert scene.reads(GIB + 2 * MIB - PAGE) == NO_DEVICE
    assert strays(scene) == []


@pytest.mark.spec(SECURE)
@pytest.mark.parametrize("paging", ["off", "4-level"])
def test_memory_that_was_taken_away_is_out_of_reach(kernel: str, mmu: MmuKind, paging: str) -> None:
    """A guest that used it finds nothing there once the process took the slot back."""
    scene = guest(kernel, mmu, paging, memory={GIB: MIB}, mapped={GIB: GIB})
    scene.vm.memory.write(GIB, SECRET)
    assert scene.reads(GIB) == SECRET
    slot = scene.vm.kvm.memslots[0].by_id(1)
    assert slot is not None

    scene.vm.remove_memory(slot)

    assert scene.reads(GIB) == NO_DEVICE
    assert strays(scene) == []


@pytest.mark.spec(SECURE)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_a_guest_of_a_guest_cannot_either(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """Its hypervisor has the numbers of those frames in the nested tables."""
    scene = nested_guest(kernel, mmu, mapped={PAGE: 0x5000}, tdp_format=tdp_format)
    secrets = secret_frames(scene)
    assert scene.tables is not None
    for number, hpa in enumerate(secrets, 2):
        scene.tables.map(number * PAGE, hpa)
    addresses = [number * PAGE for number in range(2, 2 + len(secrets))]

    assert scene.reads(PAGE) == 0
    assert {scene.reads(address) for address in addresses} == {NO_DEVICE}
    for address in addresses:
        scene.cpu.write(address, 1)

    assert {scene.vm.host.memory.read(hpa) for hpa in secrets} == {SECRET}
    assert strays(scene) == []


@pytest.mark.spec(FOOTPRINT, refutes=True, tier="live")
def test_what_the_shrinker_counts_leaves_the_tdp_mmu_out_on_real_kernels(kernel: str) -> None:
    """Every page in use is one of the TDP MMU there, and none of them is in `n_used_mmu_pages`."""
    snapshots = [snapshot for snapshot in recorded(kernel, MmuKind.TDP) if len(snapshot.pages) > 1]

    assert snapshots
    assert {snapshot.n_used_mmu_pages for snapshot in snapshots} == {0}
    assert min(snapshot.tdp_mmu_pages for snapshot in snapshots) > 0


@pytest.mark.spec(FOOTPRINT, refutes=True)
def test_what_the_shrinker_counts_leaves_the_tdp_mmu_out(kernel: str, mmu: MmuKind) -> None:
    """Pages of the shadow MMU are all counted, pages of the TDP MMU not one."""
    scene = guest(kernel, mmu)
    scene.reads(0x5000)
    snapshot = scene.vm.snapshot()

    assert snapshot.n_used_mmu_pages == (0 if mmu is MmuKind.TDP else len(snapshot.pages))
    assert len(snapshot.pages) > 1


def secret_frames(scene: Scene) -> list[int]:
    """Frames of the host with something secret in it: of the kernel, and of the process for itself."""
    process = scene.vm.process
    hpas = [process.hpa(process.mmap(1)) or 0, pa(scene.vm.host.alloc_page())]
    for hpa in hpas:
        scene.vm.host.memory.write(hpa, SECRET)
    return hpas


def strays(scene: Scene) -> list[str]:
    """Leaf sptes, of whatever page, that reach frames behind no memslot; every slot here is one run of frames."""
    own = [(backing(scene.vm, slot.base_gfn) or 0, slot.npages) for slot in scene.vm.kvm.memslots[0]]
    reached = [
        (spte.pfn, pages_per_hpage(page.role.level))
        for page in scene.vm.snapshot().pages
        for spte in page.sptes().values()
        if spte.kind is SpteKind.LEAF
    ]
    return [
        f"{count} frames from {pfn:#x}"
        for pfn, count in reached
        if not any(first <= pfn and pfn + count <= first + npages for first, npages in own)
    ]


@cache
def recorded(kernel: str, mmu: MmuKind) -> list[Snapshot]:
    """What was recorded of guests that are no hypervisors, on a real kernel."""
    paths = sorted((RECORDINGS / kernel / mmu.value).glob("*.json.gz"))
    return [s for path in paths if "nested" not in path.name for s in read_recording(path).snapshots]

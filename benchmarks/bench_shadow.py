"""The shadow MMU: faults, snapshots, marking all pages obsolete, unmapping a frame that is mapped many times."""

from collections.abc import Iterable, Iterator
from unittest.mock import patch

from benchmarks.measure import Measurement, benchmark, cpu_seconds, rate
from conformance.scenes import GIB, P_W_U, PAGE, USED, guest, page_tables, paging_registers
from mmu_model.hardware import PAGE_SHIFT, Gfn, Mode
from mmu_model.kvm.fault import PFERR_USER_MASK
from mmu_model.kvm.page_fault import kvm_mmu_page_fault
from mmu_model.kvm.roots import serve_requests
from mmu_model.kvm.task import finish
from mmu_model.kvm.zap_all import kvm_mmu_zap_all_fast
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.shadow.notifier import kvm_unmap_gfn_range
from mmu_model.snapshot import MmuKind

KERNEL = "6.12"
TABLE_SPAN = 512 * PAGE
"""What the sptes of one level-1 page map."""
NEIGHBOURS = 8
"""A fault maps what the guest has used in the aligned group of eight pages."""

FAULTS, ROUNDS = 1_000, 20
"""Rounds are short, so that one of them has the machine to itself."""
SNAPSHOT_PAGES = 10_000
FEW_PAGES, MANY_PAGES = 1_000, 100_000
UNMAPS = {1: 500, 100: 50, 10_000: 10}
"""How often a frame with so many sptes is unmapped: the less there is to do, the more chance has a say."""


def shadowed(mapped: Iterable[tuple[int, int]], flags: int) -> tuple[VirtualMachine, Cpu]:
    """A guest with 4-level paging and 8 GiB, with its tables in the first, that has touched nothing."""
    vm = VirtualMachine(KERNEL, MmuKind.SHADOW)
    vm.add_memory(0, 8 * GIB)
    tables = page_tables(vm, Mode.FOUR_LEVEL, 0, [])
    for gva, gpa in mapped:
        tables.map(gva, gpa, flags=flags)
    cpu = vm.add_cpu(paging_registers(Mode.FOUR_LEVEL, tables.root))
    finish(serve_requests(cpu.vcpu))
    return vm, cpu


def touch(cpu: Cpu, addresses: range) -> None:
    """A fault at each: the processor's part is left out."""
    for address in addresses:
        kvm_mmu_page_fault(cpu.vcpu, address, PFERR_USER_MASK)


@benchmark
def shadow_faults() -> Iterator[Measurement]:
    """KVM walks the guest's tables and makes an spte; also those beside it, if the guest used them before."""
    yield Measurement("shadow faults", fault_rate(P_W_U, PAGE), "faults/s", target=10_000)
    yield Measurement(
        "shadow faults that map seven neighbours too", fault_rate(USED, NEIGHBOURS * PAGE), "faults/s"
    )


def fault_rate(flags: int, stride: int) -> float:
    """Faults a second at every `stride` of addresses whose gptes have these flags."""
    part = FAULTS * stride
    whole = range(GIB, GIB + ROUNDS * part, part)
    gvas = range(whole.start, whole.stop, PAGE)
    _, cpu = shadowed(zip(gvas, gvas, strict=True), flags)
    firsts = iter(whole)

    def again() -> None:
        first = next(firsts)
        touch(cpu, range(first, first + part, stride))

    return rate(again, FAULTS, ROUNDS)


@benchmark
def snapshots() -> Iterator[Measurement]:
    """Nearly all pages have eight sptes."""
    tables = range(GIB, GIB + SNAPSHOT_PAGES * TABLE_SPAN, TABLE_SPAN)
    gvas = (table + page * PAGE for table in tables for page in range(NEIGHBOURS))
    vm, cpu = shadowed(zip(gvas, range(GIB, 8 * GIB, PAGE), strict=False), USED)
    touch(cpu, tables)
    name = f"snapshot of {vm.kvm.n_used_mmu_pages:,} pages"
    yield Measurement(name, 1 / rate(vm.snapshot, 1), "s", target=1)


@benchmark
def marking_all_pages_obsolete() -> Iterator[Measurement]:
    """The part of a fast zap that comes before any page is zapped."""
    few, many = (marking(pages) for pages in (FEW_PAGES, MANY_PAGES))
    name = f"marking {MANY_PAGES:,} pages obsolete, as a multiple of {FEW_PAGES:,}"
    yield Measurement(name, many / few, "times", target=1.5)


def marking(pages: int) -> float:
    """Seconds for marking so many level-1 pages, and those above."""
    scene = guest(KERNEL, MmuKind.DIRECT, memory={4 * GIB: pages * TABLE_SPAN})
    finish(serve_requests(scene.cpu.vcpu))
    touch(scene.cpu, range(4 * GIB, 4 * GIB + pages * TABLE_SPAN, TABLE_SPAN))
    kvm = scene.vm.kvm

    def again() -> None:
        """There are two generations, so that every other time the pages may be used again."""
        for _ in range(1_000):
            marks = kvm_mmu_zap_all_fast(kvm)
            while next(marks, "zaps an obsolete page") != "zaps an obsolete page":
                pass
            marks.close()

    with kvm.slots_lock:
        return 1 / rate(again, 1_000)


@benchmark
def unmapping_a_frame() -> Iterator[Measurement]:
    """The host takes a page away that the guest has mapped again and again.

    KVM drops all sptes of a frame when there are more than 1,000. That rule is put off here.
    """
    with patch("mmu_model.shadow.sptes.RMAP_RECYCLE_THRESHOLD", max(UNMAPS)):
        each = {sptes: unmapping(sptes) / sptes for sptes in UNMAPS}
    for sptes, took in each.items():
        yield Measurement(f"unmapping a frame with {sptes:,} sptes", took * sptes * 1e6, "us")
    _, some, most = UNMAPS
    name = f"the same, one spte of {most:,} as a multiple of one of {some:,}"
    yield Measurement(name, each[most] / each[some], "times", target=1.5)


def unmapping(sptes: int) -> float:
    """Seconds for unmapping a frame that has so many sptes, the best of some."""
    gvas, gfn = range(GIB, GIB + sptes * PAGE, PAGE), Gfn(GIB >> PAGE_SHIFT)
    vm, cpu = shadowed(((gva, gfn << PAGE_SHIFT) for gva in gvas), USED)
    slot = cpu.vcpu.memslots.find(gfn)
    assert slot is not None

    def once() -> float:
        touch(cpu, gvas[::NEIGHBOURS])
        with vm.kvm.mmu_lock.write:
            return cpu_seconds(lambda: kvm_unmap_gfn_range(vm.kvm, slot, gfn, Gfn(gfn + 1)))

    return min(once() for _ in range(UNMAPS[sptes]))

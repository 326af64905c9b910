"""Section "Memory"."""

import pytest

from conformance.looking import Leaf, backing, reached
from conformance.scenes import GIB, MIB, PAGE, guest
from mmu_model.hardware import Gfn, Pfn
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.guest_memfd import set_memory_attributes
from mmu_model.kvm.memory_region import add_memory_region
from mmu_model.kvm.memslot import KVM_MEM_GUEST_MEMFD
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind, Snapshot

IN_PROCESS = "memory/guest-memory/in-the-process"
ALIASES = "memory/guest-memory/gpa-to-hva-aliases"
ANY_KIND = "memory/backing/any-kind-of-memory"
PAGED = "memory/backing/paged-at-any-time"

FILE_CONTENTS = Pfn(1 << 24)
"""Where the host has the contents of a file."""

NOT_MAPPED = Hva(0x1000)
"""The process has nothing there."""


@pytest.mark.spec(IN_PROCESS)
def test_guest_and_process_see_the_same_memory(kernel: str, mmu: MmuKind) -> None:
    """What the process writes at an address of its own, the guest reads at one of its own, and back."""
    scene = guest(kernel, mmu, memory={GIB: MIB})
    host, process = scene.vm.host.memory, scene.vm.process
    (low, high) = scene.vm.kvm.memslots[0]
    theirs = {0x5008: low.userspace_addr + 0x5008, GIB + 0x7010: high.userspace_addr + 0x7010}
    hpas = {gpa: process.hpa(hva) or 0 for gpa, hva in theirs.items()}

    for gpa, hpa in hpas.items():
        host.write(hpa, gpa)
    assert [scene.reads(gpa) for gpa in hpas] == list(hpas)

    for gpa in hpas:
        scene.cpu.write(gpa, gpa + 1)
    assert [host.read(hpa) for hpa in hpas.values()] == [gpa + 1 for gpa in hpas]


@pytest.mark.spec(IN_PROCESS)
def test_there_is_no_memory_but_that_of_the_process(kernel: str, mmu: MmuKind) -> None:
    """Edge: where a memslot names addresses at which the process has nothing, the guest cannot run on."""
    scene = guest(kernel, mmu)
    add_memory_region(scene.vm.kvm, 1, GIB, MIB, NOT_MAPPED)

    with pytest.raises(LookupError, match="EFAULT"):
        scene.reads(GIB)


@pytest.mark.spec(IN_PROCESS)
@pytest.mark.parametrize("kernel", ["6.12"])
def test_private_memory_is_nowhere_in_the_process(kernel: str) -> None:
    """Edge: a guest frame is made private. What the guest finds and writes there is in no memory of the process; when
    the frame is shared again, the process's memory is as it was. The frame beside it is shared all the time."""
    vm = VirtualMachine(kernel, MmuKind.TDP, private_memory=True)
    slot = vm.add_memory(0, 4 * MIB, level=2, flags=KVM_MEM_GUEST_MEMFD)
    cpu = vm.add_cpu()
    for address in (0x5000, 0x6000):
        cpu.write(address, 7)

    set_memory_attributes(vm.kvm, Gfn(5), 1, private=True)
    found = cpu.read(0x5000)
    cpu.write(0x5000, 9)
    mapped = {leaf.offset: leaf.spte.pfn for leaf in reached(vm.snapshot())}
    of_process = [vm.process.mapping(slot.hva(gfn)) for gfn in range(slot.npages)]
    seen = [cpu.read(0x5000), cpu.read(0x6000), vm.memory.read(0x5000)]
    set_memory_attributes(vm.kvm, Gfn(5), 1, private=False)

    assert (found, seen) == (0, [9, 7, 7])
    assert mapped[5] not in {mapping.pfn for mapping in of_process if mapping is not None}
    assert cpu.read(0x5000) == 7


@pytest.mark.spec(IN_PROCESS)
@pytest.mark.parametrize("kernel", ["6.1"])
def test_there_is_no_private_memory_before_6_8(kernel: str) -> None:
    """All of a guest's memory is the process's: 6.1 has no VM that could have other memory, and no flag for it."""
    with pytest.raises(KvmError, match="no private memory"):
        VirtualMachine(kernel, MmuKind.TDP, private_memory=True)
    with pytest.raises(KvmError, match="do not exist"):
        VirtualMachine(kernel, MmuKind.TDP).add_memory(0, MIB, flags=KVM_MEM_GUEST_MEMFD)


@pytest.mark.spec(ALIASES)
def test_the_process_says_where_a_guest_frame_is(kernel: str, mmu: MmuKind) -> None:
    """Two pieces of its memory, given to the guest the other way round, are the other way round for it."""
    scene = guest(kernel, mmu)
    kvm, process = scene.vm.kvm, scene.vm.process
    start = process.mmap(2)
    add_memory_region(kvm, 1, GIB, PAGE, Hva(start + PAGE))
    add_memory_region(kvm, 2, GIB + PAGE, PAGE, start)
    for number, hva in enumerate((start, start + PAGE), 1):
        scene.vm.host.memory.write(process.hpa(hva) or 0, number)

    assert [scene.reads(GIB), scene.reads(GIB + PAGE)] == [2, 1]


@pytest.mark.spec(ALIASES)
def test_two_guest_frames_may_be_one_of_the_process(kernel: str, mmu: MmuKind) -> None:
    """What the guest writes at the one address it reads at the other."""
    scene = guest(kernel, mmu)
    (slot,) = scene.vm.kvm.memslots[0]
    add_memory_region(scene.vm.kvm, 1, GIB, 16 * PAGE, slot.userspace_addr)

    scene.cpu.write(GIB + 0x5008, 7)
    assert scene.reads(0x5008) == 7

    scene.cpu.write(0x5008, 8)
    assert scene.reads(GIB + 0x5008) == 8


@pytest.mark.spec(ALIASES)
@pytest.mark.parametrize(("gpa", "pages"), [(0, 1), (64 * MIB - PAGE, 2), (32 * MIB, 1)])
def test_one_guest_frame_is_never_two_of_the_process(kernel: str, mmu: MmuKind, gpa: int, pages: int) -> None:
    """A memslot that has a frame which another one has already, at its start, its end or within, is refused."""
    scene = guest(kernel, mmu)
    elsewhere = scene.vm.process.mmap(pages)

    with pytest.raises(KvmError, match="overlaps slot 0"):
        add_memory_region(scene.vm.kvm, 1, gpa, pages * PAGE, elsewhere)


@pytest.mark.spec(ALIASES)
def test_in_smm_a_guest_frame_may_be_another_one(kernel: str, mmu: MmuKind) -> None:
    """Edge: SMM has memslots of its own. The same guest frame is at one address of the process outside, and at another
    in SMM."""
    scene = guest(kernel, mmu)
    inside = scene.vm.add_memory(0, MIB, as_id=1)
    (outside,) = scene.vm.kvm.memslots[0]
    for number, slot in enumerate((outside, inside), 1):
        scene.vm.host.memory.write(scene.vm.process.hpa(slot.hva(5)) or 0, number)

    seen = [scene.reads(0x5000)]
    scene.cpu.enter_smm()
    seen.append(scene.reads(0x5000))
    scene.cpu.rsm()
    seen.append(scene.reads(0x5000))

    assert seen == [1, 2, 1]


@pytest.mark.spec(PAGED)
@pytest.mark.parametrize("level", [1, 2])
def test_the_host_takes_a_frame_whenever_it_likes(kernel: str, mmu: MmuKind, level: int) -> None:
    """Before the guest used the page, after it read, after it wrote, again and again: the frame is the host's
    at once, and the next access finds what the host has there then."""
    scene = guest(kernel, mmu, host_level=level)
    process, start = scene.vm.process, scene.vm.kvm.memslots[0].by_id(0)
    assert start is not None
    gpa, hva = 4 * MIB + 0x5008, Hva(start.userspace_addr + 4 * MIB)
    seen: list[int | None] = []
    for use in (
        lambda: None,
        lambda: scene.reads(gpa),
        lambda: scene.cpu.write(gpa, 7),
        lambda: scene.reads(gpa),
    ):
        use()
        seen.append(backing(scene.vm, gpa >> 12))

        process.madvise_dontneed(hva, 512)

        pfns = [
            (leaf.spte.pfn, 512 ** (leaf.holder.role.level - 1))
            for leaf in leaves_if_any(scene.vm.snapshot())
        ]
        assert not [pfn for pfn, count in pfns if seen[-1] is not None and pfn <= seen[-1] < pfn + count]
        assert scene.reads(gpa) == 0
        scene.cpu.write(gpa, 9)
        assert scene.reads(gpa) == 9
        assert backing(scene.vm, gpa >> 12) not in seen


def leaves_if_any(snapshot: Snapshot) -> list[Leaf]:
    """What the guest reaches; nothing before it ran."""
    return [] if not snapshot.pages else list(reached(snapshot))


@pytest.mark.spec(ANY_KIND)
def test_any_memory_of_the_process_may_be_the_guests(kernel: str, mmu: MmuKind) -> None:
    """Anonymous memory, a file, and the memory of a device, each as a slot of its own: the guest reads what is there,
    others see what it writes, and it maps the very frames."""
    scene = guest(kernel, mmu)
    vm, process = scene.vm, scene.vm.process
    kinds = {
        GIB: process.mmap(16),
        2 * GIB: process.mmap_file(FILE_CONTENTS, 16),
        3 * GIB: process.mmap_device(16),
    }
    for number, (gpa, hva) in enumerate(kinds.items(), 1):
        add_memory_region(vm.kvm, number, gpa, 16 * PAGE, hva)
        vm.host.memory.write(process.hpa(hva) or 0, number)

    seen = [scene.reads(gpa) for gpa in kinds]
    for gpa in kinds:
        scene.cpu.write(gpa, gpa)

    assert seen == [1, 2, 3]
    assert [vm.host.memory.read(process.hpa(hva) or 0) for hva in kinds.values()] == list(kinds)
    assert (
        process.hpa(process.mmap_file(FILE_CONTENTS, 1)) == FILE_CONTENTS << 12 == process.hpa(kinds[2 * GIB])
    )
    mapped = {leaf.offset: leaf.spte.pfn for leaf in reached(vm.snapshot())}
    assert [mapped[gpa >> 12] for gpa in kinds] == [(process.hpa(hva) or 0) >> 12 for hva in kinds.values()]
    assert not vm.devices


@pytest.mark.spec(ANY_KIND)
def test_what_comes_back_is_what_the_kind_of_memory_says(kernel: str, mmu: MmuKind) -> None:
    """Edge: the process gives a page up that the guest has written to. Anonymous memory then is zero, a file has what
    was written to it."""
    scene = guest(kernel, mmu)
    process = scene.vm.process
    kinds = {GIB: process.mmap(16), 2 * GIB: process.mmap_file(FILE_CONTENTS, 16)}
    for number, (gpa, hva) in enumerate(kinds.items(), 1):
        add_memory_region(scene.vm.kvm, number, gpa, 16 * PAGE, hva)
        scene.cpu.write(gpa, 7)
        process.madvise_dontneed(hva, 1)

    assert [scene.reads(gpa) for gpa in kinds] == [0, 7]


@pytest.mark.spec(ANY_KIND)
def test_memory_whose_references_nobody_counts_is_refused(kernel: str, mmu: MmuKind) -> None:
    """Edge: pages of memory that a driver mapped into the process, and that have no reference counts of their own. The
    process can use them, and the guest cannot run on."""
    scene = guest(kernel, mmu)
    hva = scene.vm.process.mmap_driver(1)
    add_memory_region(scene.vm.kvm, 1, GIB, PAGE, hva)
    assert scene.vm.process.fault_in(hva, write=True) is not None

    with pytest.raises(LookupError, match="EFAULT"):
        scene.reads(GIB)


@pytest.mark.spec(ANY_KIND)
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_the_memory_of_a_device_is_not_cached(kernel: str, mmu: MmuKind) -> None:
    """Edge: where sptes say so themselves, as with EPT. Bits 3 to 5 are the type: 6 for write-back."""
    scene = guest(kernel, mmu, tdp_format=TdpFormat.EPT)
    add_memory_region(scene.vm.kvm, 1, GIB, PAGE, scene.vm.process.mmap_device(1))
    scene.reads(0x5000)
    scene.reads(GIB)

    types = {leaf.offset: leaf.spte.raw >> 3 & 7 for leaf in reached(scene.vm.snapshot())}

    assert (types[5], types[GIB >> 12]) == (6, 0)

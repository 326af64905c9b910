"""What is seen in a snapshot: pages by what they are, the way from one to the next, what is reached."""

from collections.abc import Iterator
from dataclasses import dataclass

from mmu_model.hardware import Hpa, LogicalProcessor, Mode
from mmu_model.hardware.walk import Words
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.snapshot import PageId, Pfn, ShadowPage, Snapshot, Spte, SpteFormat
from mmu_model.snapshot.spte import FRAME, Kind


@dataclass(frozen=True)
class Leaf:
    """A leaf spte reached from a page.

    Attributes
    ----------
    offset :
        Frames between what the first entry of that page stands for and what this spte maps.
    spte, holder :
        The spte, and the page that holds it.

    """

    offset: int
    spte: Spte
    holder: ShadowPage


def children(snapshot: Snapshot, page: ShadowPage) -> dict[int, ShadowPage]:
    """The pages that the entries of a page point at, by index."""
    by_spt = {other.spt: other for other in snapshot.pages}
    tables = {index: spte for index, spte in page.sptes().items() if spte.kind is Kind.TABLE}
    return {index: by_spt[Pfn(spte.pfn)] for index, spte in tables.items() if Pfn(spte.pfn) in by_spt}


def leaves(snapshot: Snapshot, page: ShadowPage, steps: int, offset: int = 0) -> Iterator[Leaf]:
    """All leaf sptes reachable from a page that stands `steps` levels above the last.

    The steps are counted here, as the processor counts them, and not taken from `role.level`.
    """
    span = 512 ** (steps - 1)
    for index, spte in page.sptes().items():
        if spte.kind is Kind.LEAF or steps == 1:
            yield Leaf(offset + index * span, spte, page)
    if steps > 1:
        for index, child in children(snapshot, page).items():
            yield from leaves(snapshot, child, steps - 1, offset + index * span)


def roots(snapshot: Snapshot) -> list[ShadowPage]:
    """The pages that the first vCPU's processor starts from: one, or under PAE paging up to four."""
    by_id = snapshot.by_id()
    mmu = getattr(snapshot.vcpus[0], snapshot.vcpus[0].mmu)
    ids: list[PageId | None] = [mmu.root.page] if mmu.root.page is not None else list(mmu.pae_root)
    return [by_id[page] for page in ids if page is not None]


def reached(snapshot: Snapshot) -> Iterator[Leaf]:
    """All leaf sptes that the first vCPU's processor reaches; offsets count from address 0."""
    mmu = getattr(snapshot.vcpus[0], snapshot.vcpus[0].mmu)
    for root in roots(snapshot):
        quarter = mmu.pae_root.index(root.id) if mmu.root.page is None else 0
        yield from leaves(snapshot, root, root.role.level, quarter << 18)


@dataclass(frozen=True)
class Link:
    """A nonleaf spte: where the kernel sees it, the struct it is in, and the one that it leads to."""

    sptep: int
    parent: KvmMmuPage
    child: KvmMmuPage


def spte_format(vm: VirtualMachine) -> SpteFormat:
    """The layout of the VM's sptes."""
    return SpteFormat.EPT if vm.kvm.parameters.ept_enabled else SpteFormat.PAGING


def structs(vm: VirtualMachine) -> list[KvmMmuPage]:
    """Every `struct kvm_mmu_page` that there is, by the frames whose `page->private` names one."""
    return [vm.host.at(address) for address in dict.fromkeys(vm.host.page_private.values())]


def links(vm: VirtualMachine) -> list[Link]:
    """Every nonleaf spte of the VM, looked for in all pages."""
    by_spt = {sp.hpa: sp for sp in structs(vm)}
    return [
        Link(sp.spt + 8 * index, sp, by_spt[Hpa(word & FRAME)])
        for sp in structs(vm)
        for index, word in enumerate(vm.host.words(sp.spt))
        if Spte(word, sp.role.level, spte_format(vm)).kind is Kind.TABLE
    ]


def backing(vm: VirtualMachine, gfn: int) -> int | None:
    """The host frame behind a guest frame."""
    hpa = vm.memory.hpa(gfn << 12)
    return None if hpa is None else hpa >> 12


def parents(snapshot: Snapshot, page: ShadowPage) -> list[tuple[PageId, int]]:
    """Every entry that points at a page, as page and index: looked for, not looked up."""
    return [
        (other.id, index)
        for other in snapshot.pages
        for index, spte in other.sptes().items()
        if spte.kind is Kind.TABLE and spte.pfn == page.spt
    ]


def processor(cpu: Cpu) -> LogicalProcessor:
    """The host's processor, as it runs the guest since the last access."""
    return cpu._processor


def translations(cpu: Cpu) -> int:
    """How many translations the processor makes for the guest: by paging, and by nested paging."""
    running = processor(cpu)
    return (running.registers.mode is not Mode.OFF) + (running.second_dimension is not None)


FLAGS = {TdpFormat.NPT: 3 << 5, TdpFormat.EPT: 3 << 8, TdpFormat.EPT_WITHOUT_AD: 3 << 8}
"""Accessed and dirty: where they are in an spte, or would be."""


def flags_after_use(vm: VirtualMachine, cpu: Cpu, flags: int) -> dict[str, int]:
    """What the processor makes of both flags of the page at 0x5000, after KVM cleared them, by access."""
    kvm = vm.kvm
    leaf = next(found for found in reached(vm.snapshot()) if found.offset == 5)
    sptep = next(sp.sptep(5) for sp in structs(vm) if sp.hpa >> 12 == leaf.holder.spt)
    kvm.host.write(sptep, leaf.spte.raw & ~flags)
    kvm.flush_remote_tlbs()
    seen = {}
    cpu.read(0x5000)
    seen["read"] = kvm.host.read(sptep) & flags
    cpu.write(0x5000, 1)
    seen["write"] = kvm.host.read(sptep) & flags
    return seen


class CountedWords:
    """A memory that counts how often it is read: the memory references of a walk."""

    def __init__(self, memory: Words) -> None:
        self._memory = memory
        self.reads = 0

    def read(self, address: int, size: int) -> int:
        """Count, and read."""
        self.reads += 1
        return self._memory.read(address, size)

    def compare_exchange(self, address: int, expected: int, value: int, size: int) -> bool:
        """Setting flags is no reference of the walk: the entry has been read already."""
        return self._memory.compare_exchange(address, expected, value, size)

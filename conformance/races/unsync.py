"""A guest's table becomes unsync while others write to it: the nested tables of a hypervisor on the TDP MMU.

Their frame is mapped by the TDP MMU, so that faults on it run side by side; what they translate to is in shadow
pages. Two vCPUs run the hypervisor.
"""

from dataclasses import dataclass

from conformance.races.actors import WRITE_PROTECTED, accesses, faults, read, write
from conformance.races.truths import leaf, whole
from conformance.scenes import NESTED_TABLES, PAGE, USED, guest, page_tables
from mmu_model.hardware import PAGE_SHIFT, Mode, Registers
from mmu_model.kvm.page import KvmMmuPage, sp_has_gptes, sptep_to_sp
from mmu_model.kvm.rmap import pte_list
from mmu_model.kvm.roots import serve_requests
from mmu_model.kvm.spte import is_writable_pte
from mmu_model.kvm.task import Spin, Steps, finish
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.schedule import Race
from mmu_model.snapshot import MmuKind

NGPA = 0x5000
OLD, NEW = 0x6000, 0x7000
"""Pages that the nested tables translate NGPA to; each has its own address in its first word."""


@dataclass
class Shadowed:
    """A hypervisor with two vCPUs, whose nested tables are shadowed.

    Attributes
    ----------
    gpte :
        Where the entry for NGPA is in guest-physical memory; the hypervisor has it at the same linear address.
    nested_cr3 :
        The root of the nested tables.

    """

    vm: VirtualMachine
    cpus: tuple[Cpu, Cpu]
    gpte: int
    nested_cr3: int

    @property
    def table(self) -> KvmMmuPage:
        """The page that shadows the table that the entry is in."""
        (sp,) = (sp for sp in self.vm.kvm.valid_pages_at(self.gpte >> PAGE_SHIFT) if sp_has_gptes(sp))
        return sp

    def enters(self, cpu: Cpu) -> None:
        """VMRUN, which flushes the TLB."""
        cpu.enter_nested(self.nested_cr3, Registers(maxphyaddr=46))

    def is_writable(self) -> bool:
        """Whether the hypervisor can write to the table without a fault."""
        return is_writable_pte(self.vm.host.read(leaf(self.vm, self.gpte)))


def shadowed(kernel: str) -> Shadowed:
    """The nested guest has run on both vCPUs, and the hypervisor runs now."""
    tables = {NESTED_TABLES + n * PAGE: NESTED_TABLES + n * PAGE for n in range(4)}
    scene = guest(kernel, MmuKind.TDP, "4-level", mapped=tables, mapped_flags=USED)
    nested = page_tables(scene.vm, Mode.FOUR_LEVEL, NESTED_TABLES, [])
    nested.map(NGPA, OLD, flags=USED)
    for page in (OLD, NEW):
        scene.vm.memory.write(page, page)
    gpte = nested.entry_address(NGPA, 1)
    scene.cpu.read(gpte)
    found = Shadowed(scene.vm, (scene.cpu, scene.vm.add_cpu(scene.cpu.vcpu.registers)), gpte, nested.root)
    for cpu in found.cpus:
        found.enters(cpu)
        cpu.read(NGPA)
        cpu.leave_nested()
        cpu.read(gpte)
        finish(serve_requests(cpu.vcpu))
    assert not found.table.unsync
    return found


def remaps(at: Shadowed, cpu: Cpu, seen: list[int | None], *, faulting: bool) -> Steps[None]:
    """The hypervisor makes NGPA lead to another page, flushes, and runs its guest, which reads there.

    Unless `faulting` it only writes when the table can be written to without a fault.
    """
    while not faulting and not at.is_writable():
        yield Spin("the table is write-protected")
    yield from accesses(cpu, write(at.gpte, NEW | USED))
    at.enters(cpu)
    seen.append((yield from accesses(cpu, read(NGPA))))


def _reads_the_new_page(seen: list[int | None]) -> None:
    assert seen == [NEW], "the nested guest reads by an entry that was changed before the flush"


def unsync_against_write(kernel: str) -> Race:
    """One vCPU faults on a table, which becomes unsync; the other writes an entry as soon as it can."""
    at, seen = shadowed(kernel), list[int | None]()

    def at_end() -> None:
        whole(at.vm)
        _reads_the_new_page(seen)

    actors = {
        "vcpu0": faults(at.cpus[0].vcpu, at.gpte, WRITE_PROTECTED),
        "vcpu1": remaps(at, at.cpus[1], seen, faulting=False),
    }
    return Race(actors, at_end=at_end)


def two_unsyncs_of_one_table(kernel: str) -> Race:
    """Both vCPUs fault on the same table: it becomes unsync once, and each page above counts it once."""
    at = shadowed(kernel)
    table = at.table

    def at_end() -> None:
        whole(at.vm)
        assert at.is_writable()
        assert (table.unsync, at.vm.kvm.stat["mmu_unsync"]) == (True, 1), "a page became unsync twice"
        for sptep in pte_list(at.vm.host, table.parent_ptes):
            above = sptep_to_sp(at.vm.host, sptep)
            assert above.unsync_children == above.unsync_child_bitmap.bit_count() == 1, "counted twice"

    actors = {f"vcpu{n}": faults(cpu.vcpu, at.gpte, WRITE_PROTECTED) for n, cpu in enumerate(at.cpus)}
    return Race(actors, at_end=at_end)


def write_before_the_root_is_marked(kernel: str) -> Race:
    """Both vCPUs fault on a table; the one that comes second writes an entry, flushes and runs its guest.

    This is lost by the kernels themselves. The second vCPU sees without mmu_unsync_pages_lock that the page is
    unsync already and goes on, although the first one, which holds that lock, has not marked the pages above
    yet. Then the root says that nothing below it is unsync, and nothing is synchronized for the flush. Between
    the two marks of the first vCPU lie a few instructions, in which the second has to make its spte, run the
    guest and leave it again.
    """
    at, seen = shadowed(kernel), list[int | None]()
    actors = {
        "vcpu0": faults(at.cpus[0].vcpu, at.gpte, WRITE_PROTECTED),
        "vcpu1": remaps(at, at.cpus[1], seen, faulting=True),
    }
    return Race(actors, at_end=lambda: _reads_the_new_page(seen))

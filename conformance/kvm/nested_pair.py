"""The same guest of a guest twice: over KVM's shadow of the hypervisor's EPT, and over that EPT itself."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from conformance.live import PREDICATES
from conformance.nested_ept import EPT_A, EPT_D, EPT_USED, NestedEpt, nested_ept_guest
from conformance.scenes import INNER_TABLES, MIB, PAGE, page_tables, paging_registers
from mmu_model.hardware import (
    EptMisconfiguration,
    EptViolation,
    ExtendedPaging,
    GeneralProtection,
    LogicalProcessor,
    Mode,
    PageFault,
    PhysicalMemory,
)
from mmu_model.hardware.ept import EPTP_ACCESSED_DIRTY
from mmu_model.hardware.linear import Pdptes
from mmu_model.hardware.tables import PageTables
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind

LINEAR: Final = (0x5000, 0x6000, 2 * MIB, 1 << 30)
"""Linear addresses of the inner guest; at first they are the nested guest-physical ones, too."""
NGPAS: Final = (0x5000, 0x6000, 0x1_5000)
"""What EPT12 maps with small pages: two pages of one group of eight, and one of another."""
LARGE: Final = 4 * MIB
"""And what it maps with one of 2 MiB."""
FRAMES: Final = (16 * MIB, 16 * MIB + PAGE, 18 * MIB)
DEVICE: Final = 1 << 40
WINDOW: Final = 0x4000_0000 + 2 * MIB
"""Linear address of the inner guest's own tables."""
WINDOW_PAGES: Final = 8
UNUSED: Final = EPT_USED & ~(EPT_A | EPT_D)

Outcome = tuple[str, tuple[int, ...]] | int | None


class Machine(Protocol):
    """What the inner guest runs on."""

    def read(self, address: int, size: int = 8, *, cpl: int = 0) -> int: ...
    def fetch(self, address: int, size: int = 8, *, cpl: int = 0) -> int: ...
    def write(self, address: int, value: int, size: int = 8, *, cpl: int = 0) -> None: ...
    def invlpg(self, address: int) -> None: ...
    def mov_cr3(self, value: int) -> None: ...


@dataclass
class NestedPair:
    """Both, and the tables that they began with."""

    scene: NestedEpt
    native: LogicalProcessor
    inner: PageTables
    eptp: int
    gptes: dict[int, int] = field(default_factory=dict)
    """Where the inner guest's last-level entries are, by linear address."""
    eptes: dict[tuple[int, int], int] = field(default_factory=dict)
    """Where the entries of EPT12 are, by address and level."""

    @classmethod
    def of(
        cls, kernel: str, mmu: MmuKind, mode: Mode, tdp_format: TdpFormat, walk_length: int
    ) -> "NestedPair":
        """An inner guest with that paging, whose hypervisor has a host with that EPT; nothing was used yet."""
        mapped = dict(zip(NGPAS, FRAMES, strict=True))
        mapped |= {INNER_TABLES + n * PAGE: INNER_TABLES + n * PAGE for n in range(WINDOW_PAGES)}
        flags = tdp_format is TdpFormat.EPT
        scene = nested_ept_guest(
            kernel,
            mmu,
            mapped,
            flags=UNUSED,
            accessed_dirty=flags,
            tdp_format=tdp_format,
            walk_length=walk_length,
        )
        scene.ept.map(LARGE, 20 * MIB, 2, UNUSED)
        inner = page_tables(scene.vm, mode, INNER_TABLES, [])
        for address, ngpa in zip(LINEAR, (*NGPAS, LARGE), strict=True):
            inner.map(address, ngpa)
        for n in range(WINDOW_PAGES):
            inner.map(WINDOW + n * PAGE, INNER_TABLES + n * PAGE)
        memory = PhysicalMemory(46)
        for number, frame in enumerate((*FRAMES, 20 * MIB)):
            scene.vm.memory.write(frame, 100 + number)
        for gpa in (*FRAMES, 20 * MIB, *scene.frames, *mapped.values()):
            copy_frame(scene, memory, gpa)
        pair = cls(scene, LogicalProcessor(memory), inner, scene.eptp)
        pair.gptes = {address: inner.entry_address(address, 1) for address in LINEAR}
        pair.eptes = {
            (ngpa, level): scene.ept.entry_address(ngpa, level)
            for ngpa in (*mapped, LARGE)
            for level in range(1 if ngpa != LARGE else 2, walk_length + 1)
        }
        registers = paging_registers(mode, inner.root)
        scene.as_hypervisor(lambda: pair.start(registers))
        return pair

    def start(self, registers: Any) -> None:
        """Both enter the inner guest, and not again until something is to be done by the hypervisor."""
        self.scene.inner = registers
        if registers.mode is Mode.PAE:
            self.scene.pdptes = self._pdptes(registers.cr3)
        self._enter_native(registers, self.scene.pdptes)

    def _pdptes(self, cr3: int) -> Pdptes:
        first, second, third, fourth = (self.native.memory.read(cr3 + 8 * n) for n in range(4))
        return first, second, third, fourth

    def _enter_native(self, registers: Any, pdptes: Pdptes | None) -> None:
        ept = ExtendedPaging(self.eptp, exec_only=True, maxphyaddr=46)
        self.native.enter_guest(registers, ept, pdptes=pdptes)

    def both(self, act: Callable[[Machine], Any]) -> None:
        """The inner guest does the same on both, and sees the same."""
        outcomes = [outcome(act, machine) for machine in (self.scene.cpu, self.native)]
        assert outcomes[0] == outcomes[1]

    def access(self, kind: str, address: int, cpl: int, value: int) -> None:
        """Read, write or fetch."""
        if kind == "write":
            self.both(lambda machine: machine.write(address, value, cpl=cpl))
        else:
            self.both(lambda machine: getattr(machine, kind)(address, cpl=cpl))

    def edit(self, address: int, value: int) -> None:
        """The inner guest changes an entry of its own tables, and flushes."""
        where = WINDOW + self.gptes[address] - INNER_TABLES
        self.both(lambda machine: machine.write(where, value))
        self.both(lambda machine: machine.invlpg(address))

    def load_cr3(self) -> None:
        """The inner guest loads its CR3 once more; with PAE paging its PDPTEs, too."""
        self.both(lambda machine: machine.mov_cr3(self.inner.root))

    def edit_ept(self, ngpa: int, level: int, value: int) -> None:
        """The hypervisor changes an entry of EPT12; unless it was not present before, it flushes."""
        where = self.eptes[ngpa, level]
        flush = bool(self.native.memory.read(where) & 7)

        def act() -> None:
            self.scene.cpu.write(where, value)
            if flush:
                self.scene.cpu.invept(self.eptp)

        self._as_hypervisor(act, lambda: self.native.memory.write(where, value), flush=flush)

    def switch_flags(self) -> None:
        """The hypervisor turns accessed and dirty flags for EPT on or off, and flushes."""

        def act() -> None:
            self.eptp = self.scene.eptp = self.eptp ^ EPTP_ACCESSED_DIRTY
            self.scene.cpu.invept(self.eptp)

        self._as_hypervisor(act, lambda: None, flush=True)

    def _as_hypervisor(self, act: Callable[[], None], natively: Callable[[], object], *, flush: bool) -> None:
        self.scene.pdptes = self.scene.cpu.vcpu.pdptes
        self.scene.as_hypervisor(act)
        pdptes = self.native._paging.pdptes
        registers = self.native.exit_guest()
        natively()
        if flush:
            self.native.invept(self.eptp)
        self._enter_native(registers, pdptes)

    def host(self, what: str) -> None:
        """The host does something that neither of the two can know of."""
        vm = self.scene.vm
        if what == "zap":
            vm.remove_memory(vm.add_memory(1 << 41, PAGE))
            return
        slot = vm.kvm.memslots[0].find(0)
        assert slot is not None
        set_memory_region_flags(vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES if what == "log" else 0)

    def check(self) -> None:
        """What any state of KVM's MMUs satisfies."""
        snapshot = self.scene.vm.snapshot()
        assert [what for predicate in PREDICATES for what in predicate.check(snapshot)] == []

    def same_memory(self) -> None:
        """Data and the inner guest's tables are the same in the end; so is EPT12, but for one thing.

        The processor sets accessed flags on its way down, KVM only if the whole translation permits the
        access: upper entries have no flag more than those of the processor.
        """
        ours, its = self.scene.vm.memory, self.native.memory
        tables = [INNER_TABLES + n * PAGE for n in range(WINDOW_PAGES)]
        leaves = {where for (_, level), where in self.eptes.items() if level == 1}
        for frame in (*FRAMES, 20 * MIB, *tables):
            for gpa in range(frame, frame + PAGE, 8):
                assert ours.read(gpa) == its.read(gpa), hex(gpa)
        for where in self.eptes.values():
            may_differ = 0 if where in leaves else EPT_A & its.read(where)
            assert (ours.read(where) ^ its.read(where)) & ~may_differ == 0, hex(where)


def copy_frame(scene: NestedEpt, memory: PhysicalMemory, frame: int) -> None:
    """The same contents at the same physical address."""
    for gpa in range(frame, frame + PAGE, 8):
        if word := scene.vm.memory.read(gpa):
            memory.write(gpa, word)


def outcome(act: Callable[[Machine], Any], machine: Machine) -> Outcome:
    """What comes of it: a value, or the fault or exit in full."""
    try:
        result: int | None = act(machine)
        return result
    except (PageFault, EptViolation, EptMisconfiguration) as fault:
        return type(fault).__name__, fault.args
    except GeneralProtection:
        return "GeneralProtection", ()

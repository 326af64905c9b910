"""The same guest twice: under KVM, and on a processor of its own; whatever they do, and whatever is done to them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from conformance.scenes import GIB, MIB, PAGE, TABLES, page_tables, paging_registers
from mmu_model.hardware import (
    CR0_PG,
    CR0_WP,
    CR4_SMAP,
    CR4_SMEP,
    GeneralProtection,
    Gfn,
    Kind,
    LogicalProcessor,
    Mode,
    PageFault,
    PhysicalMemory,
    Registers,
    access,
)
from mmu_model.hardware.tables import PageTables
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.memory_region import move_memory_region, set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.snapshot import MmuKind

MAXPHYADDR: Final = 40
BASES: Final = (GIB, GIB + 4 * MIB)
"""Where there is memory at times."""
SPARE: Final = 4 * PAGE
"""How much."""
FRAMES: Final = (MIB, MIB + PAGE, BASES[0] + PAGE, BASES[1] + PAGE)
"""What the guest maps: the first two are always there."""
ADDRESSES: Final = (0x5000, 0x9000, 2 * MIB, GIB)
"""Two pages of one last-level table, one of another, one of another directory. Without paging they are physical."""
WINDOW: Final = 0x8000_0000
"""Where the guest sees its tables."""
UPPER: Final = {Mode.THIRTY_TWO_BIT: (2,), Mode.PAE: (2,), Mode.FOUR_LEVEL: (2, 3), Mode.FIVE_LEVEL: (2, 4)}
PAGING: Final = tuple(UPPER)
P, W, U, A, XD = 1, 2, 4, 1 << 5, 1 << 63


class Machine(Protocol):
    """What a program runs on: a virtual processor, or the processor itself."""

    def read(self, address: int, size: int = 8, *, cpl: int = 0) -> int: ...
    def fetch(self, address: int, size: int = 8, *, cpl: int = 0) -> int: ...
    def write(self, address: int, value: int, size: int = 8, *, cpl: int = 0) -> None: ...
    def invlpg(self, address: int) -> None: ...
    def mov_cr0(self, value: int) -> None: ...
    def mov_cr3(self, value: int) -> None: ...
    def mov_cr4(self, value: int) -> None: ...


@dataclass
class Twins:
    """Both, and what the program has to know.

    Attributes
    ----------
    entries :
        Where the entries are, by paging mode, address and level.
    registers :
        What each paging mode runs with at first.
    written :
        Frames that the guest has written to since writes were logged, or the log was fetched.
    smram :
        What the processor has for memory in SMM.
    outside :
        In SMM: the processor as it was, and the memory.

    """

    vm: VirtualMachine
    cpu: Cpu
    native: LogicalProcessor
    memory: PhysicalMemory
    entries: dict[tuple[Mode, int, int], int] = field(default_factory=dict)
    registers: dict[Mode, Registers] = field(default_factory=dict)
    written: set[Gfn] = field(default_factory=set)
    smram: PhysicalMemory = field(default_factory=lambda: PhysicalMemory(MAXPHYADDR))
    outside: Registers | None = None
    spare: KvmMemorySlot | None = None

    @classmethod
    def of(cls, kernel: str, mmu: MmuKind, tdp_format: TdpFormat = TdpFormat.NPT) -> "Twins":
        """A guest with 4-level paging, and tables for every mode."""
        vm = VirtualMachine(kernel, mmu, maxphyaddr=MAXPHYADDR, tdp_format=tdp_format)
        for as_id in (0, 1):
            vm.add_memory(0, 64 * MIB, as_id=as_id)
        memory = PhysicalMemory(MAXPHYADDR)
        twins = cls(vm, vm.add_cpu(), LogicalProcessor(memory), memory)
        frames: list[int] = []
        for number, mode in enumerate(PAGING):
            twins._make_tables(mode, TABLES + number * MIB, frames)
        for gpa in (gpa for frame in frames for gpa in range(frame, frame + PAGE, 8)):
            if word := vm.memory.read(gpa):
                memory.write(gpa, word)
        for number, frame in enumerate(FRAMES[:2]):
            for at in (vm.memory, memory):
                at.write(frame, 100 + number)
        twins.switch(Mode.FOUR_LEVEL)
        return twins

    def _make_tables(self, mode: Mode, where: int, frames: list[int]) -> None:
        tables: PageTables = page_tables(self.vm, mode, where, frames)
        for address in ADDRESSES:
            tables.map(address, FRAMES[0], flags=P | W | U | A)
        for n in range(16):
            tables.map(WINDOW + n * PAGE, where + n * PAGE, flags=P | W | A)
        for address in ADDRESSES:
            for level in (1, *UPPER[mode]):
                self.entries[mode, address, level] = tables.entry_address(address, level)
        self.registers[mode] = paging_registers(mode, tables.root, MAXPHYADDR)

    # What the guest does.

    def both(self, act: Callable[[Machine], object]) -> object:
        """Do the same on both, and see that the same comes of it."""
        outcomes: list[object] = []
        for machine in (self.cpu, self.native):
            try:
                outcomes.append(act(machine))
            except PageFault as fault:
                outcomes.append(("#PF", fault.error_code, fault.cr2))
            except GeneralProtection:
                outcomes.append("#GP")
        assert outcomes[0] == outcomes[1], f"under KVM {outcomes[0]}, without {outcomes[1]}"
        return outcomes[0]

    def access(self, kind: Kind, address: int, cpl: int, value: int = 0, size: int = 8) -> None:
        """Read, write or fetch; in SMM only where it has memory."""
        if self.outside is not None and address >= GIB:
            return
        if kind is not Kind.WRITE:
            self.both(lambda machine: getattr(machine, kind.value)(address, size, cpl=cpl))
            return
        if (
            self.both(lambda machine: machine.write(address, value, size, cpl=cpl)) is None
            and not self.outside
        ):
            self.written.add(Gfn(self.native.translate(address, access(kind, user=cpl == 3)) >> 12))

    def edit(self, address: int, level: int, entry: int) -> None:
        """Change an entry through the window, and flush what it translated, as the architecture demands."""
        mode = self.native.registers.mode
        if self.outside is not None or mode is Mode.OFF:
            return
        where, size = self.entries[mode, address, level], 4 if mode is Mode.THIRTY_TWO_BIT else 8
        tables = TABLES + PAGING.index(mode) * MIB
        self.access(Kind.WRITE, WINDOW + where - tables, 0, entry & (1 << 8 * size) - 1, size)
        if level == 1:
            self.both(lambda machine: machine.invlpg(address))
        else:
            self.both(lambda machine: machine.mov_cr3(self.registers[mode].cr3))

    def edit_upper(self, address: int, which: int, rights: int) -> None:
        """Change the rights of an upper entry."""
        mode = self.native.registers.mode
        if self.outside is not None or mode is Mode.OFF:
            return
        level, size = UPPER[mode][which % len(UPPER[mode])], 4 if mode is Mode.THIRTY_TWO_BIT else 8
        table = self.memory.read(self.entries[mode, address, level], size) & ~(P | W | U | XD)
        self.edit(address, level, table | rights)

    def switch(self, mode: Mode) -> None:
        """Go on in another paging mode (KVM_SET_SREGS)."""
        if self.outside is None:
            registers = self.registers.get(mode, Registers(maxphyaddr=MAXPHYADDR))
            self.cpu.set_registers(registers)
            self.native = LogicalProcessor(self.memory, registers)

    def toggle(self, what: str) -> None:
        """Turn paging, or a protection, on or off; paging not in long mode."""
        if self.outside is not None:
            return
        now = self.native.registers
        if what in ("SMEP", "SMAP"):
            bit = CR4_SMEP if what == "SMEP" else CR4_SMAP
            self.both(lambda machine: machine.mov_cr4(now.cr4 ^ bit))
        elif what == "WP":
            self.both(lambda machine: machine.mov_cr0(now.cr0 ^ CR0_WP))
        elif not now.mode.is_long and now.cr3:
            self.both(lambda machine: machine.mov_cr0(now.cr0 ^ CR0_PG))

    def smm(self) -> None:
        """A system-management interrupt, or the return from one."""
        if self.outside is None:
            self.outside = self.native.registers
            self.cpu.enter_smm()
            self.native = LogicalProcessor(self.smram, self.cpu.vcpu.registers)
        else:
            self.cpu.rsm()
            self.native = LogicalProcessor(self.memory, self.outside)
            self.outside = None

    # What the process and the host do.

    def add(self, where: int) -> None:
        """There is more memory, if there is not already."""
        if self.spare is None:
            self._forget(BASES[where])
            self.spare = self.vm.add_memory(BASES[where], SPARE)

    def remove(self) -> None:
        """It goes."""
        if self.spare is not None:
            self.vm.remove_memory(self.spare)
            self._forget(self.spare.base_gfn << 12)
            self.spare = None

    def move(self) -> None:
        """It goes elsewhere, with its contents."""
        if self.spare is None:
            return
        old = self.spare.base_gfn << 12
        new = BASES[0] + BASES[1] - old
        contents = [self.memory.read(old + at) for at in range(0, SPARE, 8)]
        self._forget(new)
        self.spare = move_memory_region(self.vm.kvm, self.spare, new)
        self.written = {Gfn(gfn + (new - old >> 12)) if gfn << 12 >= GIB else gfn for gfn in self.written}
        for index, word in enumerate(contents):
            if word:
                self.memory.write(new + 8 * index, word)
        self._forget(old)

    def _forget(self, base: int) -> None:
        """Neither memory nor a device has anything there."""
        for gpa in range(base, base + SPARE, PAGE):
            self.memory.release(type(Gfn(0))(gpa >> 12))  # type: ignore[arg-type]
        if self.spare is None:
            self.written -= {Gfn(gpa >> 12) for gpa in range(base, base + SPARE, PAGE)}
        self.vm.devices = {gpa: v for gpa, v in self.vm.devices.items() if not base <= gpa < base + SPARE}

    def log(self, *, on: bool) -> None:
        """Log writes to all memory, or do not any more."""
        for slot in self.vm.kvm.memslots[0]:
            if slot.dirty_bitmap is None:
                self.written -= set(map(Gfn, self._in(slot)))
            set_memory_region_flags(self.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES if on else 0)

    def fetch_log(self) -> None:
        """As a migration does: no page that was written may be missing."""
        for slot in self.vm.kvm.memslots[0]:
            if slot.dirty_bitmap is not None:
                written = set(map(Gfn, self._in(slot)))
                missing = written - kvm_vm_ioctl_get_dirty_log(self.vm.kvm, slot)
                assert not missing, f"the log does not have gfn {min(missing):#x}, which was written"
                self.written -= written

    def _in(self, slot: KvmMemorySlot) -> list[int]:
        return [gfn for gfn in self.written if slot.base_gfn <= gfn < slot.end_gfn]

    def host(self, what: str, frame: int) -> None:
        """The host does something with a page of memory that is always there, or needs memory itself."""
        slot, process = self.vm.kvm.memslots[0].find(0), self.vm.process
        assert slot is not None
        hva = slot.hva(Gfn(frame >> 12))
        if what == "shrink":
            self.vm.host.shrink_slab(2)
        elif what == "age":
            process.was_used(hva, 1)
        elif what == "swap" and process.mapping(hva) is not None:
            process.swap_out(hva)
        elif what == "move" and process.mapping(hva) is not None:
            process.replace_page(hva, writable=True)

    def same_memory(self) -> None:
        """In the end the frames have the same contents."""
        for frame in FRAMES[:2]:
            assert self.vm.memory.read(frame) == self.memory.read(frame)


Step = tuple[Any, ...]


def step(twins: Twins, what: str, *how: Any) -> None:
    """One step of a program: the name of a method, and its arguments."""
    if what == "log":
        twins.log(on=how[0])
    else:
        getattr(twins, what)(*how)

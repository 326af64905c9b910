"""A guest under NPT or EPT, with page tables of its own, to try things on."""

from abc import ABC, abstractmethod

from conformance.hardware.machine import CR4, MAXPHYADDR, Machine
from mmu_model.hardware import (
    EFER_LMA,
    EFER_NXE,
    Access,
    ExtendedPaging,
    Fault,
    Mode,
    NestedPaging,
    NestedTranslation,
    PhysicalMemory,
    Registers,
    SecondDimension,
    walk_nested,
)
from mmu_model.hardware.ept import (
    EPTP_ACCESSED_DIRTY,
    EPTP_WALK_LENGTH_4,
    EPTP_WALK_LENGTH_5,
    EPTP_WRITE_BACK,
)
from mmu_model.hardware.pdptes import load_paging
from mmu_model.hardware.tables import PageTables, frames_from

HOST_OFFSET = 0x4000_0000
VA, GPA = 0x1234_5000, 0x0020_0000


class Guest(ABC):
    """The guest maps VA to GPA, by tables at guest-physical 0x100000; the host adds 1 GiB to its addresses.

    The host maps exactly the 4-KiB pages that the guest needs: its tables, GPA, and VA for a guest without
    paging.
    """

    leaf_flags = 7

    def __init__(self, mode: Mode, host_mode: Mode) -> None:
        self.host_mode = host_mode
        self.memory = PhysicalMemory(MAXPHYADDR)
        self.host = PageTables(self.memory, host_mode, frames_from(0x10_0000))
        self.own = Machine(mode)
        if mode is not Mode.OFF:
            self.own.tables.map(VA, GPA)
        self.table_gpas = sorted(pfn << 12 for pfn in self.own.memory.frames())
        for pfn in self.own.memory.frames():
            for index, word in enumerate(self.own.memory.frame(pfn)):
                if word:
                    self.memory.write((pfn << 12) + HOST_OFFSET + index * 8, int(word))
        for gpa in [*self.table_gpas, GPA, VA]:
            self.host.map(gpa, gpa + HOST_OFFSET, flags=self.leaf_flags)

    @property
    @abstractmethod
    def paging(self) -> SecondDimension:
        """The second dimension."""

    @property
    def registers(self) -> Registers:
        return Registers(maxphyaddr=MAXPHYADDR) if self.own.mode is Mode.OFF else self.own.registers()

    def walk(self, how: Access, address: int = VA) -> NestedTranslation | Fault:
        """The translation, or the fault instead of raising it."""
        try:
            paging = load_paging(self.memory, self.registers, self.paging)
            return walk_nested(self.memory, paging, self.paging, how, address)
        except Fault as fault:
            return fault

    def own_entry(self, level: int = 1) -> int:
        """Where the guest's entry for VA is, host-physical."""
        return self.own.tables.entry_address(VA, level) + HOST_OFFSET

    def entry(self, gpa: int, level: int = 1) -> int:
        """The host's entry for an address of the guest."""
        return self.memory.read(self.host.entry_address(gpa, level), self._entry_size)

    def change(self, gpa: int, *, level: int = 1, clear: int = 0, add: int = 0) -> None:
        """Clear and set bits in the host's entry."""
        where = self.host.entry_address(gpa, level)
        self.memory.write(where, self.entry(gpa, level) & ~clear | add, self._entry_size)

    @property
    def _entry_size(self) -> int:
        return 4 if self.host_mode is Mode.THIRTY_TWO_BIT else 8


class NptGuest(Guest):
    """Under NPT; the host's EFER.NXE can be off."""

    def __init__(self, mode: Mode, host_mode: Mode = Mode.FOUR_LEVEL, host_nxe: bool = True) -> None:
        super().__init__(mode, host_mode)
        self.host_nxe = host_nxe

    @property
    def paging(self) -> NestedPaging:
        efer = (EFER_NXE if self.host_nxe else 0) | (EFER_LMA if self.host_mode.is_long else 0)
        return NestedPaging(self.host.root, cr4=CR4[self.host_mode], efer=efer, maxphyaddr=MAXPHYADDR)


class EptGuest(Guest):
    """Under EPT; with accessed and dirty flags, or a processor that has execute-only pages, if asked for."""

    leaf_flags = 7 | 6 << 3

    def __init__(
        self, mode: Mode, host_mode: Mode = Mode.FOUR_LEVEL, *, flags: bool = False, exec_only: bool = False
    ) -> None:
        super().__init__(mode, host_mode)
        self.flags, self.exec_only = flags, exec_only

    @property
    def paging(self) -> ExtendedPaging:
        length = EPTP_WALK_LENGTH_5 if self.host_mode is Mode.FIVE_LEVEL else EPTP_WALK_LENGTH_4
        eptp = self.host.root | EPTP_WRITE_BACK | length | EPTP_ACCESSED_DIRTY * self.flags
        return ExtendedPaging(eptp, exec_only=self.exec_only, maxphyaddr=MAXPHYADDR)

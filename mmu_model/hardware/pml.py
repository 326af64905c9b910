"""Page-modification logging (SDM vol. 3, 29.3.6): which pages EPT's dirty flags were set for."""

from typing import Final

from mmu_model.hardware.faults import Fault
from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.hardware.walk import Words


class PageModificationLogFull(Fault):
    """VM exit 62: there is no room to log a write, which therefore did not happen."""


class PageModificationLog:
    """The page of 512 addresses that the VMCS names, and the index of the next one."""

    ENTRIES: Final = 512

    def __init__(self) -> None:
        self._gpas: list[int] = []

    def check_room(self) -> None:
        """Raises PageModificationLogFull if there is none: before any flag is set."""
        if len(self._gpas) == self.ENTRIES:
            raise PageModificationLogFull

    def append(self, gpa: int) -> None:
        """The page of a guest-physical address became dirty."""
        self._gpas.append(gpa >> PAGE_SHIFT << PAGE_SHIFT)

    def take(self) -> list[int]:
        """All addresses logged so far, which makes room for others."""
        gpas, self._gpas = self._gpas, []
        return gpas

    def __len__(self) -> int:
        return len(self._gpas)


class LoggedTables:
    """EPT paging structures, for the walk of one address: a dirty flag that it sets is logged.

    Parameters
    ----------
    memory :
        That has the structures.
    log, dirty :
        Where to, and which bit of an entry is the flag.
    gpa :
        The address that is translated.

    """

    def __init__(self, memory: Words, log: PageModificationLog, dirty: int, gpa: int) -> None:
        self._memory = memory
        self._log = log
        self._dirty = dirty
        self._gpa = gpa

    def read(self, address: int, size: int) -> int:
        """An entry."""
        return self._memory.read(address, size)

    def compare_exchange(self, address: int, expected: int, value: int, size: int) -> bool:
        """Set flags of an entry."""
        self._log.check_room()
        if not self._memory.compare_exchange(address, expected, value, size):
            return False
        if value & ~expected & self._dirty:
            self._log.append(self._gpa)
        return True

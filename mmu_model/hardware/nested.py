"""Two dimensions: a guest's own paging over NPT or EPT.

Whatever the guest's tables hold is a guest-physical address. The second dimension translates it, for each
entry of the guest that a walk reads and for the page that it ends in: 24 reads for 4 levels over 4.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import ClassVar, Final, NamedTuple

from mmu_model.hardware.access import Access, Kind
from mmu_model.hardware.linear import LinearPaging
from mmu_model.hardware.paging import Paging, Translation
from mmu_model.hardware.pml import PageModificationLog
from mmu_model.hardware.walk import Words, walk


class Purpose(Enum):
    """Why the processor accesses guest-physical memory."""

    PAGE = "the page that a linear address translates to"
    TABLE = "an entry of the guest's paging structures, on a walk"
    PDPTE = "the guest's PDPTEs, for the PDPTE registers"


@dataclass(frozen=True, slots=True)
class GuestPhysicalAccess:
    """An access to guest-physical memory; a read-modify-write `reads` and `writes`."""

    reads: bool
    writes: bool
    fetches: bool
    purpose: Purpose


PAGE_ACCESS: Final = {
    kind: GuestPhysicalAccess(kind is Kind.READ, kind is Kind.WRITE, kind is Kind.FETCH, Purpose.PAGE)
    for kind in Kind
}
"""Accesses to the page itself: the second dimension does not distinguish user and supervisor mode."""

TABLE_READ: Final = GuestPhysicalAccess(reads=True, writes=False, fetches=False, purpose=Purpose.TABLE)
TABLE_WRITE: Final = GuestPhysicalAccess(reads=False, writes=True, fetches=False, purpose=Purpose.TABLE)
TABLE_UPDATE: Final = GuestPhysicalAccess(reads=True, writes=True, fetches=False, purpose=Purpose.TABLE)
PDPTE_READ: Final = GuestPhysicalAccess(reads=True, writes=False, fetches=False, purpose=Purpose.PDPTE)


NO_EP4TA: Final = -1


class SecondDimension(Paging[GuestPhysicalAccess]):
    """NPT or EPT: paging of guest-physical addresses.

    Attributes
    ----------
    pdpte_registers :
        Whether a guest with PAE paging has PDPTE registers, loaded with its CR3.
    ep4ta :
        What cached translations of guest-physical addresses are tagged with: with EPT the address of the
        root, whatever the VPID (SDM vol. 3, 29.4.1); NO_EP4TA with NPT, where they belong to the ASID.
    table_access :
        What reading an entry of the guest's paging structures counts as.
    log :
        Where pages are noted that become dirty, if anywhere: only with EPT.

    """

    log: PageModificationLog | None = None
    pdpte_registers: ClassVar[bool]
    ep4ta: int
    table_access: GuestPhysicalAccess

    @abstractmethod
    def check_update(self, address: int, last: Translation) -> None:
        """Raise the fault of setting a flag in a guest entry at `address`, which was read by way of
        `last`."""


Translate = Callable[[GuestPhysicalAccess, int], Translation]
"""The second dimension at work: the translation of a guest-physical address, or its fault raised."""


class GuestTables:
    """A guest's paging structures, as a walk of them sees them: words at guest-physical addresses.

    Parameters
    ----------
    memory :
        Host-physical memory.
    host :
        The second dimension.
    how :
        What reading an entry counts as, if not what `host` says of a walk.
    translate :
        How guest-physical addresses are translated, if not by a walk each time.

    """

    def __init__(
        self,
        memory: Words,
        host: SecondDimension,
        how: GuestPhysicalAccess | None = None,
        translate: Translate | None = None,
    ) -> None:
        self._memory = memory
        self._host = host
        self._how = how or host.table_access
        self._translate = translate or partial(walk, memory, host)
        self._last: tuple[int, Translation]

    def read(self, address: int, size: int) -> int:
        """Translate the address, then read."""
        there = self._translate(self._how, address)
        self._last = address, there
        return self._memory.read(there.address, size)

    def compare_exchange(self, address: int, expected: int, value: int, size: int) -> bool:
        """Change the entry that was read last, through the same translation."""
        last_read, there = self._last
        assert last_read == address, "a walk changes only what it has just read"
        self._host.check_update(address, there)
        return self._memory.compare_exchange(there.address, expected, value, size)


class NestedTranslation(NamedTuple):
    """Both halves: `guest` ends in a guest-physical address, `host` in a host-physical one."""

    guest: Translation
    host: Translation


def walk_nested(
    memory: Words, guest: LinearPaging, host: SecondDimension, access: Access, address: int
) -> NestedTranslation:
    """Translate a linear address of a guest to a host-physical one.

    The guest's accessed and dirty flags are set before the page's guest-physical address is translated.

    Raises
    ------
    Fault
        #PF or #GP of the guest, or an exit of the second dimension.

    """
    inner = walk(GuestTables(memory, host), guest, access, address)
    return NestedTranslation(inner, walk(memory, host, PAGE_ACCESS[access.kind], inner.address))

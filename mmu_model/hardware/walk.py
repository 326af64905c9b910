"""The page walk: one routine for every mode, for linear addresses, NPT and EPT."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from mmu_model.hardware.paging import ALL_RIGHTS, PSE36_SHIFT, Cause, Paging, Step, Translation
from mmu_model.hardware.types import PAGE_SHIFT


class Words(Protocol):
    """What a walk needs of the memory that holds the tables.

    :class:`~mmu_model.hardware.memory.PhysicalMemory` is one. Under a hypervisor the tables of the guest lie
    in guest-physical memory, each access to which is a walk of its own: see
    :class:`~mmu_model.hardware.nested.GuestTables`.
    """

    def read(self, address: int, size: int) -> int:
        """The entry of `size` bytes at a physical address."""

    def compare_exchange(self, address: int, expected: int, value: int, size: int) -> bool:
        """Store `value` if the entry still is `expected`, as one locked operation; say whether it did."""


A = TypeVar("A", bound="AccessToMemory")


class AccessToMemory(Protocol):
    """What a walk needs of an access; the rest is between the access and the paging."""

    @property
    def writes(self) -> bool:
        """Whether memory is changed, so that the page becomes dirty."""


Start = tuple[int, int, int]
"""Where a walk stands: the index of the next step, its table, and the rights that the levels above
granted."""


class TableCache(Protocol):
    """Paging-structure caches: they let a walk begin lower down."""

    def deepest(self, steps: Sequence[Step], address: int) -> Start | None:
        """The lowest place where a walk of the address may begin."""

    def keep(self, shift: int, address: int, start: Start) -> None:
        """The entry for `address >> shift` leads to `start`."""


def walk(
    memory: Words, paging: Paging[A], access: A, address: int, tables: TableCache | None = None
) -> Translation:
    """Translate one address, and set the accessed and dirty flags that this sets.

    At every level: read the entry, see that it is present and well formed, narrow the rights; then, unless it
    maps a page, set its accessed flag and go down. At the page: is the access permitted? If so, set the
    accessed flag and, for a write, the dirty flag (SDM vol. 3, 4.2 to 4.8; APM vol. 2, 5.3 to 5.6). An entry
    that changes under the walk before its flags are set makes the walk begin again.

    Parameters
    ----------
    memory :
        Where the tables are.
    paging :
        Which tables to walk, and by which rules.
    access :
        What is to be done at the address.
    address :
        The address to translate.
    tables :
        The paging-structure caches, to begin at and to add to.

    Raises
    ------
    Fault
        The one that `paging` has for the cause. Flags set until then stay set.

    """
    if address >> paging.top_shift not in paging.tops:
        raise paging.impossible(access, address)
    if not paging.steps:
        return Translation(address, 0, PAGE_SHIFT, ALL_RIGHTS, 0)
    start = tables.deepest(paging.steps, address) if tables is not None else None
    if start is None:
        root = paging.roots[address >> paging.root_shift]
        if root is None:
            raise paging.fault(Cause.NOT_PRESENT, access, address, 0, 0)
        start = 0, root, ALL_RIGHTS
    return _descend(memory, paging, access, address, start, tables)


def _descend(
    memory: Words, paging: Paging[A], access: A, address: int, start: Start, tables: TableCache | None
) -> Translation:
    """The walk from `start` on."""
    index, table, rights = start
    read, inverted = memory.read, paging.inverted
    for step in paging.steps[index:]:
        size = step.entry_size
        where = table + (address >> step.shift & step.index_mask) * size
        entry = read(where, size)

        if not entry & step.present:
            raise paging.fault(Cause.NOT_PRESENT, access, address, 0, entry)
        is_page = entry & step.page_if
        shape = step.page if is_page else step.table
        if entry & shape.reserved or (shape.illegal and shape.illegal >> (entry & 63) & 1):
            raise paging.fault(Cause.MALFORMED, access, address, rights, entry)
        rights &= (entry | step.ungoverned) ^ inverted
        if is_page:
            break

        missing = step.accessed & ~entry
        if missing and not memory.compare_exchange(where, entry, entry | missing, size):
            return walk(memory, paging, access, address, tables)
        table = entry & shape.address
        if tables is not None:
            index += 1
            tables.keep(step.shift, address, (index, table, rights))

    if not paging.permits(access, rights, entry):
        raise paging.fault(Cause.DENIED, access, address, rights, entry)
    missing = (step.accessed | step.dirty if access.writes else step.accessed) & ~entry
    if missing and not memory.compare_exchange(where, entry, entry | missing, size):
        return walk(memory, paging, access, address, tables)

    offset = (1 << step.shift) - 1
    page = entry & shape.address | (entry & shape.high) << PSE36_SHIFT
    return Translation(page | address & offset, step.level, step.shift, rights, entry | missing)

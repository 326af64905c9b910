"""The walk of a guest's own tables that KVM does in software (paging_tmpl.h: walk_addr_generic).

One walk for linear addresses, for nested page tables and for the EPT of a guest hypervisor, as in the kernel,
which compiles its template for each.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from mmu_model.hardware.ept import EPT_EXECUTE, EPT_READ, ExtendedPaging
from mmu_model.hardware.paging import ALL_RIGHTS, PSE36_SHIFT, Cause, Paging, Shape, Step
from mmu_model.hardware.types import PAGE_SHIFT, Gfn
from mmu_model.hardware.walk import A, Words
from mmu_model.kvm.role import ACC_ALL, ACC_EXEC_MASK, ACC_USER_MASK, ACC_WRITE_MASK

NOWHERE: Final = Gfn(0)


class GuestWords(Words, Protocol):
    """The memory that a guest's tables are in, as KVM reaches it; LookupError where there is none."""

    def is_writable(self, gfn: int) -> bool:
        """Whether accessed and dirty flags may be set in that frame."""


@dataclass(slots=True)
class GuestWalker:
    """What a walk found; lists of levels are dicts by level.

    Attributes
    ----------
    level, max_level :
        The level of the entry that maps the page, and of the first one that was read.
    table_gfn, pte_gpa, ptes :
        The table, the place and the value of the entry of each level.
    pt_access :
        ACC_* bits that the levels above grant together, entry of that level not included.
    pte_access :
        ACC_* bits that all levels grant.
    gfn :
        The frame, for a large page the one within it that holds the address.

    """

    max_level: int
    level: int = 0
    table_gfn: dict[int, Gfn] = field(default_factory=dict)
    pte_gpa: dict[int, int] = field(default_factory=dict)
    ptes: dict[int, int] = field(default_factory=dict)
    pt_access: dict[int, int] = field(default_factory=dict)
    pte_access: int = 0
    gfn: Gfn = NOWHERE


def walk_addr(memory: GuestWords, paging: Paging[A], access: A, address: int) -> GuestWalker:
    """Translate an address of a guest by its tables, and set accessed and dirty flags on the way out.

    Other than the processor, KVM sets the flags only when the whole translation permits the access.

    Raises
    ------
    Fault
        What the guest, or its hypervisor, is to get. An entry that lies where there is no memory is as good
        as absent; the rights that it reports are those of the levels above.

    """
    while True:
        walker = _walk_once(memory, paging, access, address)
        if _update_accessed_dirty_bits(memory, paging, walker, access):
            return walker


def _walk_once(memory: GuestWords, paging: Paging[A], access: A, address: int) -> GuestWalker:
    # KVM does not look at the bits above those that select entries, nor does it have to: the processor did for
    # linear addresses, and nested guest-physical ones need not be canonical.
    table = paging.roots[(address >> paging.root_shift) % len(paging.roots)]
    if table is None:
        raise paging.fault(Cause.NOT_PRESENT, access, address, 0, 0)
    walker = GuestWalker(max_level=paging.steps[0].level)
    rights = ALL_RIGHTS
    for step in paging.steps:
        where = table + (address >> step.shift & step.index_mask) * step.entry_size
        try:
            entry = memory.read(where, step.entry_size)
        except LookupError:
            raise paging.fault(Cause.NOT_PRESENT, access, address, rights, 0) from None
        walker.level = level = step.level
        walker.table_gfn[level] = Gfn(table >> PAGE_SHIFT)
        walker.pte_gpa[level] = where
        if not entry & step.present:
            raise paging.fault(Cause.NOT_PRESENT, access, address, 0, entry)
        is_page = entry & step.page_if
        shape = step.page if is_page else step.table
        above = rights
        rights &= (entry | step.ungoverned) ^ paging.inverted
        if is_malformed(shape, entry):
            raise paging.fault(Cause.MALFORMED, access, address, rights, entry)
        walker.ptes[level] = entry
        walker.pt_access[level] = acc_bits(paging, above)
        if is_page:
            break
        table = entry & shape.address
    if not paging.permits(access, rights, entry):
        raise paging.fault(Cause.DENIED, access, address, rights, entry)
    walker.pte_access = acc_bits(paging, rights)
    page = entry & shape.address | (entry & shape.high) << PSE36_SHIFT
    walker.gfn = Gfn((page | address & (1 << step.shift) - 1) >> PAGE_SHIFT)
    if not access.writes:
        walker.pte_access &= clean_gpte_access(step, entry)
    return walker


def _update_accessed_dirty_bits(
    memory: GuestWords, paging: Paging[A], walker: GuestWalker, access: A
) -> bool:
    """Set the flags from the root down; False if an entry changed meanwhile.

    In memory that cannot be written they stay as they are.
    """
    for step in paging.steps:
        if step.level < walker.level:
            break
        entry = walker.ptes[step.level]
        wanted = entry | _flags(step, walker, access)
        if wanted == entry or not memory.is_writable(walker.pte_gpa[step.level] >> PAGE_SHIFT):
            continue
        if not memory.compare_exchange(walker.pte_gpa[step.level], entry, wanted, step.entry_size):
            return False
        walker.ptes[step.level] = wanted
    return True


def _flags(step: Step, walker: GuestWalker, access: A) -> int:
    return step.accessed | (step.dirty if access.writes and step.level == walker.level else 0)


def is_malformed(shape: Shape, gpte: int) -> bool:
    """Whether a present gpte has bits set that must be 0, or a combination that is none (is_rsvd_bits_set)."""
    return bool(gpte & shape.reserved or shape.illegal >> (gpte & 63) & 1)


def acc_bits(paging: Paging[Any], rights: int) -> int:
    """ACC_* bits of rights gathered in a walk.

    W and U where they are, execution from bit 63. EPT has no user pages: there ACC_USER_MASK says that the
    page can be read.
    """
    if type(paging) is not ExtendedPaging:  # isinstance() is slow with an abstract class
        return rights & (ACC_WRITE_MASK | ACC_USER_MASK) | rights >> 63 & ACC_EXEC_MASK
    readable = ACC_USER_MASK if rights & EPT_READ else 0
    return readable | rights & ACC_WRITE_MASK | (ACC_EXEC_MASK if rights & EPT_EXECUTE else 0)


def gpte_access(paging: Paging[Any], gpte: int) -> int:
    """ACC_* bits that a single gpte grants (paging_tmpl.h)."""
    return acc_bits(paging, gpte ^ paging.inverted)


def clean_gpte_access(step: Step, gpte: int) -> int:
    """ACC_* bits that may be given in advance: a clean gpte must see its first write (protect_clean_gpte).

    EPT without accessed and dirty flags has no clean gptes.
    """
    return ACC_ALL if not step.dirty or gpte & step.dirty else ACC_ALL & ~ACC_WRITE_MASK

"""The ways in which memory can be accessed, as the permission checks tell them apart."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from mmu_model.hardware.faults import ERROR_ID, ERROR_US, ERROR_WR


class Kind(Enum):
    """What is done with the memory."""

    READ = "read"
    WRITE = "write"
    FETCH = "fetch"

    __hash__ = object.__hash__  # that of Enum is in Python, and tables are by kind


@dataclass(frozen=True, slots=True)
class Access:
    """One kind of access in one mode; take those in :data:`ACCESSES`, by :func:`access`.

    Attributes
    ----------
    kind :
        Read, write or instruction fetch.
    user :
        A user-mode access: made at CPL 3, and not implicit (SDM vol. 3, 4.6).
    implicit :
        A supervisor-mode access that the processor makes on its own account whatever the CPL, to a descriptor
        table or a task-state segment. EFLAGS.AC does not exempt it from SMAP.
    writes, fetches :
        Whether `kind` is that.
    error_code :
        The bits W/R, U/S and I/D of a page fault by this access, I/D as if it were always reported.
    index :
        The place in :data:`ACCESSES`, for tables.

    """

    kind: Kind
    user: bool
    implicit: bool
    writes: bool
    fetches: bool
    error_code: int
    index: int


def _accesses() -> tuple[Access, ...]:
    modes = [(kind, user, False) for user in (False, True) for kind in Kind]
    modes += [(kind, False, True) for kind in (Kind.READ, Kind.WRITE)]
    return tuple(
        Access(
            kind=kind,
            user=user,
            implicit=implicit,
            writes=kind is Kind.WRITE,
            fetches=kind is Kind.FETCH,
            error_code=ERROR_WR * (kind is Kind.WRITE) | ERROR_US * user | ERROR_ID * (kind is Kind.FETCH),
            index=index,
        )
        for index, (kind, user, implicit) in enumerate(modes)
    )


ACCESSES: Final = _accesses()
"""All eight: three kinds by two modes, and the implicit reads and writes."""

_BY_MODE: Final = {(a.kind, a.user, a.implicit): a for a in ACCESSES}


def access(kind: Kind, *, user: bool = False, implicit: bool = False) -> Access:
    """The access of that kind and mode.

    Raises
    ------
    ValueError
        An implicit access is neither a fetch nor in user mode.

    """
    try:
        return _BY_MODE[kind, user, implicit]
    except KeyError:
        raise ValueError("an implicit access is a supervisor-mode read or write") from None

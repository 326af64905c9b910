"""What a scenario says: the VM, the guest's page tables, the steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from ..snapshot import MmuKind

KERNELS = ("6.1", "6.12")


class ScenarioError(ValueError):
    """``FILE:LINE: error: what is wrong and what to do``."""

    def __init__(self, where: str, line: int, what: str) -> None:
        super().__init__(f"{where}:{line}: error: {what}")


class Mode(Enum):
    """The guest's paging mode (SDM Vol. 3, 4.1.1); without paging, with and without protection."""

    REAL = "real"
    PROTECTED = "protected"
    PAGING_32 = "32-bit"
    PAE = "pae"
    LEVEL_4 = "4-level"
    LEVEL_5 = "5-level"

    @property
    def paging(self) -> bool:
        """CR0.PG."""
        return self not in (Mode.REAL, Mode.PROTECTED)

    @property
    def long(self) -> bool:
        """EFER.LMA."""
        return self in (Mode.LEVEL_4, Mode.LEVEL_5)


@dataclass(frozen=True, slots=True)
class Host:
    """How the host under KVM has to be: five-level paging, the module's nx_huge_pages."""

    five_level: bool = False
    nx_huge_pages: bool = False


@dataclass(frozen=True, slots=True)
class Cpu:
    """The guest's control bits at the start, and the MAXPHYADDR that its CPUID tells (None: the host's)."""

    nx: bool = True
    wp: bool = True
    smep: bool = False
    smap: bool = False
    maxphyaddr: int | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """A memslot. ``large`` asks for 2 MiB host pages behind it; ``smm`` puts it into that address space as
    well; ``shares`` names the slot whose memory it shows once more.
    """

    line: int
    id: int
    base: int
    size: int
    large: bool = False
    dirty_log: bool = False
    readonly: bool = False
    smm: bool = False
    shares: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """An entry of a guest page table: the one at ``level`` on the way to ``at``."""

    tables: str
    at: int
    level: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """``count`` pages of ``size`` bytes from ``at`` on to guest-physical ``to``, one after the other; with
    ``every``, the same page at ``count`` addresses that many bytes apart. ``through`` gives the flags of the
    entries above, by level. Or, with ``share``, the entry at a level points where another one does.
    """

    line: int
    at: int
    to: int = 0
    count: int = 1
    every: int | None = None
    size: int = 0x1000
    flags: frozenset[str] = frozenset()
    through: tuple[tuple[int, frozenset[str]], ...] = ()
    share: Place | None = None


@dataclass(frozen=True, slots=True)
class Tables:
    """An address space, or with ``npt`` a nested page table for the nested guest."""

    line: int
    name: str
    npt: bool
    mappings: tuple[Mapping, ...]


@dataclass(frozen=True, slots=True)
class Nested:
    """The nested guest: its address space, and its nested page table (None: no nested paging)."""

    line: int
    cr3: str
    npt: str | None


@dataclass(frozen=True, slots=True)
class Access:
    """Read, write or fetch at an address, or at ``count`` of them ``every`` so many bytes; ``fault`` says
    that it must fault.
    """

    line: int
    kind: str
    at: int
    user: bool = False
    fault: bool = False
    value: int = 0x5EED
    size: int | None = None
    count: int = 1
    every: int = 0x1000


@dataclass(frozen=True, slots=True)
class SetEntry:
    """The guest writes an entry of its page tables: to map ``to``, to point at the ``table`` another entry
    points to, or (both None) to clear it. ``quietly``: userspace writes it, behind the processor's back.
    """

    line: int
    place: Place
    to: int | None
    table: Place | None
    flags: frozenset[str]
    quietly: bool = False


@dataclass(frozen=True, slots=True)
class LoadCr3:
    """MOV to CR3."""

    line: int
    tables: str


@dataclass(frozen=True, slots=True)
class Invlpg:
    """INVLPG."""

    line: int
    at: int


@dataclass(frozen=True, slots=True)
class SetBit:
    """Sets or clears a bit of cr0, cr4 or efer."""

    line: int
    bit: str
    value: bool


@dataclass(frozen=True, slots=True)
class InSmm:
    """Enters SMM, runs the steps there, leaves."""

    line: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class InNested:
    """Enters the nested guest, runs the steps there, leaves by VMMCALL."""

    line: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class SetSlot:
    """Adds a memslot, or changes one of the same id: place, flags; size 0 deletes it."""

    line: int
    slot: Slot


@dataclass(frozen=True, slots=True)
class DirtyLog:
    """KVM_GET_DIRTY_LOG, or with ``clear`` KVM_CLEAR_DIRTY_LOG on ``count`` pages from ``page`` on."""

    line: int
    slot: int
    clear: bool = False
    page: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class HostPages:
    """Something happens to host pages behind a slot: ``drop`` (MADV_DONTNEED), ``readonly`` or ``writable``
    (mprotect).
    """

    line: int
    what: str
    slot: int
    page: int
    count: int


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """A named point at which a snapshot is taken."""

    line: int
    name: str


Step: TypeAlias = (
    Access
    | SetEntry
    | LoadCr3
    | Invlpg
    | SetBit
    | InSmm
    | InNested
    | SetSlot
    | DirtyLog
    | HostPages
    | TakeSnapshot
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario. ``name`` is its file's; ``title`` says in a sentence what it shows."""

    where: str
    name: str
    title: str
    mode: Mode
    kinds: tuple[MmuKind, ...]
    kernels: tuple[str, ...] = KERNELS
    host: Host = field(default_factory=Host)
    cpu: Cpu = field(default_factory=Cpu)
    slots: tuple[Slot, ...] = ()
    manual_dirty_log: bool = False
    tables: tuple[Tables, ...] = ()
    nested: Nested | None = None
    steps: tuple[Step, ...] = ()

    def walk(self) -> tuple[Step, ...]:
        """All steps in order, those within ``smm`` and ``nested`` included."""
        return _flat(self.steps)

    @property
    def uses_smm(self) -> bool:
        """Some step runs in SMM."""
        return any(isinstance(step, InSmm) for step in self.walk())


def _flat(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    found: list[Step] = []
    for step in steps:
        found.append(step)
        if isinstance(step, InSmm | InNested):
            found += _flat(step.steps)
    return tuple(found)

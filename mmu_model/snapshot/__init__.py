"""What an MMU has built at one moment, as plain data: the same from the model and from a real kernel.

``state`` holds the types, ``spte`` and ``role`` the meaning of their words, ``canonical`` the form in which
equal states are equal bytes, ``difference`` says how two differ, ``recording`` reads and writes files.
"""

from .canonical import canonical
from .difference import differences
from .recording import SCHEMA, Recording, RecordingError, StepResult, read_recording, write_recording
from .role import Role
from .spte import Kind, Spte, SpteFormat
from .state import (
    Address,
    Entry,
    Gfn,
    LoadedRoot,
    Memslot,
    Mmio,
    MmuContext,
    MmuKind,
    PageId,
    Pfn,
    ReverseMap,
    ShadowPage,
    Snapshot,
    SpteAt,
    Vcpu,
    Word,
)

__all__ = [
    "SCHEMA",
    "Address",
    "Entry",
    "Gfn",
    "Kind",
    "LoadedRoot",
    "Memslot",
    "Mmio",
    "MmuContext",
    "MmuKind",
    "PageId",
    "Pfn",
    "Recording",
    "RecordingError",
    "ReverseMap",
    "Role",
    "ShadowPage",
    "Snapshot",
    "Spte",
    "SpteAt",
    "SpteFormat",
    "StepResult",
    "Vcpu",
    "Word",
    "canonical",
    "differences",
    "read_recording",
    "write_recording",
]

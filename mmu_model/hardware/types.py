"""The kinds of address and frame number, and the size of a page.

A linear address is what a program uses. Without a hypervisor it translates to a host-physical address. Under
NPT or EPT it translates to a guest-physical address, and that to a host-physical (system-physical) one.
"""

from typing import Final, NewType

Va = NewType("Va", int)
"""A linear ("virtual") address, unsigned: 32 bits wide, or 64 bits in canonical form."""

Gpa = NewType("Gpa", int)
"""A guest-physical address: what the paging structures of a guest hold."""

Hpa = NewType("Hpa", int)
"""A host-physical address: what indexes :class:`~mmu_model.hardware.memory.PhysicalMemory`."""

Gfn = NewType("Gfn", int)
"""A guest frame number: a Gpa without its low 12 bits."""

Pfn = NewType("Pfn", int)
"""A host frame number: an Hpa without its low 12 bits."""

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
WORDS_PER_FRAME: Final = PAGE_SIZE // 8

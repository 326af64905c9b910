"""What a translation can end in instead of an address.

Each is an exception that carries what the processor would report, and nothing else.
"""

from typing import Final

# Page-fault error code (SDM vol. 3, 4.7; APM vol. 2, 8.4.2). EXITINFO1 of a nested fault begins with the
# same bits.
ERROR_P: Final = 1 << 0
ERROR_WR: Final = 1 << 1
ERROR_US: Final = 1 << 2
ERROR_RSVD: Final = 1 << 3
ERROR_ID: Final = 1 << 4
ERROR_PK: Final = 1 << 5


class Fault(Exception):  # the manuals' names end in "fault", "violation" and the like
    """The access did not happen."""


class GeneralProtection(Fault):
    """#GP: a register value, a PDPTE or an address that the processor does not take."""


class PageFault(Fault):
    """#PF."""

    def __init__(self, error_code: int, cr2: int) -> None:
        self.error_code = error_code
        self.cr2 = cr2

    def __str__(self) -> str:
        return f"page fault at {self.cr2:#x}, error code {self.error_code:#x}"


class NestedPageFault(Fault):
    """#VMEXIT(NPF) (APM vol. 2, 15.25.6)."""

    def __init__(self, exit_info_1: int, exit_info_2: int) -> None:
        self.exit_info_1 = exit_info_1
        self.exit_info_2 = exit_info_2

    @property
    def gpa(self) -> int:
        """The guest-physical address that did not translate: EXITINFO2."""
        return self.exit_info_2

    def __str__(self) -> str:
        return f"nested page fault at {self.exit_info_2:#x}, EXITINFO1 {self.exit_info_1:#x}"


class EptViolation(Fault):
    """VM exit 48 (SDM vol. 3, 28.2.1, table 28-7)."""

    def __init__(self, exit_qualification: int, gpa: int) -> None:
        self.exit_qualification = exit_qualification
        self.gpa = gpa

    @property
    def permitted(self) -> int:
        """Bits R, W, X of what all entries together permit; 0 where one is not present."""
        return self.exit_qualification >> 3 & 7

    def __str__(self) -> str:
        return f"EPT violation at {self.gpa:#x}, exit qualification {self.exit_qualification:#x}"


class EptMisconfiguration(Fault):
    """VM exit 49; there is no exit qualification."""

    def __init__(self, gpa: int) -> None:
        self.gpa = gpa

    def __str__(self) -> str:
        return f"EPT misconfiguration at {self.gpa:#x}"

"""The formats of paging-structure entries, as the tables of the manuals.

One line describes one format, from bit 63 (or 31) down: `high:low NAME`, parted by `|`. M is MAXPHYADDR.
Every bit of an entry stands in exactly one field. Sources: SDM vol. 3, tables 4-4 to 4-6 (32-bit paging),
4-8 to 4-11 (PAE), 4-14 to 4-20 (4- and 5-level), 29-1 to 29-7 (EPT). NPT uses the formats of the host's own
paging mode (APM vol. 2, 15.25.4).

    address    where the next table or the page begins
    high       32-bit paging, PSE-36: bits 32 and up of the address of a 4-MByte page
    reserved   must be 0 in a present entry
    XD         execute-disable; reserved while EFER.NXE is 0
    key        the protection key
    type       EPT memory type
    -          ignored by the walk
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

from mmu_model.hardware.registers import Mode

_LOW_TABLE = "11:8 - | 7 PS | 6 - | 5 A | 4 PCD | 3 PWT | 2 U/S | 1 R/W | 0 P"
_LOW_PAGE = "11:9 - | 8 G | 7 PS | 6 D | 5 A | 4 PCD | 3 PWT | 2 U/S | 1 R/W | 0 P"
_LOW_PTE = "11:9 - | 8 G | 7 PAT | 6 D | 5 A | 4 PCD | 3 PWT | 2 U/S | 1 R/W | 0 P"
_LOW_TOP = "11:8 - | 7 reserved | 6 - | 5 A | 4 PCD | 3 PWT | 2 U/S | 1 R/W | 0 P"

_LOW_PAE_PDPTE = "11:9 - | 8:5 reserved | 4 PCD | 3 PWT | 2:1 reserved | 0 P"

_LONG_TABLE = "63 XD | 62:52 - | 51:M reserved | M-1:12 address"
_LONG_PAGE = "63 XD | 62:59 key | 58:52 - | 51:M reserved"
_PAE = "63 XD | 62:M reserved"

_EPT = "63:52 - | 51:M reserved"
_EPT_LOW_TABLE = "11:9 - | 8 A | 7 PS | 6:3 reserved | 2 X | 1 W | 0 R"
_EPT_LOW_PAGE = "11:10 - | 9 D | 8 A | 7 PS | 6 - | 5:3 type | 2 X | 1 W | 0 R"

FORMATS: Final = {
    "32-bit PDE, table": f"31:12 address | {_LOW_TABLE}",
    "32-bit PDE, 4-MByte page": f"31:22 address | 21:M-19 reserved | M-20:13 high | 12 PAT | {_LOW_PAGE}",
    "32-bit PTE": f"31:12 address | {_LOW_PTE}",
    "PAE PDPTE": f"63:M reserved | M-1:12 address | {_LOW_PAE_PDPTE}",
    "PAE PDE, table": f"{_PAE} | M-1:12 address | {_LOW_TABLE}",
    "PAE PDE, 2-MByte page": f"{_PAE} | M-1:21 address | 20:13 reserved | 12 PAT | {_LOW_PAGE}",
    "PAE PTE": f"{_PAE} | M-1:12 address | {_LOW_PTE}",
    "PML5E": f"{_LONG_TABLE} | {_LOW_TOP}",
    "PML4E": f"{_LONG_TABLE} | {_LOW_TOP}",
    "PDPTE, table": f"{_LONG_TABLE} | {_LOW_TABLE}",
    "PDPTE, 1-GByte page": f"{_LONG_PAGE} | M-1:30 address | 29:13 reserved | 12 PAT | {_LOW_PAGE}",
    "PDE, table": f"{_LONG_TABLE} | {_LOW_TABLE}",
    "PDE, 2-MByte page": f"{_LONG_PAGE} | M-1:21 address | 20:13 reserved | 12 PAT | {_LOW_PAGE}",
    "PTE": f"{_LONG_PAGE} | M-1:12 address | {_LOW_PTE}",
    "EPT PML5E": f"{_EPT} | M-1:12 address | 11:9 - | 8 A | 7:3 reserved | 2 X | 1 W | 0 R",
    "EPT PML4E": f"{_EPT} | M-1:12 address | 11:9 - | 8 A | 7:3 reserved | 2 X | 1 W | 0 R",
    "EPT PDPTE, table": f"{_EPT} | M-1:12 address | {_EPT_LOW_TABLE}",
    "EPT PDPTE, 1-GByte page": f"{_EPT} | M-1:30 address | 29:12 reserved | {_EPT_LOW_PAGE}",
    "EPT PDE, table": f"{_EPT} | M-1:12 address | {_EPT_LOW_TABLE}",
    "EPT PDE, 2-MByte page": f"{_EPT} | M-1:21 address | 20:12 reserved | {_EPT_LOW_PAGE}",
    "EPT PTE": f"{_EPT} | M-1:12 address | 11:10 - | 9 D | 8 A | 7:6 - | 5:3 type | 2 X | 1 W | 0 R",
}
"""Every format by name."""


class Level(NamedTuple):
    """A level as the figures of SDM vol. 3, chapter 4, draw it: index bits of the address, and entry
    formats."""

    number: int
    high: int
    low: int
    table: str | None
    page: str | None


_LONG_LEVELS: Final = (
    Level(5, 56, 48, "PML5E", None),
    Level(4, 47, 39, "PML4E", None),
    Level(3, 38, 30, "PDPTE, table", "PDPTE, 1-GByte page"),
    Level(2, 29, 21, "PDE, table", "PDE, 2-MByte page"),
    Level(1, 20, 12, None, "PTE"),
)

_PAE_LEVELS: Final = (
    Level(3, 31, 30, "PAE PDPTE", None),
    Level(2, 29, 21, "PAE PDE, table", "PAE PDE, 2-MByte page"),
    Level(1, 20, 12, None, "PAE PTE"),
)

LEVELS: Final[dict[Mode, tuple[Level, ...]]] = {
    Mode.OFF: (),
    Mode.THIRTY_TWO_BIT: (
        Level(2, 31, 22, "32-bit PDE, table", "32-bit PDE, 4-MByte page"),
        Level(1, 21, 12, None, "32-bit PTE"),
    ),
    Mode.PAE: _PAE_LEVELS,
    Mode.FOUR_LEVEL: _LONG_LEVELS[1:],
    Mode.FIVE_LEVEL: _LONG_LEVELS,
}
"""The levels of each mode, from the root down."""

EPT_LEVELS: Final = (
    Level(5, 56, 48, "EPT PML5E", None),
    Level(4, 47, 39, "EPT PML4E", None),
    Level(3, 38, 30, "EPT PDPTE, table", "EPT PDPTE, 1-GByte page"),
    Level(2, 29, 21, "EPT PDE, table", "EPT PDE, 2-MByte page"),
    Level(1, 20, 12, None, "EPT PTE"),
)
"""The levels of EPT; with a walk length of 4 the first is left out."""


@dataclass(frozen=True)
class Field:
    """Bits `high` down to `low` of an entry."""

    name: str
    high: int
    low: int

    @property
    def mask(self) -> int:
        """The bits of the field, in their places."""
        return (1 << self.high + 1) - (1 << self.low)


def fields(name: str, maxphyaddr: int) -> list[Field]:
    """The fields of a format on a processor with that many physical-address bits, highest first.

    Fields that shrink to nothing are left out. With 32-bit paging physical addresses have 40 bits at the
    most.
    """
    m = min(maxphyaddr, 40) if name.startswith("32-bit") else maxphyaddr
    found = []
    for part in FORMATS[name].split("|"):
        bits, label = part.split()
        ends = [_bit(end, m) for end in bits.split(":")]
        field = Field(label, ends[0], ends[-1])
        if field.high >= field.low:
            found.append(field)
    return found


@cache
def mask(name: str, label: str, maxphyaddr: int) -> int:
    """All bits of a format that carry that label."""
    return sum(field.mask for field in fields(name, maxphyaddr) if field.name == label)


def _bit(text: str, m: int) -> int:
    """A bit number: `12`, `M` or `M-19`."""
    base, _, minus = text.partition("-")
    return (m if base == "M" else int(base)) - int(minus or 0)

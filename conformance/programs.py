"""Random programs: a guest that uses memory in every way and edits its own page tables as it goes."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from conformance.computers import MAXPHYADDR, Computer
from conformance.scenes import MIB, PAGE, TABLES, paging_registers
from mmu_model.hardware import CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE, Kind, Mode
from mmu_model.hardware.tables import PageTables, frames_from

PAGES: Final = 4
SMALL: Final = 0x4000_0000
"""Linear address of pages of 4 KiB, which the program maps as it likes."""
LARGE: Final = 0x8000_0000
"""Linear address of a large page."""
WINDOW: Final = 0xA000_0000
"""Linear address at which the kernel of the guest sees its tables."""
DATA: Final = MIB
"""Physical address of as many frames of data."""
LARGE_DATA: Final = 16 * MIB

PLACES: Final = (0, 8)
"""Where in a page the program has data."""

_P, _W, _U, _A, _D, _NX, _RESERVED = 1, 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 63, 1 << 51
_CONTROLS: Final = (("cr0", CR0_WP), ("cr4", CR4_SMEP), ("cr4", CR4_SMAP))


@dataclass(frozen=True)
class Trace:
    """What a program saw: the outcome of each step, the entries that it edited, and its data, in the end."""

    steps: list[str]
    entries: list[int]
    data: list[int]


class Program:
    """A program that does the same on every computer.

    Parameters
    ----------
    mode, seed, length :
        The paging that it uses; what it does; how many steps.

    """

    def __init__(self, mode: Mode, seed: int, length: int) -> None:
        self._mode = mode
        self._seed = f"{mode.value}:{seed}"
        self._length = length
        self._entry_size = 4 if mode is Mode.THIRTY_TWO_BIT else 8

    def run(self, computer: Computer) -> Trace:
        """Run it to the end; the traces of two computers that nobody can tell apart are equal."""
        self._rng = random.Random(self._seed)
        self._computer = computer
        self._set_up()
        steps = list(self._steps())
        memory, pages = computer.memory, range(0, PAGES * PAGE, PAGE)
        return Trace(
            steps,
            [memory.read(entry, self._entry_size) for entry in self._entries],
            [
                memory.read(start + page + at)
                for start in (DATA, LARGE_DATA)
                for page in pages
                for at in PLACES
            ],
        )

    def _set_up(self) -> None:
        tables = PageTables(self._computer.memory, self._mode, frames_from(TABLES))
        self._entries = [tables.entry_address(SMALL + n * PAGE, 1) for n in range(PAGES)]
        self._entries.append(tables.entry_address(LARGE, 2))
        for n in range(16):
            tables.map(WINDOW + n * PAGE, TABLES + n * PAGE, flags=_P | _W)
        self._registers = paging_registers(self._mode, tables.root, MAXPHYADDR)
        if self._rng.random() < 0.2:
            self._registers = replace(self._registers, efer=self._registers.efer & ~EFER_NXE)
        self._computer.start(self._registers)

    def _steps(self) -> Iterator[str]:
        for n in range(self._length):
            (step,) = self._rng.choices((self._access, self._edit, self._control), (10, 4, 1))
            yield f"{n}: {step()}"

    def _access(self) -> str:
        kind = self._rng.choice(list(Kind))
        user = self._rng.random() < 0.5
        address = self._rng.choice((SMALL, SMALL, LARGE)) + self._rng.randrange(PAGES) * PAGE
        address += self._rng.choice(PLACES)
        outcome = self._computer.access(kind, address, user=user, value=self._rng.getrandbits(32))
        return f"{'user' if user else 'kernel'} {kind.value} {address:#x}: {outcome}"

    def _edit(self) -> str:
        """Change an entry, and flush."""
        which = self._rng.choice((PAGES, self._rng.randrange(PAGES), self._rng.randrange(PAGES)))
        entry = self._entry(is_large=which == PAGES)
        address = WINDOW + self._entries[which] - TABLES
        outcome = self._computer.access(Kind.WRITE, address, value=entry, size=self._entry_size)
        self._computer.start(self._registers)
        return f"entry {which} is {entry:#x}: {outcome}"

    def _entry(self, *, is_large: bool) -> int:
        rng = self._rng
        entry = LARGE_DATA | 1 << 7 if is_large else DATA + rng.randrange(PAGES) * PAGE
        for flag, chance in (_P, 0.9), (_W, 0.6), (_U, 0.7), (_A, 0.3), (_D, 0.3):
            entry |= flag * (rng.random() < chance)
        if self._entry_size == 8:
            entry |= _NX * (rng.random() < 0.3) | _RESERVED * (rng.random() < 0.05)
        return entry

    def _control(self) -> str:
        """Turn a bit of the control registers on or off."""
        name, bit = self._rng.choice(_CONTROLS)
        value = getattr(self._registers, name) ^ bit
        self._registers = replace(self._registers, **{name: value})
        self._computer.start(self._registers)
        return f"{name} = {value:#x}"

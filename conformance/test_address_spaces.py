"""A guest with several address spaces that edits its tables and then flushes no more than an operating system has to:
what it finds afterwards is what its tables say."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from conformance.live import PREDICATES
from conformance.scenes import MIB, PAGE, PAGING, TABLES, Scene, guest, page_tables, paging_registers
from mmu_model.hardware import CR4_PCIDE, CR4_PGE, GeneralProtection, Mode, PageFault
from mmu_model.hardware.control import CR3_NO_FLUSH
from mmu_model.hardware.tables import PageTables
from mmu_model.machine import Cpu, TripleFault
from mmu_model.snapshot import MmuKind

SPACES = 5
"""More than KVM remembers roots of."""
WINDOW = 0x4000_0000
"""Where every space has all tables."""
OWN = (0x8000_0000, 0x8000_1000, 0x8000_2000)
"""Addresses whose table is of the space's own."""
COMMON = (0x8040_0000, 0x8040_3000)
"""Addresses whose last table all spaces share."""
DEVICE = 1 << 30
"""Where there is no memory, but the process, which keeps what is written there."""
FRAMES = (*(8 * MIB + n * PAGE for n in range(4)), DEVICE)
TABLE_FRAMES = 64
P, W, U, A, D = 1, 2, 4, 1 << 5, 1 << 6


@dataclass
class Space:
    """One address space.

    Attributes
    ----------
    tables, pcid :
        Its tables, and the identifier that it has while PCIDs are in use.
    says :
        What its tables say of an address of its own: frame and whether it is writable, or nothing.
    settled :
        Whether nothing was changed since a processor last flushed it.

    """

    tables: PageTables
    pcid: int
    says: dict[int, tuple[int, bool] | None] = field(default_factory=dict)
    settled: bool = False


class Guest:
    """The guest, and what it must find."""

    def __init__(self, kernel: str, mmu: MmuKind, paging: str, seed: str) -> None:
        self._mode = PAGING[paging]
        self._size = 4 if self._mode is Mode.THIRTY_TWO_BIT else 8
        self._rng = random.Random(seed)
        self.scene: Scene = guest(kernel, mmu)
        self._contents = dict.fromkeys(FRAMES, 0)
        self._common: dict[int, tuple[int, bool] | None] = {}
        self._spaces: list[Space] = []
        for number in range(SPACES):
            self._spaces.append(self._space(number))
        self._current = self._spaces[0]
        self._pcids = self._mode.is_long and self._rng.random() < 0.5
        cr4 = CR4_PGE | CR4_PCIDE * self._pcids
        self._registers = paging_registers(self._mode, self._current.tables.root, cr4=cr4)
        self._cpu: Cpu = self.scene.cpu
        self._cpu.set_registers(self._registers)

    def _space(self, number: int) -> Space:
        tables = page_tables(self.scene.vm, self._mode, TABLES + number * 12 * PAGE, [])
        space = Space(tables, number)
        for address in OWN:
            tables.map(address, FRAMES[0], flags=P | W | U | A | D)
            space.says[address] = FRAMES[0], True
        for n in range(TABLE_FRAMES):
            tables.map(WINDOW + n * PAGE, TABLES + n * PAGE, flags=P | W | A | D)
        if number == 0:
            for address in COMMON:
                tables.map(address, FRAMES[1], flags=P | W | U | A | D)
                self._common[address] = FRAMES[1], True
        else:
            memory, common = self.scene.vm.memory, self._spaces[0].tables.entry_address(COMMON[0], 2)
            entry = memory.read(common, self._size) | A
            memory.write(tables.entry_address(COMMON[0], 2), entry, self._size)
        return space

    def go_on(self, steps: int) -> Iterator[str]:
        """One step after the other; what it was."""
        acts = {
            self._read: 10,
            self._write: 6,
            self._edit: 6,
            self._edit_another: 3,
            self._edit_common: 3,
            self._swap_tables: 2,
            self._switch: 5,
            self._flush_all: 1,
        }
        for number in range(steps):
            (act,) = self._rng.choices(list(acts), list(acts.values()))
            act()
            yield f"{number}: {act.__name__}"

    def _any_address(self) -> tuple[int, tuple[int, bool] | None]:
        address = self._rng.choice((*OWN, *COMMON))
        says = self._common if address in COMMON else self._current.says
        return address, says[address]

    def _read(self) -> None:
        address, says = self._any_address()
        if says is None:
            with pytest.raises(PageFault):
                self._cpu.read(address)
        else:
            assert self._cpu.read(address) == self._contents[says[0]], f"{address:#x}"

    def _write(self) -> None:
        address, says = self._any_address()
        value = self._rng.getrandbits(64)
        if says is None or not says[1]:
            with pytest.raises(PageFault):
                self._cpu.write(address, value)
        else:
            self._cpu.write(address, value)
            self._contents[says[0]] = value

    def _store(self, where: int, entry: int) -> None:
        """By its window, as any memory."""
        self._cpu.write(WINDOW + where - TABLES, entry, self._size)

    def _change(self, space: Space, address: int) -> tuple[int, bool] | None:
        says = (self._rng.choice(FRAMES), self._rng.random() < 0.6) if self._rng.random() < 0.85 else None
        entry = says[0] | P | U | A | D | W * says[1] if says else 0
        self._store(space.tables.entry_address(address, 1), entry)
        return says

    def _edit(self) -> None:
        """One entry of the space that runs, and INVLPG."""
        address = self._rng.choice(OWN)
        self._current.says[address] = self._change(self._current, address)
        self._cpu.invlpg(address)

    def _edit_another(self) -> None:
        """An entry of a space that does not run; it will be flushed when it does."""
        space = self._rng.choice(self._spaces)
        if space is not self._current:
            address = self._rng.choice(OWN)
            space.says[address] = self._change(space, address)
            space.settled = False

    def _edit_common(self) -> None:
        address = self._rng.choice(COMMON)
        self._common[address] = self._change(self._spaces[0], address)
        self._cpu.invlpg(address)
        for space in self._spaces:
            space.settled = False

    def _swap_tables(self) -> None:
        """Two spaces, of which one runs, exchange their last tables."""
        other = self._rng.choice(self._spaces)
        if other is self._current:
            return
        memory = self.scene.vm.memory
        places = [space.tables.entry_address(OWN[0], 2) for space in (self._current, other)]
        first, second = (memory.read(place, self._size) for place in places)
        self._store(places[0], second)
        self._store(places[1], first)
        self._current.says, other.says = other.says, self._current.says
        other.settled = False
        self._flush()

    def _switch(self) -> None:
        """MOV to CR3; without a flush where PCIDs permit it and nothing has changed."""
        self._current.settled = True
        self._current = self._rng.choice(self._spaces)
        self._flush(keep=self._pcids and self._current.settled and self._rng.random() < 0.7)

    def _flush(self, *, keep: bool = False) -> None:
        pcid = self._current.pcid if self._pcids else 0
        self._cpu.mov_cr3(self._current.tables.root | pcid | CR3_NO_FLUSH * keep)

    def _flush_all(self) -> None:
        """By CR4.PGE, off and on."""
        cr4 = self._cpu.vcpu.registers.cr4
        self._cpu.mov_cr4(cr4 ^ CR4_PGE)
        self._cpu.mov_cr4(cr4)
        for space in self._spaces:
            space.settled = True


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("mmu", "paging"),
    [
        *((MmuKind.SHADOW, paging) for paging in ("32-bit", "PAE", "4-level", "5-level")),
        (MmuKind.DIRECT, "4-level"),
        (MmuKind.TDP, "4-level"),
    ],
    ids=str,
)
def test_tables_mean_what_they_say_after_the_least_flush(
    kernel: str, mmu: MmuKind, paging: str, seed: int
) -> None:
    """Edited in the space that runs, in another, in a table that all share; exchanged between spaces."""
    program = Guest(kernel, mmu, paging, f"{paging} {seed}")

    for number, step in enumerate(program.go_on(120), 1):
        if number % 30 == 0:
            snapshot = program.scene.vm.snapshot(step)
            assert [f"{step}: {what}" for each in PREDICATES for what in each.check(snapshot)] == []


NOWHERE = 3 << 30
"""Where there is neither memory nor anything mapped by the guest."""
HERE = 0x1234_5000


@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_table_that_is_nowhere_maps_nothing(kernel: str, level: int) -> None:
    """Shadow paging: the guest's entry of that level leads to a table where it has no memory."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={HERE: 8 * MIB})
    assert scene.tables is not None
    where = scene.tables.entry_address(HERE, level)
    scene.vm.memory.write(where, NOWHERE | P | W | U | A)
    scene.cpu.set_registers(scene.cpu.vcpu.registers)

    with pytest.raises(PageFault) as fault:
        scene.cpu.write(HERE, 1)

    assert (fault.value.error_code, fault.value.cr2) == (W, HERE)


@pytest.mark.parametrize("address", [1 << 47, (1 << 63) + HERE])
def test_an_address_that_is_not_canonical_is_refused(kernel: str, mmu: MmuKind, address: int) -> None:
    """By the processor, whatever KVM has made."""
    scene = guest(kernel, mmu, "4-level", mapped={HERE: 8 * MIB})
    assert scene.cpu.read(HERE) == 0

    with pytest.raises(GeneralProtection):
        scene.cpu.read(address)


def test_a_root_that_is_nowhere(kernel: str) -> None:
    """Shadow paging with CR3 where there is no memory: 6.1 gives the guest up, 6.12 lets it find nothing."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={HERE: 8 * MIB})
    scene.cpu.set_registers(replace(scene.cpu.vcpu.registers, cr3=NOWHERE))

    with pytest.raises(TripleFault if kernel == "6.1" else PageFault):
        scene.cpu.read(HERE)

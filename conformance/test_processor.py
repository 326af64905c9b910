"""The processor on which all statements are held: its two walks against the manual's rules and against each other,
and what makes it forget."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from mmu_model.hardware import (
    ACCESSES,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PKE,
    CR4_PKS,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
    Access,
    GeneralProtection,
    Invpcid,
    Invvpid,
    Kind,
    LinearPaging,
    LogicalProcessor,
    Mode,
    PageFault,
    PhysicalMemory,
    Registers,
    access,
    walk,
)
from mmu_model.hardware.batch import GENERAL_PROTECTION, NO_FAULT, walk_batch
from mmu_model.hardware.tables import PageTables, frames_from
from mmu_tool.matrix.check import check_block
from mmu_tool.matrix.combinations import BLOCKS, Block, combinations, legal

MAXPHYADDR = 46
CR4 = {
    Mode.OFF: 0,
    Mode.THIRTY_TWO_BIT: CR4_PSE,
    Mode.PAE: CR4_PAE,
    Mode.FOUR_LEVEL: CR4_PAE,
    Mode.FIVE_LEVEL: CR4_PAE | CR4_LA57,
}
VA = 0x1234_5000
PAGE, OTHER = 0x8000_0000, 0x9000_0000
P, W, GLOBAL = 1, 2, 1 << 8
READ = access(Kind.READ)
EPT_ALL, EPT_WRITE_BACK = 7, 6 << 3

ORDINARY = Block(nxe=True, wp=True, pke=True, key_ad=False, key_wd=True, read_only=False, key=1)
LENIENT = Block(nxe=False, wp=False, pke=False, key_ad=False, key_wd=False, read_only=True, key=0)


@pytest.mark.parametrize("block", [ORDINARY, LENIENT], ids=["ordinary", "lenient"])
@pytest.mark.parametrize("mode", [Mode.FOUR_LEVEL, Mode.FIVE_LEVEL], ids=lambda mode: mode.value)
def test_every_combination_of_flags_is_as_the_manual_says(mode: Mode, block: Block) -> None:
    """Rules, single walk and walk on arrays agree on every entry, access and sequence of two."""
    found = check_block(mode.value, BLOCKS.index(block))

    assert found["described"] == []
    assert found["disagreements"] == 0
    assert found["combinations"] == combinations([block]) == 12 * len(legal(block))


def test_all_blocks_together_are_the_whole_matrix() -> None:
    """As many combinations as kvm-unit-tests has for such a processor."""
    assert combinations(BLOCKS) == 19_169_280


def random_tables(rng: np.random.Generator, mode: Mode, frames: list[int]) -> tuple[PhysicalMemory, int]:
    """Tables that point at each other, with flags that are mostly sane, and the address of a root."""
    memory = PhysicalMemory(MAXPHYADDR)
    size = 4 if mode is Mode.THIRTY_TWO_BIT else 8
    mask = 0xFFFF_FFFF if size == 4 else (1 << 64) - 1
    tables = [start + n * 0x1000 & mask for start in frames for n in range(3)]
    chances = [(0, 0.1), (1, 0.2), (2, 0.2), (5, 0.5), (6, 0.5), (7, 0.2)]
    if size == 8:
        chances += [(63, 0.1), (50, 0.03), (13, 0.03), (60, 0.3), (8, 0.2)]
    for table in tables:
        for index in range(16):
            flags = sum((rng.random() < chance) << bit for bit, chance in chances)
            memory.write(table + index * size, (int(rng.choice(tables)) | 7) ^ flags, size)
    if mode is not Mode.PAE:
        return memory, tables[0]
    for index in range(4):
        memory.write(0x5000 + index * 8, int(rng.choice(tables)) | (rng.random() < 0.8))
    return memory, 0x5000


def random_addresses(rng: np.random.Generator, mode: Mode, count: int) -> NDArray[np.uint64]:
    """Addresses of those entries, some of them not canonical."""
    address = rng.integers(0, 0x1000, count, dtype=np.uint64)
    for shift in (22, 12) if mode is Mode.THIRTY_TWO_BIT else (39, 30, 21, 12) if mode.is_long else (21, 12):
        address |= rng.integers(0, 16, count, dtype=np.uint64) << np.uint64(shift)
    if mode is Mode.PAE:
        address |= rng.integers(0, 4, count, dtype=np.uint64) << np.uint64(30)
    if mode is Mode.FIVE_LEVEL:
        address |= rng.integers(0, 16, count, dtype=np.uint64) << np.uint64(48)
    if mode is Mode.FOUR_LEVEL:
        address &= np.uint64((1 << 47) - 1)
        address |= rng.choice(np.array([0, 1 << 49], np.uint64), count, p=[0.9, 0.1])
    return address


def single_walk(memory: PhysicalMemory, paging: LinearPaging, how: Access, address: int) -> tuple[int, int]:
    """Where it leads, and its fault, as a walk on arrays says it."""
    try:
        return walk(memory, paging, how, address).address, NO_FAULT
    except GeneralProtection:
        return 0, GENERAL_PROTECTION
    except PageFault as fault:
        return 0, fault.error_code


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "frames", [[0x10_0000, 0x20_0000], [0x10_0000, 0x3_0000_0000, 1 << 45]], ids=["low", "high"]
)
@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_a_walk_on_arrays_is_its_single_walks(mode: Mode, frames: list[int], seed: int) -> None:
    """On tables made at random: addresses, error codes, and all of memory afterwards."""
    rng = np.random.default_rng([seed, *mode.value.encode()])
    memory, root = random_tables(rng, mode, frames)
    controls = [bit for bit in (CR4_SMEP, CR4_SMAP, CR4_PKE, CR4_PKS, CR4_PSE) if rng.random() < 0.5]
    registers = Registers(
        cr0=0 if mode is Mode.OFF else CR0_PE | CR0_PG | CR0_WP * (rng.random() < 0.5),
        cr3=root,
        cr4=CR4[mode] & ~CR4_PSE | sum(controls),
        efer=EFER_LMA * mode.is_long | EFER_NXE * (rng.random() < 0.5),
        ac=rng.random() < 0.5,
        pkru=int(rng.integers(0, 1 << 32)),
        pkrs=int(rng.integers(0, 1 << 32)),
        maxphyaddr=MAXPHYADDR,
    )
    pdptes = tuple(memory.read(root + 8 * n) for n in range(4)) if mode is Mode.PAE else None
    paging = LinearPaging(registers, pdptes)  # type: ignore[arg-type]  # four of them
    how = ACCESSES[seed % len(ACCESSES)]
    addresses = random_addresses(rng, mode, 120)
    one_by_one = memory.copy()

    together = walk_batch(memory, paging, how, addresses)

    singles = [single_walk(one_by_one, paging, how, address) for address in addresses.tolist()]
    assert together.fault.tolist() == [fault for _, fault in singles]
    good = together.fault == NO_FAULT
    assert together.address[good].tolist() == [place for place, fault in singles if fault == NO_FAULT]
    assert memory == one_by_one


def remembering(flags: int = P | W, cr4: int = CR4_PCIDE | CR4_PGE) -> LogicalProcessor:
    """It has read VA at PAGE; the tables say OTHER by now."""
    memory = PhysicalMemory(MAXPHYADDR)
    tables = PageTables(memory, Mode.FOUR_LEVEL, frames_from(0x10_0000))
    tables.map(VA, PAGE, flags=flags)
    registers = Registers(
        cr0=CR0_PE | CR0_PG, cr3=tables.root, cr4=CR4_PAE | cr4, efer=EFER_LMA, maxphyaddr=MAXPHYADDR
    )
    cpu = LogicalProcessor(memory, registers)
    cpu.read(VA)
    tables.map(VA, OTHER, flags=flags)
    return cpu


@pytest.mark.parametrize(
    ("instruction", "forgets", "forgets_global"),
    [
        (lambda cpu: None, False, False),
        (lambda cpu: cpu.invlpg(VA), True, True),
        (lambda cpu: cpu.invlpg(VA + 0x1000), False, False),
        (lambda cpu: cpu.mov_cr3(cpu.registers.cr3), True, False),
        (lambda cpu: cpu.mov_cr3(cpu.registers.cr3 | 1 << 63), False, False),
        (lambda cpu: cpu.mov_cr4(cpu.registers.cr4 & ~CR4_PGE), True, True),
        (lambda cpu: cpu.mov_cr4(cpu.registers.cr4 & ~CR4_PCIDE), True, True),
        (lambda cpu: cpu.mov_cr4(cpu.registers.cr4 | CR4_SMEP), True, True),
        (lambda cpu: cpu.mov_cr4(cpu.registers.cr4), False, False),
        (lambda cpu: cpu.mov_cr0(cpu.registers.cr0 | CR0_WP), False, False),
        (lambda cpu: cpu.wrmsr_efer(cpu.registers.efer), False, False),
        (lambda cpu: cpu.set_rights(pkru=0, pkrs=0, ac=True), False, False),
        (lambda cpu: cpu.invpcid(Invpcid.ADDRESS, 0, VA), True, False),
        (lambda cpu: cpu.invpcid(Invpcid.ADDRESS, 0, VA + 0x1000), False, False),
        (lambda cpu: cpu.invpcid(Invpcid.ADDRESS, 5, VA), False, False),
        (lambda cpu: cpu.invpcid(Invpcid.PCID, 0), True, False),
        (lambda cpu: cpu.invpcid(Invpcid.PCID, 5), False, False),
        (lambda cpu: cpu.invpcid(Invpcid.ALL), True, True),
        (lambda cpu: cpu.invpcid(Invpcid.ALL_KEEP_GLOBAL), True, False),
        (lambda cpu: cpu.invlpga(VA, 0), True, True),
        (lambda cpu: cpu.invlpga(VA, 7), False, False),
        (lambda cpu: cpu.invvpid(Invvpid.ALL), False, False),
        (lambda cpu: cpu.invept(), False, False),
        (lambda cpu: cpu.flush_asid(), True, True),
        (lambda cpu: cpu.flush_asid(0, keep_global=True), True, False),
        (lambda cpu: cpu.flush_asid(7), False, False),
    ],
)
def test_what_makes_a_processor_forget(
    instruction: Callable[[LogicalProcessor], None], forgets: bool, forgets_global: bool
) -> None:
    """A page, and a global one; of one PCID, or of all."""
    for flags, expected in ((P | W, forgets), (P | W | GLOBAL, forgets_global)):
        cpu = remembering(flags)
        assert cpu.translate(VA, READ) == PAGE

        instruction(cpu)

        assert cpu.translate(VA, READ) == (OTHER if expected else PAGE)


@pytest.mark.parametrize(
    ("what", "pcid", "address", "cr4"),
    [
        (Invpcid.PCID, 0x1000, 0, CR4_PCIDE),
        (Invpcid.PCID, 5, 0, 0),
        (Invpcid.ADDRESS, 5, VA, 0),
        (Invpcid.ADDRESS, 0, 1 << 47, CR4_PCIDE),
    ],
)
def test_invpcid_of_what_cannot_be_is_refused(what: Invpcid, pcid: int, address: int, cr4: int) -> None:
    """A PCID of 13 bits; one other than 0 without CR4.PCIDE; an address that is not canonical."""
    with pytest.raises(GeneralProtection):
        remembering(cr4=cr4).invpcid(what, pcid, address)


@pytest.mark.parametrize("pcid", [0, 0xFFF])
def test_invpcid_takes_every_pcid_there_can_be(pcid: int) -> None:
    """Twelve bits, and the last canonical address below the hole."""
    remembering().invpcid(Invpcid.ADDRESS, pcid, (1 << 47) - 1)


def guest_without_second_dimension() -> LogicalProcessor:
    """A guest with VPID 1 has read VA at PAGE; its tables say OTHER by now. So have those of VPID 2."""
    memory = PhysicalMemory(MAXPHYADDR)
    tables = PageTables(memory, Mode.FOUR_LEVEL, frames_from(0x10_0000))
    tables.map(VA, PAGE)
    registers = Registers(
        cr0=CR0_PE | CR0_PG, cr3=tables.root, cr4=CR4_PAE, efer=EFER_LMA, maxphyaddr=MAXPHYADDR
    )
    cpu = LogicalProcessor(memory)
    for vpid in (2, 1):
        cpu.enter_guest(registers, None, vpid)
        cpu.read(VA)
        if vpid == 2:
            cpu.exit_guest()
    tables.map(VA, OTHER)
    return cpu


@pytest.mark.parametrize(
    ("instruction", "forgets"),
    [
        (lambda cpu: cpu.invvpid(Invvpid.VPID, 1), True),
        (lambda cpu: cpu.invvpid(Invvpid.VPID, 2), False),
        (lambda cpu: cpu.invvpid(Invvpid.VPID_KEEP_GLOBAL, 1), True),
        (lambda cpu: cpu.invvpid(Invvpid.ADDRESS, 1, VA), True),
        (lambda cpu: cpu.invvpid(Invvpid.ADDRESS, 1, VA + 0x1000), False),
        (lambda cpu: cpu.invvpid(Invvpid.ADDRESS, 2, VA), False),
        (lambda cpu: cpu.invvpid(Invvpid.ALL), True),
        (lambda cpu: cpu.flush_asid(1), True),
        (lambda cpu: cpu.flush_asid(2), False),
        (lambda cpu: cpu.invlpga(VA, 1), True),
        (lambda cpu: cpu.invlpga(VA, 2), False),
    ],
)
def test_a_guest_is_forgotten_by_its_number(
    instruction: Callable[[LogicalProcessor], None], forgets: bool
) -> None:
    """What one VPID, or ASID, has is not another's."""
    cpu = guest_without_second_dimension()

    instruction(cpu)

    assert cpu.translate(VA, READ) == (OTHER if forgets else PAGE)


def test_the_number_0_is_the_hosts() -> None:
    """INVVPID refuses it."""
    with pytest.raises(ValueError, match="VPID 0"):
        guest_without_second_dimension().invvpid(Invvpid.VPID, 0)


def test_rights_are_looked_at_when_they_are_used() -> None:
    """PKRU, PKRS and AC take effect without anything being forgotten."""
    cpu = remembering(P | W | 4, cr4=CR4_PKE | CR4_PKS)
    cpu.mov_cr4(cpu.registers.cr4 | CR4_SMAP)
    with pytest.raises(PageFault):
        cpu.translate(VA, READ)
    cpu.set_rights(ac=True)
    assert cpu.translate(VA, READ) in (PAGE, OTHER)

    cpu.set_rights(pkru=1)
    with pytest.raises(PageFault):
        cpu.translate(VA, READ)
    cpu.set_rights(pkru=0, pkrs=1)
    assert cpu.translate(VA, READ) in (PAGE, OTHER)

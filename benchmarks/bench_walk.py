"""Page walks: one at a time, in batches, by an emulator, and by nothing but dictionaries."""

import itertools
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Measurement, benchmark, rate, seconds
from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Kind,
    LinearPaging,
    LogicalProcessor,
    Mode,
    NestedPaging,
    PhysicalMemory,
    Registers,
    access,
    walk,
    walk_nested,
)
from mmu_model.hardware.batch import NO_FAULT, walk_batch
from mmu_model.hardware.tables import PageTables, frames_from
from mmu_tool.campaign import all_cores
from mmu_tool.cases import answer
from mmu_tool.matrix.run import checkpoint, run

PAGES = 16_384
MAXPHYADDR = 40
BASE = 0x4000_0000
TABLES = 0x10_0000
READ = access(Kind.READ, user=True)


@cache
def scene() -> tuple[PhysicalMemory, Registers]:
    """64 MiB mapped by pages of 4 KiB, and registers with everything on that can be checked."""
    memory = PhysicalMemory(MAXPHYADDR)
    tables = PageTables(memory, Mode.FOUR_LEVEL, frames_from(TABLES))
    for page in range(PAGES):
        tables.map(BASE + page * 0x1000, 0x800_0000 + page * 0x1000)
    return memory, Registers(
        cr0=CR0_PE | CR0_WP | CR0_PG,
        cr3=tables.root,
        cr4=CR4_PAE | CR4_SMEP | CR4_SMAP | CR4_PKE,
        efer=EFER_LMA | EFER_LME | EFER_NXE,
        pkru=0x5555_5554,
        maxphyaddr=MAXPHYADDR,
    )


def addresses(count: int) -> NDArray[np.uint64]:
    """Random addresses of the scene."""
    return np.random.default_rng(1).integers(BASE, BASE + PAGES * 0x1000, count).astype(np.uint64)


@benchmark
def single_walks() -> Iterator[Measurement]:
    """The walk itself, beside what Python needs for four look-ups without any check."""
    memory, registers = scene()
    paging, some = LinearPaging(registers), addresses(20_000).tolist()
    dictionary = partial(each, bare_dictionary_walk(), some)
    yield Measurement(
        "single walk, 4-level, all checks",
        rate(lambda: each(partial(walk, memory, paging, READ), some), len(some)),
        "walks/s",
        target=150_000,
        peer="bare dictionary walk, no checks",
        peer_value=rate(dictionary, len(some)),
    )
    cpu = LogicalProcessor(memory, registers)
    each(partial(cpu.translate, how=READ), some)
    yield Measurement(
        "translation by the TLB", rate(lambda: each(partial(cpu.translate, how=READ), some), len(some)), "/s"
    )


@benchmark
def nested_walks() -> Iterator[Measurement]:
    """4 levels over 4: 24 memory references."""
    scene_memory, registers = scene()
    memory = scene_memory.copy()
    host = PageTables(memory, Mode.FOUR_LEVEL, frames_from(0x1_0000_0000))
    for page in range(PAGES * 3):  # the guest's tables and its pages
        host.map(page * 0x1000, page * 0x1000)
    nested = NestedPaging(host.root, cr4=CR4_PAE, efer=EFER_LMA | EFER_NXE, maxphyaddr=MAXPHYADDR)
    guest, some = LinearPaging(registers), addresses(4_000).tolist()
    yield Measurement(
        "nested walk, 4-level over 4-level, 24 memory references",
        rate(lambda: each(partial(walk_nested, memory, guest, nested, READ), some), len(some)),
        "walks/s",
    )


@benchmark
def batch_walks() -> Iterator[Measurement]:
    """Many walks at once, beside the emulator in a loop of the guest's own."""
    memory, registers = scene()
    paging, emulator = LinearPaging(registers), emulator_loop()
    for count, target in ((PAGES, 14_000_000), (1 << 20, 8_000_000)):
        some = addresses(count)
        assert (walk_batch(memory, paging, READ, some).fault == NO_FAULT).all()
        yield Measurement(
            f"batch walk, {count:,} at a time, all checks",
            rate(lambda some=some: walk_batch(memory, paging, READ, some), count),  # type: ignore[misc]
            "walks/s",
            target=target,
            peer="Unicorn, loop in the guest, INVLPG and load",
            peer_value=emulator,
        )


@benchmark
def cases() -> Iterator[Measurement]:
    """One case to one answer: the model and the emulator do exactly the same."""
    case = {
        "id": "bench",
        "maxphyaddr": MAXPHYADDR,
        "cr0": 0x8001_0001,
        "cr3": 0x10_0000,
        "cr4": CR4_PAE,
        "efer": EFER_LMA | EFER_LME | EFER_NXE,
        "pkru": 0,
        "ac": 0,
        "cpl": 0,
        "access": "read",
        "va": 0x5678,
        "memory": [[0x10_0000 + n * 0x1000, 0x10_1007 + n * 0x1000, 8] for n in range(3)]
        + [[0x10_3028, 0x20_0007, 8]],
    }
    yield Measurement(
        "case, from registers and words to the answer",
        rate(lambda: each(answer, itertools.repeat(case, 1000)), 1000),
        "cases/s",
        peer="Unicorn, full case",
        peer_value=emulator_cases(case),
    )


@benchmark
def access_matrix() -> Iterator[Measurement]:
    """All 19,169,280 combinations of 4-level paging."""
    with TemporaryDirectory() as directory:
        done = checkpoint(Path(directory) / "checkpoint", Mode.FOUR_LEVEL)
        taken = seconds(lambda: run(Mode.FOUR_LEVEL, all_cores, done, lambda _: None))
    yield Measurement(
        "access matrix of 4-level paging, whole",
        taken,
        "s",
        target=20,
        peer="kvm-unit-tests under emulation, 188,000 cases/s as published, not measured here",
        peer_value=19_169_280 / 188_000,
    )


def each(work: Callable[[Any], object], items: Any) -> None:
    """Call for each item."""
    for item in items:
        work(item)


def bare_dictionary_walk() -> Callable[[int], int]:
    """Four look-ups in dictionaries of lists, and the address; nothing is checked, nothing is set."""
    memory, registers = scene()
    frames = {int(pfn): memory.frame(pfn).tolist() for pfn in memory.frames()}

    def translate(address: int) -> int:
        table: int = registers.cr3
        for shift in (39, 30, 21, 12):
            table = frames[table >> 12][address >> shift & 511] & 0xFF_FFFF_F000
        return table | address & 0xFFF

    return translate


def emulator_loop() -> float | None:
    """Walks a second of an emulated guest that loads from page after page; None without the emulator."""
    try:
        import unicorn
        from unicorn import x86_const as x86
    except ImportError:
        return None
    memory, registers = scene()
    code = bytes.fromhex("0f013b 488b03 4881c300100000 48ffc9 75ee f4")
    engine: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)  # type: ignore[attr-defined,no-untyped-call]
    engine.mem_map(0, 0x2000_0000)
    for pfn in memory.frames():
        engine.mem_write(pfn << 12, memory.frame(pfn).tobytes())
    root = int(memory.read(registers.cr3)) & ~0xFFF
    engine.mem_write(root, (0x9000 | 3).to_bytes(8, "little"))  # the first GiB: code, by a 2-MByte page
    engine.mem_write(0x9000, (0x83).to_bytes(8, "little"))
    engine.mem_write(0x8000, code)
    engine.reg_write(x86.UC_X86_REG_MSR, (0xC000_0080, registers.efer))
    engine.reg_write(x86.UC_X86_REG_CR4, CR4_PAE)
    engine.reg_write(x86.UC_X86_REG_CR3, registers.cr3)
    engine.reg_write(x86.UC_X86_REG_CR0, registers.cr0)

    def loop() -> None:
        engine.reg_write(x86.UC_X86_REG_RBX, BASE)
        engine.reg_write(x86.UC_X86_REG_RCX, PAGES)
        engine.emu_start(0x8000, 0x8000 + len(code) - 1)
        assert engine.reg_read(x86.UC_X86_REG_RBX) == BASE + PAGES * 0x1000

    return rate(loop, PAGES)


def emulator_cases(case: dict[str, Any]) -> float | None:
    """Cases a second of the oracle; None without the emulator."""
    try:
        from tests.oracle import case as oracle_case
        from tests.oracle import emulator
    except ImportError:
        return None
    parsed = oracle_case.case_from_json(case)
    return rate(lambda: each(emulator.run, itertools.repeat(parsed, 1000)), 1000)

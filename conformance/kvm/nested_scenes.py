"""What the tests of nested EPT look at, and an inner guest with paging."""

from typing import Any

import pytest

from conformance.nested_ept import (
    LARGE,
    NestedEpt,
    nested_ept_guest,
)
from conformance.scenes import INNER_TABLES, PAGE, page_tables, paging_registers
from mmu_model.hardware import (
    EptMisconfiguration,
    EptViolation,
    Mode,
    PageFault,
)
from mmu_model.snapshot import MmuKind

DEVICE = 1 << 40
LINEAR, PAGE_TRANSLATED = 1 << 7, 1 << 8
RESERVED = 1 << 50


def fault(scene: NestedEpt, kind: str, address: int) -> Any:
    """What an access by the inner guest ends in."""
    with pytest.raises((PageFault, EptViolation, EptMisconfiguration)) as caught:
        scene.cpu.write(address, 1) if kind == "write" else getattr(scene.cpu, kind)(address)
    return caught.value


def levels(scene: NestedEpt, ngpa: int) -> dict[int, int]:
    """The words that translate an address in EPT02, by level, as the processor finds them."""
    words, table = {}, scene.cpu.vcpu.guest_mmu.root.hpa
    for level in range(scene.cpu.vcpu.guest_mmu.root_role.level, 0, -1):
        words[level] = word = scene.vm.host.memory.read(table + (ngpa >> 9 * level + 3 & 511) * 8)
        if not word & 7 or word & LARGE:
            break
        table = word & (1 << 52) - (1 << 12)  # type: ignore[assignment]
    return words


def paging_inner_guest(
    kernel: str, mode: Mode = Mode.FOUR_LEVEL, *, accessed_dirty: bool = True
) -> NestedEpt:
    """An inner guest with paging: 0x1000 to 0x5000, 0x2000 to a device."""
    own = {INNER_TABLES + n * PAGE: INNER_TABLES + n * PAGE for n in range(5)}
    scene = nested_ept_guest(
        kernel, MmuKind.TDP, {0x5000: 0x6000, 0x7000: DEVICE, **own}, accessed_dirty=accessed_dirty
    )
    inner = page_tables(scene.vm, mode, INNER_TABLES, [])
    inner.map(0x1000, 0x5000)
    inner.map(0x2000, 0x7000)
    inner.map(0x3000, 0x9000)
    registers = paging_registers(mode, inner.root)
    scene.cpu.leave_nested()
    if mode is Mode.PAE:
        first = scene.vm.memory.read(inner.root)
        scene.pdptes = first, 0, 0, 0
    scene.inner = registers
    scene.enter()
    return scene

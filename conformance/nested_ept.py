"""A guest that is a hypervisor on Intel's processors, and runs a guest of its own over an EPT that it made.

The hypervisor sees its 64 MiB where they are: it has paging, with large pages, from every address to itself.
Its EPT, EPT12, is from 48 MiB on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from conformance.scenes import MIB, NESTED_TABLES, USED, Scene, guest, nested_root, page_tables
from mmu_model.hardware import EptMisconfiguration, EptViolation, Mode, Registers
from mmu_model.hardware.ept import EPTP_ACCESSED_DIRTY
from mmu_model.hardware.linear import Pdptes
from mmu_model.hardware.tables import PageTables
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind, ShadowPage

R, W, X = 1, 2, 4
LARGE = 1 << 7
EPT_A, EPT_D = 1 << 8, 1 << 9
WRITE_BACK = 6 << 3
EPT_USED: Final = R | W | X | WRITE_BACK | EPT_A | EPT_D
"""Flags of an entry of EPT12: everything permitted, write-back, accessed and dirty."""


@dataclass
class NestedEpt(Scene):
    """The scene while the inner guest runs. `tables` are EPT12."""

    eptp: int = 0
    inner: Registers = field(default_factory=lambda: Registers(maxphyaddr=46))
    pdptes: Pdptes | None = None

    @property
    def ept(self) -> PageTables:
        """EPT12."""
        assert self.tables is not None
        return self.tables

    def as_hypervisor(self, act: Callable[[], Any]) -> Any:
        """The hypervisor does something between two runs of its guest; what came of it."""
        self.inner = self.cpu.vcpu.registers
        self.cpu.leave_nested()
        try:
            return act()
        finally:
            self.enter()

    def enter(self) -> None:
        """VM entry."""
        self.cpu.enter_nested(self.eptp, self.inner, pdptes=self.pdptes)

    def entry(self, ngpa: int, level: int = 1) -> int:
        """What EPT12 has in the entry of that level for an address."""
        return self.vm.memory.read(self.ept.entry_address(ngpa, level))

    def edit(self, ngpa: int, value: int, level: int = 1, *, invept: bool = True) -> None:
        """The hypervisor changes an entry of EPT12, by its own paging, and flushes if it is to."""

        def act() -> None:
            self.cpu.write(self.ept.entry_address(ngpa, level), value)
            if invept:
                self.cpu.invept(self.eptp)

        self.as_hypervisor(act)

    def outcome(self, kind: str, ngpa: int, value: int = 0) -> int | str | None:
        """What comes of an access by the inner guest: what it reads, or the exit that its hypervisor gets."""
        try:
            if kind == "write":
                self.cpu.write(ngpa, value)
                return None
            return self.cpu.fetch(ngpa) if kind == "fetch" else self.cpu.read(ngpa)
        except (EptViolation, EptMisconfiguration) as fault:
            return str(fault)

    def shadows(self) -> list[ShadowPage]:
        """The pages of EPT02."""
        return [page for page in self.vm.snapshot().pages if page.role.guest_mode]


def nested_ept_guest(
    kernel: str,
    mmu: MmuKind,
    mapped: Mapping[int, int],
    *,
    level: int = 1,
    flags: int = EPT_USED,
    accessed_dirty: bool = True,
    walk_length: int = 4,
    tdp_format: TdpFormat = TdpFormat.EPT,
    host_level: int = 1,
    inner: Registers | None = None,
) -> NestedEpt:
    """An inner guest that runs; it has no paging unless its registers say so.

    Parameters
    ----------
    kernel, mmu, tdp_format, host_level :
        As of :func:`~conformance.scenes.guest`. The host's EPT walks up to 5 levels.
    mapped, level, flags :
        What EPT12 maps: guest-physical by nested guest-physical addresses, with pages of that level and these
        flags.
    accessed_dirty, walk_length :
        What the EPTP says.
    inner :
        The registers of the inner guest.

    """
    outer = guest(
        kernel,
        mmu,
        "4-level",
        mapped={n * 2 * MIB: n * 2 * MIB for n in range(32)},
        mapped_level=2,
        mapped_flags=USED,
        host_level=host_level,
        tdp_format=tdp_format,
        max_tdp_level=5,
    )
    frames: list[int] = []
    mode = {4: Mode.FOUR_LEVEL, 5: Mode.FIVE_LEVEL}[walk_length]
    ept = page_tables(outer.vm, mode, NESTED_TABLES, frames)
    for ngpa, gpa in mapped.items():
        ept.map(ngpa, gpa, level, flags)
    eptp = nested_root(ept.root, f"{walk_length}-level", TdpFormat.EPT) & ~EPTP_ACCESSED_DIRTY
    eptp |= EPTP_ACCESSED_DIRTY if accessed_dirty else 0
    registers = inner or Registers(maxphyaddr=46)
    scene = NestedEpt(outer.vm, outer.cpu, ept, frames, eptp, replace(registers))
    scene.enter()
    return scene

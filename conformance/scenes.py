"""Virtual machines to watch: few lines of scene for a test.

Unless a test says otherwise the guest has 64 MiB at 0. Its page tables are from 32 MiB on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    EFER_LMA,
    EFER_NXE,
    Fault,
    Mode,
    Registers,
)
from mmu_model.hardware.ept import (
    EPTP_ACCESSED_DIRTY,
    EPTP_WALK_LENGTH_4,
    EPTP_WALK_LENGTH_5,
    EPTP_WRITE_BACK,
)
from mmu_model.hardware.tables import PageTables, frames_from
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.kvm.host import Host
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.snapshot import MmuKind

MIB = 1 << 20
GIB = 1 << 30
PAGE = 4096

TABLES = 32 * MIB
NESTED_TABLES = 48 * MIB
INNER_TABLES = 56 * MIB

P_W_U = 0x7
"""Flags of a guest's entry: present, writable, user."""
USED = 0x67
"""The same, accessed and dirty."""

NESTED_FORMATS = (TdpFormat.NPT, TdpFormat.EPT)
"""What a guest hypervisor can have for guests of its own."""

STUCK = "the guest makes no progress"

PAGING = {mode.value: mode for mode in Mode}
_CR4 = {
    Mode.THIRTY_TWO_BIT: CR4_PSE,
    Mode.PAE: CR4_PAE,
    Mode.FOUR_LEVEL: CR4_PAE,
    Mode.FIVE_LEVEL: CR4_PAE | CR4_LA57,
}


@dataclass
class Scene:
    """A VM with one virtual processor, and the guest's tables if it has paging."""

    vm: VirtualMachine
    cpu: Cpu
    tables: PageTables | None = None
    frames: list[int] = field(default_factory=list)

    def reads(self, address: int, size: int = 8) -> int | str:
        """What the guest reads at an address, or the fault that it gets, or STUCK."""
        try:
            return self.cpu.read(address, size)
        except Fault as fault:
            return str(fault)
        except KvmBug:
            return STUCK

    def map(self, mapping: Mapping[int, int], level: int = 1, flags: int = P_W_U) -> None:
        """The guest maps more addresses; it can do so only before they were used."""
        assert self.tables is not None, "the guest has no paging"
        for address, page in mapping.items():
            self.tables.map(address, page, level, flags)


def guest(
    kernel: str,
    mmu: MmuKind,
    paging: str = "off",
    *,
    memory: Mapping[int, int] | None = None,
    mapped: Mapping[int, int] | None = None,
    mapped_level: int = 1,
    mapped_flags: int = P_W_U,
    host_level: int = 1,
    maxphyaddr: int = 46,
    max_tdp_level: int = 4,
    tdp_format: TdpFormat = TdpFormat.NPT,
    pml: bool = False,
    cr0_wp: bool = True,
    cr4: int = 0,
    nx: bool = True,
    x86_64: bool = True,
    host: Host | None = None,
) -> Scene:
    """A guest that runs.

    Parameters
    ----------
    kernel, mmu :
        Whose KVM, and which MMU maps the guest's memory.
    paging :
        The guest's: "off", "32-bit", "PAE", "4-level", "5-level".
    memory :
        Sizes of its memory slots by guest-physical address, besides the 64 MiB at 0.
    mapped, mapped_level, mapped_flags :
        What the guest maps: guest-physical by linear address, with pages of that level and these flags.
    host_level :
        The host maps the guest's memory with pages of that level where they fit.
    maxphyaddr, max_tdp_level :
        Physical-address bits of the host, and levels of nested paging that it walks.
    tdp_format :
        What nested paging that is.
    pml :
        Whether the processor logs writes.
    cr0_wp, cr4, nx :
        CR0.WP, further bits of CR4, and EFER.NXE where the guest's entries have room for XD.
    x86_64 :
        Whether the host's kernel is a 64-bit one.
    host :
        A host that has other VMs, instead of a new one.

    """
    vm = VirtualMachine(
        kernel,
        mmu,
        maxphyaddr=maxphyaddr,
        max_tdp_level=max_tdp_level,
        tdp_format=tdp_format,
        pml=pml,
        x86_64=x86_64,
        host=host,
    )
    vm.add_memory(0, 64 * MIB, level=host_level)
    for gpa, size in (memory or {}).items():
        vm.add_memory(gpa, size, level=host_level)
    mode = PAGING[paging]
    if mode is Mode.OFF:
        return Scene(vm, vm.add_cpu())
    frames: list[int] = []
    tables = page_tables(vm, mode, TABLES, frames)
    scene = Scene(vm, vm.add_cpu(Registers(maxphyaddr=maxphyaddr)), tables, frames)
    scene.map(mapped or {}, mapped_level, mapped_flags)
    scene.cpu.set_registers(paging_registers(mode, tables.root, maxphyaddr, cr0_wp=cr0_wp, cr4=cr4, nx=nx))
    return scene


WINDOWS = {"32-bit": 0x8000_0000, "PAE": 0x8000_0000, "4-level": 512 * GIB, "5-level": 512 * GIB}


@dataclass
class Editor(Scene):
    """A scene whose guest sees its own tables through a window, by other tables than those it edits."""

    window: int = 0

    def gpte(self, address: int, level: int = 1) -> int:
        """The linear address at which the guest sees its entry of that level for an address."""
        assert self.tables is not None
        return self.window + self.tables.entry_address(address, level) - TABLES

    def edit(self, address: int, value: int, level: int = 1) -> None:
        """The guest writes one of its entries, as a program does; 4-byte entries are not for this."""
        self.cpu.write(self.gpte(address, level), value)


def editing_guest(
    kernel: str,
    mapped: Mapping[int, int],
    paging: str = "4-level",
    *,
    flags: int = USED,
    mmu: MmuKind = MmuKind.SHADOW,
    tdp_format: TdpFormat = TdpFormat.NPT,
    pml: bool = False,
) -> Editor:
    """A guest that can edit its own tables, under shadow paging or another MMU."""
    scene = guest(kernel, mmu, paging, mapped=mapped, mapped_flags=flags, tdp_format=tdp_format, pml=pml)
    window = WINDOWS[paging]
    scene.map({window + n * PAGE: TABLES + n * PAGE for n in range(32)}, flags=USED)
    scene.cpu.set_registers(scene.cpu.vcpu.registers)
    return Editor(scene.vm, scene.cpu, scene.tables, scene.frames, window)


def nested_guest(
    kernel: str,
    mmu: MmuKind,
    *,
    mapped: Mapping[int, int],
    memory: Mapping[int, int] | None = None,
    paging: str = "4-level",
    max_tdp_level: int = 4,
    maxphyaddr: int = 46,
    nx: bool = True,
    tdp_format: TdpFormat = TdpFormat.NPT,
    pml: bool = False,
) -> Scene:
    """A guest that runs a guest of its own, without paging, over nested tables with the levels of its own paging.

    They are nested page tables of its paging mode or, on Intel's processors, an EPT. `mapped` has
    guest-physical by nested guest-physical addresses. The tables of the scene are the nested ones; other
    parameters are those of :func:`guest`.
    """
    scene = guest(
        kernel,
        mmu,
        paging,
        memory=memory,
        mapped={TABLES: TABLES},
        max_tdp_level=max_tdp_level,
        maxphyaddr=maxphyaddr,
        nx=nx,
        tdp_format=tdp_format,
        pml=pml,
    )
    scene.reads(TABLES)
    frames: list[int] = []
    nested = page_tables(scene.vm, PAGING[paging], NESTED_TABLES, frames)
    for ngpa, gpa in mapped.items():
        nested.map(ngpa, gpa)
    scene.cpu.enter_nested(nested_root(nested.root, paging, tdp_format), Registers(maxphyaddr=maxphyaddr))
    return Scene(scene.vm, scene.cpu, nested, frames)


def nested_root(root: int, paging: str, tdp_format: TdpFormat) -> int:
    """What a hypervisor names its nested tables by: nCR3, or an EPTP, which says how many levels there are.

    Accessed and dirty flags for EPT are on if the host has them.
    """
    if tdp_format is TdpFormat.NPT:
        return root
    flags = EPTP_ACCESSED_DIRTY if tdp_format is TdpFormat.EPT else 0
    return (
        root | EPTP_WRITE_BACK | flags | (EPTP_WALK_LENGTH_5 if paging == "5-level" else EPTP_WALK_LENGTH_4)
    )


def page_tables(vm: VirtualMachine, mode: Mode, where: int, frames: list[int]) -> PageTables:
    """Page tables of a guest from `where` on; `frames` gets the address of every table made."""

    def noted() -> Iterator[int]:
        for frame in frames_from(where):
            frames.append(frame)
            yield frame

    return PageTables(GuestMemory(vm.kvm, vm.kvm.memslots[0], logs_dirty=False), mode, noted())


def paging_registers(
    mode: Mode, root: int, maxphyaddr: int = 46, *, cr0_wp: bool = True, cr4: int = 0, nx: bool = True
) -> Registers:
    """What a guest with paging runs with; parameters as of :func:`guest`."""
    long_mode = EFER_LMA if mode.is_long else 0
    nxe = EFER_NXE if nx and mode is not Mode.THIRTY_TWO_BIT else 0
    return Registers(
        cr0=CR0_PE | CR0_PG | CR0_WP * cr0_wp,
        cr3=root,
        cr4=_CR4[mode] | cr4,
        efer=long_mode | nxe,
        maxphyaddr=maxphyaddr,
    )


def inner_paging_guest(
    kernel: str,
    mmu: MmuKind,
    *,
    linear: Mapping[int, int],
    nested: Mapping[int, int],
    tdp_format: TdpFormat = TdpFormat.NPT,
) -> Scene:
    """A guest that runs a guest of its own with 4-level paging, over nested tables of 4 levels.

    `linear` has nested guest-physical by linear addresses of the inner guest, `nested` guest-physical by
    nested guest-physical ones. The inner guest's tables are at the same address in both. The tables of the
    scene are the inner guest's.
    """
    frames: list[int] = []
    own = {INNER_TABLES + n * PAGE: INNER_TABLES + n * PAGE for n in range(16)}
    scene = nested_guest(kernel, mmu, mapped={**nested, **own}, tdp_format=tdp_format)
    assert scene.tables is not None
    inner = page_tables(scene.vm, Mode.FOUR_LEVEL, INNER_TABLES, frames)
    for address, page in linear.items():
        inner.map(address, page)
    scene.cpu.leave_nested()
    root = nested_root(scene.tables.root, "4-level", tdp_format)
    scene.cpu.enter_nested(root, paging_registers(Mode.FOUR_LEVEL, inner.root))
    return Scene(scene.vm, scene.cpu, inner, frames)

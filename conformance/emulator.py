"""What an emulator that nobody here wrote makes of the tables that KVM built: the oracle of a scene.

The registers that the host's processor runs the guest with, and every word of every table in its way, are given to
the emulator; it makes one access, cold, as after a flush.
"""

from dataclasses import replace

from conformance.looking import processor
from conformance.scenes import PAGE, Scene
from mmu_model.hardware import CR4_PAE, Kind, Mode
from tests.oracle.case import Access, Answer, Case, Npt
from tests.oracle.emulator import run

_ACCESS: dict[Kind, Access] = {Kind.READ: "read", Kind.WRITE: "write", Kind.FETCH: "fetch"}


def emulated(scene: Scene, address: int, kind: Kind = Kind.READ, cpl: int = 0) -> Answer:
    """What the access of the scene's guest comes to, by the tables as they are after its last one."""
    vcpu, registers = scene.cpu.vcpu, processor(scene.cpu).registers
    nested = vcpu.kvm.parameters.tdp_enabled
    case = Case(
        id=f"{kind.name} {address:#x} at {cpl}",
        maxphyaddr=scene.vm.host.memory.maxphyaddr,
        cr0=registers.cr0,
        cr3=registers.cr3,
        cr4=registers.cr4,
        efer=registers.efer,
        pkru=0,
        ac=False,
        cpl=cpl,
        access=_ACCESS[kind],
        va=address,
        memory=_tables_of_kvm(scene),
    )
    if not nested:
        return run(case)
    case.memory.update(_tables_of_the_guest(scene))
    npt = Npt(vcpu.mmu.root.hpa, efer_nxe=True, efer_lma=True, cr4_pae=bool(CR4_PAE))
    return run(replace(case, npt=npt))


def lands_on(scene: Scene, address: int, kind: Kind = Kind.READ, cpl: int = 0) -> int | str:
    """The host-physical address that the emulator comes to, or the fault that it takes instead."""
    answer = emulated(scene, address, kind, cpl)
    if answer.pa is not None:
        return answer.pa
    code = answer.error_code if answer.error_code is not None else answer.exit_info_1
    return f"{answer.result} {code:#x}"


def _tables_of_kvm(scene: Scene) -> dict[int, tuple[int, int]]:
    """The words of all shadow pages, and of the root, which for PAE paging is no shadow page."""
    host = scene.vm.host
    frames = {pfn * PAGE for pfn in host.page_private} | {scene.cpu.vcpu.mmu.root.hpa & -PAGE}
    return {
        at: (word, 8)
        for frame in frames
        for at in range(frame, frame + PAGE, 8)
        if (word := host.memory.read(at))
    }


def _tables_of_the_guest(scene: Scene) -> dict[int, tuple[int, int]]:
    """The words of the tables that the guest made, where they are in the host's memory."""
    size = 4 if scene.cpu.vcpu.registers.mode is Mode.THIRTY_TWO_BIT else 8
    words = {}
    for table in scene.frames:
        for at in range(table, table + PAGE, size):
            word, hpa = scene.vm.memory.read(at, size), scene.vm.memory.hpa(at)
            if word and hpa is not None:
                words[int(hpa)] = word, size
    return words

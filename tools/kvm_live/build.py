"""Compiles the programs under ``guest``, with the numbers that Python holds too."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from mmu_model.scenario import HostOp, Op, layout

from .descriptors import GDT, GDT_LIMIT, IDT, IDT_LIMIT, STAR, TSS, Entry
from .errors import LiveError

SOURCES = Path(__file__).parent / "guest"
FILES = ("init.c", "vm.c", "vmm.c", "interpreter.S")
SYMBOLS = "vm_list init_top_pgt page_offset_base vmemmap_base __start_BTF __stop_BTF".split()
PORTS = {"PORT_DONE": 0x10, "PORT_FAULT": 0x11, "PORT_HOST": 0x12}
LAYOUT = """
    KERNEL_CODE USER_CODE DESCRIPTORS STACK_TOP STEPS STEPS_END SMM_CODE SMM_STEPS MACHINE_SIZE HOST_SAVE
    RECORD_SIZE
"""


def definitions() -> dict[str, str]:
    """The macros: where things lie, what the operations are called."""
    numbers = {name: getattr(layout, name) for name in LAYOUT.split()}
    numbers |= {f"OP_{op.name}": op.value for op in Op} | {f"HOST_{op.name}": op.value for op in HostOp}
    numbers |= {entry.name: entry.value for entry in Entry} | PORTS
    numbers |= {"GDT": GDT, "GDT_LIMIT": GDT_LIMIT, "IDT": IDT, "IDT_LIMIT": IDT_LIMIT, "TSS": TSS}
    strings = ", ".join(f'"{symbol}"' for symbol in SYMBOLS)
    return {name: hex(number) for name, number in numbers.items()} | {
        "STAR": f"{STAR:#x}ull",
        "SYMBOLS": strings,
    }


def build(folder: Path) -> bytes:
    """The static program that is process 1 of the machine; built in ``folder``. Raises LiveError."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise LiveError("no C compiler; install gcc and libc6-dev")
    target = folder / "init"
    macros = [f"-D{name}={value}" for name, value in definitions().items()]
    command = [compiler, "-O1", "-Wall", "-Werror", "-static", "-o", str(target), *macros]
    command += [str(SOURCES / name) for name in FILES]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LiveError(
            f"{compiler} cannot build the machine's programs; install gcc and libc6-dev (static libc):\n"
            f"{result.stderr.strip()}"
        )
    return target.read_bytes()

"""The file system the machine boots from, as a cpio archive in the format newc."""

from __future__ import annotations

import stat
from collections.abc import Mapping

from mmu_model.snapshot import MmuKind

from .errors import LiveError
from .packages import NEEDED, Kernel

FOLDERS = ("dev", "proc", "sys", "modules.d", "programs")
CONSOLE = (5, 1)
PARAMETERS = {
    MmuKind.TDP: {"kvm": "tdp_mmu=1", "kvm-amd": "npt=1 nested=1"},
    MmuKind.DIRECT: {"kvm": "tdp_mmu=0", "kvm-amd": "npt=1 nested=1"},
    MmuKind.SHADOW: {"kvm": "tdp_mmu=0", "kvm-amd": "npt=0 nested=1"},
}


def initrd(init: bytes, kernel: Kernel, mmu: MmuKind, programs: list[bytes]) -> bytes:
    """The archive: process 1, KVM's modules with their parameters for ``mmu``, the programs by number."""
    for name in NEEDED:
        if name not in kernel.modules:
            raise LiveError(f"kernel {kernel.release} has no module {name}")
    files = {"init": init}
    lines = []
    for name, path in kernel.modules.items():
        files[f"modules.d/{name}.ko"] = path.read_bytes()
        lines.append(f"{name}.ko {PARAMETERS[mmu].get(name, '')}\n")
    files["modules"] = "".join(lines).encode()
    files |= {f"programs/{number}": program for number, program in enumerate(programs)}
    return cpio(files)


def cpio(files: Mapping[str, bytes]) -> bytes:
    """A newc archive with ``FOLDERS``, the console and executable ``files``."""
    parts = [_member(name, stat.S_IFDIR | 0o755) for name in FOLDERS]
    parts.append(_member("dev/console", stat.S_IFCHR | 0o600, device=CONSOLE))
    parts += [_member(name, stat.S_IFREG | 0o755, data) for name, data in files.items()]
    parts.append(_member("TRAILER!!!", 0))
    return b"".join(parts)


def _member(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + path
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)

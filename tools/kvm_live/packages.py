"""Kernels of Debian, fetched into a cache and unpacked there; nothing is installed."""

from __future__ import annotations

import io
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import LiveError

# in the order of dependency; ccp is missing from some kernels, and not needed there
MODULES = ("irqbypass", "ccp", "kvm", "kvm-amd")
NEEDED = ("kvm", "kvm-amd")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to boot: its series (``6.12``), its release, its image and its modules' files by name."""

    series: str
    release: str
    image: Path
    modules: dict[str, Path]


def cache_folder() -> Path:
    """Where kernels are kept: below XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kvm-mmu-conformance" / "kernels"


def find_kernel(series: str) -> Kernel:
    """The kernel of ``series``: from the cache, else the newest that apt knows. Raises LiveError.

    A package put into the cache's folder by hand is taken too, on a system without apt.
    """
    folder = cache_folder() / series
    if not (folder / "release").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        packages = sorted(folder.glob("*.deb"))
        with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as beside:
            package = packages[-1] if packages else download(series, Path(beside))
            unpacked = Path(beside) / "kernel"
            unpack(package, unpacked)
            for path in unpacked.iterdir():
                if path.name != "release":
                    path.replace(folder / path.name)
            (unpacked / "release").replace(folder / "release")  # last: it says that all is there
    modules = {name: folder / f"{name}.ko" for name in MODULES if (folder / f"{name}.ko").is_file()}
    return Kernel(series, (folder / "release").read_text().strip(), folder / "vmlinuz", modules)


def download(series: str, folder: Path) -> Path:
    """The newest cloud kernel of a series, by ``apt-get download``. Raises LiveError."""
    by_hand = f"put a Debian package linux-image-{series}*-cloud-amd64 into {cache_folder() / series}"
    if shutil.which("apt-get") is None:
        raise LiveError(f"there is no apt-get to fetch kernel {series} with; {by_hand}")
    pattern = f"^linux-image-{re.escape(series)}\\.[0-9][^ ]*-cloud-amd64$"
    found = _run(["apt-cache", "search", "--names-only", pattern]).stdout.split("\n")
    names = sorted((line.split()[0] for line in found if line), key=_version)
    if not names:
        raise LiveError(f"apt knows no kernel {series} (run apt-get update); or {by_hand}")
    result = _run(["apt-get", "download", "-q", names[-1]], cwd=folder)
    packages = list(folder.glob("*.deb"))
    if result.returncode or not packages:
        last = (result.stderr.strip() or "no package came").split("\n")[-1]
        raise LiveError(f"apt-get download {names[-1]} failed: {last} (run apt-get update); or {by_hand}")
    return packages[0]


def unpack(package: Path, folder: Path) -> None:
    """Takes image and modules out of a package. Raises LiveError for a package without KVM."""
    folder.mkdir()
    result = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=False)
    if result.returncode:
        raise LiveError(f"{package}: no Debian package: {result.stderr.decode().strip()}; remove it")
    found = set()
    with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
        for name, member in _wanted(archive):
            data = archive.extractfile(member)
            assert data is not None
            content = data.read()
            (folder / name).write_bytes(lzma.decompress(content) if member.name.endswith(".xz") else content)
            found.add(name)
            if name == "vmlinuz":
                (folder / "release").write_text(member.name.partition("vmlinuz-")[2] + "\n")
    missing = [name for name in ("vmlinuz", *(f"{name}.ko" for name in NEEDED)) if name not in found]
    if missing:
        raise LiveError(f"{package}: this kernel has no {', '.join(missing)}; remove it, take another")


def _wanted(archive: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    modules = "|".join(MODULES)
    for member in archive:
        if member.isfile() and "/boot/vmlinuz-" in member.name:
            yield "vmlinuz", member
        elif member.isfile() and (match := re.search(rf"/({modules})\.ko(\.xz)?$", member.name)):
            yield f"{match[1]}.ko", member


def _version(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _run(command: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)

"""Kernel packages: fetched, unpacked into the cache, refused."""

import io
import lzma
import stat
import tarfile
from pathlib import Path

import pytest

from kvm_live.errors import LiveError
from kvm_live.packages import cache_folder, find_kernel

RELEASE = "6.12.9-test-amd64"
MODULES = f"./lib/modules/{RELEASE}/kernel"
KERNEL = {
    f"./boot/vmlinuz-{RELEASE}": b"image",
    f"{MODULES}/virt/lib/irqbypass.ko.xz": lzma.compress(b"irqbypass"),
    f"{MODULES}/arch/x86/kvm/kvm.ko.xz": lzma.compress(b"kvm"),
    f"{MODULES}/arch/x86/kvm/kvm-amd.ko": b"kvm-amd",
    f"{MODULES}/drivers/other.ko": b"other",
}


def deb(files: dict[str, bytes]) -> bytes:
    """A Debian package (deb(5)): an ar archive with two tar files."""
    made = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\n"), ("control.tar", tar({})), ("data.tar", tar(files))):
        made += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        made += content + b"\n" * (len(content) % 2)
    return made


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a PATH with nothing but dpkg-deb and what the test puts there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = cache_folder() / "6.12"
    folder.mkdir(parents=True)
    return folder


def put_tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first in PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_a_package_in_the_cache_is_unpacked_once(cache: Path) -> None:
    (cache / "linux-image.deb").write_bytes(deb(KERNEL))

    kernel = find_kernel("6.12")

    assert kernel.release == RELEASE
    assert kernel.image.read_bytes() == b"image"
    assert {name: path.read_bytes() for name, path in kernel.modules.items()} == {
        "irqbypass": b"irqbypass",
        "kvm": b"kvm",
        "kvm-amd": b"kvm-amd",
    }
    (cache / "linux-image.deb").unlink()
    assert find_kernel("6.12") == kernel
    assert not list(cache.glob("new-*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no package", "no Debian package"),
        (
            deb({name: data for name, data in KERNEL.items() if "kvm-amd" not in name}),
            "has no kvm-amd.ko; remove it",
        ),
        (
            deb({name: data for name, data in KERNEL.items() if "boot" not in name}),
            "has no vmlinuz; remove it",
        ),
    ],
)
def test_a_package_that_is_no_kernel_with_kvm_is_refused(cache: Path, content: bytes, message: str) -> None:
    (cache / "linux-image.deb").write_bytes(content)

    with pytest.raises(LiveError, match=message):
        find_kernel("6.12")
    assert [path.name for path in cache.iterdir()] == ["linux-image.deb"], "nothing is left behind"


def test_without_apt_it_says_where_to_put_a_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(LiveError, match=r"no apt-get .* put a Debian package .*kernels/6\.12"):
        find_kernel("6.12")


def test_the_newest_package_is_downloaded(tools: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "kernel.deb").write_bytes(deb(KERNEL))
    names = [f"linux-image-6.12.{n}-cloud-amd64" for n in (9, 38, 10)]
    put_tool(tools, "apt-cache", "".join(f"echo '{name} - a kernel'\n" for name in names))
    put_tool(tools, "apt-get", f'echo "$@" > {tmp_path}/called; cp {tmp_path}/kernel.deb .')

    assert find_kernel("6.12").release == RELEASE
    assert (tmp_path / "called").read_text() == "download -q linux-image-6.12.38-cloud-amd64\n"


@pytest.mark.parametrize(
    ("search", "get", "message"),
    [
        ("true", "true", r"apt knows no kernel 6\.12 \(run apt-get update\)"),
        (
            "echo linux-image-6.12.9-cloud-amd64 - x",
            "echo E: not found >&2; exit 100",
            "failed: E: not found",
        ),
        ("echo linux-image-6.12.9-cloud-amd64 - x", "true", "failed: no package came"),
    ],
)
def test_a_kernel_that_cannot_be_fetched_is_an_error(
    tools: Path, cache: Path, search: str, get: str, message: str
) -> None:
    put_tool(tools, "apt-cache", search)
    put_tool(tools, "apt-get", get)

    with pytest.raises(LiveError, match=message):
        find_kernel("6.12")
    assert list(cache.iterdir()) == []

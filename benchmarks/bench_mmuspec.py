"""The commands that people wait for, as whole processes, beside docutils alone on the same text."""

import gzip
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Measurement, benchmark
from benchmarks.process import cost, costs, python
from mmuspec.fetch import fetch

RELEASE = "6.12"
MMUSPEC = str(Path(sys.executable).with_name("mmuspec"))
DOCUTILS = """
import sys
from docutils.frontend import get_default_settings
from docutils.parsers.rst import Parser
from docutils.utils import new_document
for path in sys.argv[1:] or [{path!r}]:
    settings = get_default_settings(Parser)
    settings.report_level = 5
    Parser().parse(open(path, encoding="utf-8").read(), new_document(path, settings))
"""


@benchmark
def commands_on_the_page() -> Iterator[Measurement]:
    """`mmuspec check` and `extract` of mmu.rst; the document is at hand."""
    path = str(fetch(RELEASE).cached)
    check, extract, alone = costs(
        [MMUSPEC, "check", RELEASE], [MMUSPEC, "extract", RELEASE], python(DOCUTILS.format(path=path))
    )
    peer = "docutils alone"
    yield Measurement("mmuspec check of mmu.rst, whole process", check.seconds, "s", 0.3, peer, alone.seconds)
    yield Measurement("mmuspec check of mmu.rst, memory", check.mib, "MiB", 50, peer, alone.mib)
    yield Measurement(
        "mmuspec extract of mmu.rst, whole process", extract.seconds, "s", 0.3, peer, alone.seconds
    )
    yield Measurement("mmuspec extract of mmu.rst, memory", extract.mib, "MiB", 50, peer, alone.mib)


@benchmark
def every_page_of_the_kernel() -> Iterator[Measurement]:
    """`mmuspec extract` of all .rst files of linux-doc-6.12, on all cores; docutils alone on one core."""
    with tempfile.TemporaryDirectory() as scratch:
        pages = _pages(Path(scratch))
        files = [str(path) for path in pages.rglob("*.rst")]
        took = cost([MMUSPEC, "extract", str(pages), "-o", f"{scratch}/out"])
        begin = time.perf_counter()
        subprocess.run([*python(DOCUTILS.format(path="")), *files], check=False, capture_output=True)
        alone = time.perf_counter() - begin
        name = f"mmuspec extract of {len(files)} .rst files, {os.cpu_count()} cores"
        yield Measurement(name, took.seconds, "s", 45, "docutils alone, 1 core", alone)


def _pages(scratch: Path) -> Path:
    """All pages of the package, unzipped. Raises CalledProcessError where apt-get cannot get it."""
    subprocess.run(
        ["apt-get", "download", f"linux-doc-{RELEASE}"], cwd=scratch, check=True, capture_output=True
    )
    (deb,) = scratch.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", str(deb), str(scratch / "doc")], check=True)
    (pages,) = scratch.glob("doc/usr/share/doc/*/Documentation")
    for zipped in pages.rglob("*.rst.gz"):
        if not zipped.is_symlink():
            zipped.with_suffix("").write_bytes(gzip.decompress(zipped.read_bytes()))
        zipped.unlink()
    return pages

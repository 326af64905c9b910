"""The commands that people wait for, as whole processes, beside docutils alone on the same text."""

import difflib
import gzip
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Measurement, benchmark
from benchmarks.process import Cost, cost, costs, python
from mmuspec.fetch import fetch

RELEASE = "6.12"
MMUSPEC = str(Path(sys.executable).with_name("mmuspec"))
PAGE = "Documentation/virt/kvm/x86/mmu.rst"
MAIL = """\
From 0123456789abcdef Mon Sep 17 00:00:00 2001
From: Ada Author <ada@example.org>
Date: Tue, 1 Aug 2023 01:00:00 +0000
Subject: {subject}

Say more.
---
{diff}--
2.41.0

"""
PATCHES, ROUNDS = 8, 5
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


@benchmark
def review_of_a_series() -> Iterator[Measurement]:
    """`mmuspec review` of a series against mmu.rst; every patch changes a sentence and adds one."""
    with tempfile.TemporaryDirectory() as scratch:
        series = Path(scratch) / "series.mbox"
        series.write_text("".join(_mails(fetch(RELEASE).source.splitlines(keepends=True))), encoding="utf-8")
        review = [MMUSPEC, "review", "--base", RELEASE, str(series)]
        took = Cost(*map(min, zip(*(cost(review, ends_with=1) for _ in range(ROUNDS)), strict=True)))
    name = f"mmuspec review of {PATCHES} patches"
    yield Measurement(f"{name}, whole process", took.seconds, "s", 1.5)
    yield Measurement(f"{name}, memory", took.mib, "MiB", 120)


def _mails(page: list[str]) -> Iterator[str]:
    """Patches for a page, each on top of the one before, all over it."""
    rows = [row for row, text in enumerate(page) if " is " in text]
    for number, row in enumerate(reversed(rows[:: len(rows) // PATCHES][:PATCHES]), 1):
        indent = " " * (len(page[row]) - len(page[row].lstrip()))
        added = f"{indent}Nobody counts these while the read lock is held.\n"
        changed = [*page[:row], page[row].replace(" is ", " is not ", 1), added, *page[row + 1 :]]
        diff = "".join(difflib.unified_diff(page, changed, f"a/{PAGE}", f"b/{PAGE}"))
        yield MAIL.format(subject=f"[PATCH {number}/{PATCHES}] Say more", diff=diff)
        page = changed


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

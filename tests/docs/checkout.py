"""A place to follow the pages in: a copy of the repository, and a home with a kernel tree of two releases."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT

DOCUMENT = "Documentation/virt/kvm/x86/mmu.rst"
LOCKING = """\
==========
Tiny locks
==========

There is one lock.  It is taken before pages are changed.

Kinds
=====

  reader:
    Changes nothing.
  writer:
    Is alone.
"""
B4 = """\
#!/bin/sh
# Stands for the b4 that fetches a thread: it prints one.
cat "$HOME/thread.mbox"
"""


def prepare(folder: Path, document: str, cache: Path) -> dict[str, str]:
    """Fill `folder` with `checkout/` and `home/`; the environment to run commands in.

    `document` is mmu.rst of the release that the spec was made from, `cache` where fetched documents are.
    """
    checkout, home = folder / "checkout", folder / "home"
    for name in _git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name)
    _kernel_tree(home / "linux", document)
    _patches(home, checkout)
    tools = home / "bin"
    tools.mkdir()
    (tools / "b4").write_text(B4)
    (tools / "b4").chmod(0o755)
    return {
        **os.environ,
        "HOME": str(home),
        "MMUSPEC_CACHE": str(cache),
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NO_COLOR": "1",
    }


def _kernel_tree(tree: Path, document: str) -> None:
    """A tree with two tags, v6.6 and v6.7, between which a sentence of mmu.rst goes."""
    page = tree / DOCUMENT
    page.parent.mkdir(parents=True)
    page.write_text(document)
    (tree / "Documentation/virt/kvm/locking.rst").write_text(LOCKING)
    source = tree / "arch/x86/kvm/mmu/mmu_internal.h"
    source.parent.mkdir(parents=True)
    source.write_text("struct kvm_mmu_page {\n\tu64 *spt;\n\tint root_count;\n};\n")
    host = tree / "arch/x86/include/asm/kvm_host.h"
    host.parent.mkdir(parents=True)
    host.write_text("union kvm_mmu_page_role {\n\tstruct {\n\t\tunsigned level:4;\n\t};\n};\n")
    _git(tree, "init", "-q")
    _commit(tree, "kvm: a page", "v6.6")
    page.write_text(re.sub(r"The MMU generation is only ever '0' or '1'\.\s", "", document))
    assert page.read_text() != document, "the sentence to take out is not there"
    _commit(tree, "docs: one sentence less", "v6.7")


def _patches(home: Path, checkout: Path) -> None:
    tree = home / "linux"
    _git(tree, "format-patch", "-q", "-o", str(checkout), "v6.6..v6.7")
    (home / "thread.mbox").write_text(_git(tree, "format-patch", "--stdout", "v6.6..v6.7"))
    (checkout / "path/to").mkdir(parents=True)
    shutil.copy(tree / DOCUMENT, checkout / "path/to/mmu.rst")


def _commit(tree: Path, subject: str, tag: str) -> None:
    _git(tree, "add", "--all")
    _git(tree, "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-q", "-m", subject)
    _git(tree, "tag", tag)


def _git(tree: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=tree, capture_output=True, text=True, check=True)
    return done.stdout

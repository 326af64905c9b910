"""A kernel tree of our own: two structs, a little code, and a page about them."""

from __future__ import annotations

import subprocess
from pathlib import Path

DOCUMENT = "Documentation/virt/kvm/x86/mmu.rst"
HEADER = "arch/x86/kvm/mmu/mmu_internal.h"
HOST = "arch/x86/include/asm/kvm_host.h"

PAGE_STRUCT = """\
/* A page, as small as can be. */
struct kvm_mmu_page {
\tstruct list_head link; /* list */
\tunion kvm_mmu_page_role role;
\tgfn_t gfn;
\tu64 *spt;
\tu64 *shadowed_translation;
\tunion {
\t\tint root_count;
\t\trefcount_t tdp_mmu_root_count;
\t};
\tDECLARE_BITMAP(unsync_child_bitmap, 512);
#ifdef CONFIG_X86_32
\tint clear_spte_count;
#else
\tstruct rcu_head rcu_head;
#endif
};
"""

ROLE_UNION = """\
union kvm_mmu_page_role {
\tu32 word;
\tstruct {
\t\tunsigned level:4;
\t\tunsigned quadrant:2;
\t\tunsigned :18;
\t\tunsigned smm:8;
\t};
};
"""

PAGE = """\
=================
The tiny page mmu
=================

Pages
=====

Pages contain the following information:
  role.level:
    The level of the page.
  role.quadrant:
    Which part; takes values in the range 0..3.
  role.smm:
    Is 1 in system management mode.
  gfn:
    The frame.
  spt:
    The entries.
  shadowed_translation:
    What each entry stands for.
  root_count:
    Counts the users.
  unsync_child_bitmap:
    Which entries to look at; see Documentation/virt/kvm/x86/mmu.rst.
  clear_spte_count:
    Only present on 32-bit hosts, where it is needed.
"""

FILES = {
    "Makefile": "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 0\nEXTRAVERSION =\n",
    DOCUMENT: PAGE,
    HEADER: PAGE_STRUCT,
    HOST: ROLE_UNION,
    "arch/x86/kvm/mmu/mmu.c": "void kvm_mmu_zap_all_fast(struct kvm *kvm) { int parent_pte; }\n",
    "virt/kvm/kvm_main.c": "int disallow_lpage;\n",
    "include/linux/kvm_host.h": "struct kvm;\n",
    "drivers/big.c": "int nobody_reads_this;\n",
}


def write(root: Path, **changed: str) -> Path:
    """The tree, in a folder; files named by the last part of their path, dots as underscores, are others."""
    for path, text in FILES.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(changed.get(file.name.replace(".", "_"), text))
    return root


def git(root: Path, *arguments: str) -> None:
    """A git command there."""
    subprocess.run(
        ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-C", root, *arguments],
        check=True,
        capture_output=True,
    )

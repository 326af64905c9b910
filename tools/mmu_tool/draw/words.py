"""Roles, entries, roots and memory slots in the words of a picture: short, the field's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmu_model.hardware.registers import CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, EFER_LMA
from mmu_model.snapshot import Kind, MmuKind, Role, ShadowPage, Snapshot, Spte, SpteFormat, Vcpu

from .match import Meaning, span

MMU_NAMES = {
    MmuKind.TDP: "nested paging, TDP MMU",
    MmuKind.DIRECT: "nested paging, direct shadow pages",
    MmuKind.SHADOW: "shadow paging",
}
SIZES = {1: "", 2: "2M ", 3: "1G "}
MMIO_GENERATION = (1 << 19) - 1  # the bits of a memslot generation that fit in an MMIO entry
OFF_BY_HABIT = (  # a role's bit, and what is said where a guest of today would have the other value
    ("guest_mode", 1, "guest_mode (nested)"),
    ("smm", 1, "smm"),
    ("efer_nx", 0, "efer_nx=0"),
    ("cr0_wp", 0, "cr0_wp=0"),
    ("smep_andnot_wp", 1, "smep_andnot_wp"),
    ("smap_andnot_wp", 1, "smap_andnot_wp"),
    ("ad_disabled", 1, "ad_disabled"),
)


def hexadecimal(first: int, last: int | None = None) -> str:
    """One number, or a range of them."""
    return hex(first) if last is None or last == first else f"{first:#x}–{last:#x}"


def role_words(page: ShadowPage) -> Iterator[str]:
    """What the page is for, and what is out of the ordinary in its role."""
    role = page.role
    if role.passthrough:
        yield "passthrough"
    elif role.direct:
        yield f"direct: gfn {hexadecimal(page.gfn, page.gfn + span(role.level + 1) - 1)}"
    else:
        yield "shadows a guest table"
    if role.has_4_byte_gpte:
        yield _four_byte(role)
    access = "".join(letter if role.access & bit else "-" for letter, bit in (("w", 2), ("x", 1), ("u", 4)))
    if access != "wxu":
        yield f"access r{access}"
    for name, value, words in OFF_BY_HABIT:
        if getattr(role, name) == value and not (role.direct and name in ("efer_nx", "cr0_wp")):
            yield words


def _four_byte(role: Role) -> str:
    """Of a table's 1024 gptes, 512 fit in a page of level 1 and 256 in one of level 2, two sptes for each
    (kvm_mmu_get_child_sp, kvm_mmu_child_role)."""
    if role.level not in (1, 2) or role.direct:
        return "4-byte gptes"
    gptes = 512 if role.level == 1 else 256
    first = gptes * role.quadrant
    return f"quadrant {role.quadrant}: 4-byte gptes {first}–{first + gptes - 1}"


def page_state(page: ShadowPage, snapshot: Snapshot) -> dict[str, str]:
    """What can change while the page lives, by field; fields that say nothing out of the ordinary are left out."""
    found = {}
    if page.root_count:
        found["root_count"] = f"root_count {page.root_count}"
    if page.tdp_mmu_root_count:
        found["tdp_mmu_root_count"] = f"tdp_mmu_root_count {page.tdp_mmu_root_count}"
    if page.role.invalid:
        found["invalid"] = "invalid"
    if page.mmu_valid_gen is not None and page.mmu_valid_gen != snapshot.mmu_valid_gen:
        found["obsolete"] = f"obsolete: generation {page.mmu_valid_gen}, VM {snapshot.mmu_valid_gen}"
    if page.unsync:
        found["unsync"] = "unsync"
    if page.unsync_children or page.unsync_child_bitmap:
        where = ", ".join(map(str, page.unsync_child_bitmap[:4])) + (
            ", …" if len(page.unsync_child_bitmap) > 4 else ""
        )
        found["unsync_children"] = f"unsync_children {page.unsync_children}: [{where}]"
    if page.write_flooding_count:
        found["write_flooding_count"] = f"write_flooding_count {page.write_flooding_count}"
    if page.nx_huge_page_disallowed:
        found["nx_huge_page_disallowed"] = "nx_huge_page_disallowed"
    if page.tdp_mmu_scheduled_root_to_zap:
        found["scheduled"] = "scheduled to be zapped"
    if page.listed == "vcpu":
        found["listed"] = "on no list, still loaded"
    return found


def entry_words(meaning: Meaning, count: int, snapshot: Snapshot) -> str:
    """What ``count`` entries in a row say, the first of which is ``meaning``; not where a table is."""
    spte = meaning.spte
    if meaning.kind is Kind.TABLE:
        return access_words(spte)
    if meaning.kind is Kind.LEAF:
        gfn = meaning.gfn or 0
        frames = hexadecimal(gfn, gfn + count * span(spte.level) - 1)
        return f"{SIZES.get(spte.level, '')}gfn {frames} {access_words(spte)}{_protection(spte)}"
    if meaning.kind is Kind.MMIO:
        frames = hexadecimal(spte.mmio_gfn, spte.mmio_gfn + count - 1)
        fresh = any(spte.mmio_generation == g & MMIO_GENERATION for g in snapshot.memslot_generation)
        return f"MMIO gfn {frames} generation {spte.mmio_generation}{'' if fresh else ' (old)'}"
    if meaning.kind is Kind.FROZEN:
        return "frozen"
    return hexadecimal(spte.raw)


def access_words(spte: Spte) -> str:
    """``rwxu AD``, as `Spte` spells it; entries of EPT know no user."""
    flags = [("r", spte.readable), ("w", spte.writable), ("x", spte.executable)]
    if spte.format is SpteFormat.PAGING:
        flags.append(("u", spte.user))
    used = [("A", spte.accessed), ("D", spte.dirty)]
    return " ".join("".join(letter if on else "-" for letter, on in some) for some in (flags, used))


def _protection(spte: Spte) -> str:
    """Why a leaf is not writable (HOST_WRITABLE and MMU_WRITABLE of spte.h)."""
    if spte.writable:
        return ""
    if not spte.host_writable:
        return " host-ro"
    return "" if spte.mmu_writable else " wp"


def vcpu_words(vcpu: Vcpu) -> Iterator[str]:
    """The state of a vCPU that decides which root it uses."""
    yield _paging(vcpu)
    if not vcpu.cr0 & CR0_WP:
        yield "CR0.WP clear"
    if vcpu.guest_mode:
        yield "runs a nested guest"
    if vcpu.smm:
        yield "in SMM"


def _paging(vcpu: Vcpu) -> str:
    if not vcpu.cr0 & CR0_PG:
        return "paging off"
    if vcpu.efer & EFER_LMA:
        return "5-level paging" if vcpu.cr4 & CR4_LA57 else "4-level paging"
    return "PAE paging" if vcpu.cr4 & CR4_PAE else "32-bit paging"


def wrapped(words: Iterable[str], width: int) -> tuple[str, ...]:
    """Words with commas between them, in lines of at most ``width`` characters where they fit at all."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) + 3 <= width:
            lines[-1] += f", {word}"
        else:
            lines.append(word)
    return tuple(line + "," for line in lines[:-1]) + tuple(lines[-1:])

"""Structs taken apart: bit-fields, unions, conditions, macros."""

from __future__ import annotations

import pytest

from mmuspec.audit.members import STRUCT, UNION, Member, Struct, find_struct
from mmuspec.errors import Problem
from tests.audit.tree import HEADER, HOST, PAGE_STRUCT, ROLE_UNION


def struct(text: str, name: str = "thing", kind: str = STRUCT) -> Struct:
    return find_struct({"a.h": text.encode()}, name, kind=kind)


def members(text: str) -> dict[str, Member]:
    return {member.name: member for member in struct(f"struct thing {{\n{text}\n}};\n").members}


def test_a_page() -> None:
    page = find_struct({HOST: ROLE_UNION.encode(), HEADER: PAGE_STRUCT.encode()}, "kvm_mmu_page")
    assert (page.path, page.line) == (HEADER, 2)
    assert [m.name for m in page.members] == (
        "link role gfn spt shadowed_translation root_count tdp_mmu_root_count unsync_child_bitmap "
        "clear_spte_count rcu_head"
    ).split()
    by_name = {m.name: m for m in page.members}
    assert by_name["link"].line == 3
    assert by_name["role"].kind == "union kvm_mmu_page_role"
    assert by_name["root_count"].union == by_name["tdp_mmu_root_count"].union != by_name["gfn"].union


def test_a_role_has_widths_and_its_padding_no_name() -> None:
    role = struct(ROLE_UNION, "kvm_mmu_page_role", UNION)
    assert [(m.name, m.bits) for m in role.members] == [
        ("word", None),
        ("level", 4),
        ("quadrant", 2),
        ("smm", 8),
    ]


def test_both_branches_of_a_condition() -> None:
    found = members("#ifdef A\nint a;\n#else\nint b;\n#endif\n#ifndef C\nint c;\n#endif\nint d;")
    assert {name: m.conditions for name, m in found.items()} == {
        "a": ("A",),
        "b": ("!A",),
        "c": ("!C",),
        "d": (),
    }


def test_conditions_inside_each_other() -> None:
    found = members("#ifdef A\nint a;\n#if defined(B) && C > 1\nint b;\n#endif\n#endif")
    assert found["a"].conditions == ("A",)
    assert found["b"].conditions == ("A", "defined(B) && C > 1")


def test_unions_have_numbers_of_their_own() -> None:
    found = members("union { int a; int b; };\nunion { int c; struct { int d; int e; }; };\nint f;")
    assert found["a"].union == found["b"].union
    assert found["c"].union == found["d"].union == found["e"].union
    assert len({found[name].union for name in "acf"}) == 3


def test_declarators() -> None:
    found = members("u64 *a, **b;\nint c[4][5];\nvoid (*d)(int x);\nDECLARE_BITMAP(e, 512);\nint f : 3;")
    assert set(found) == set("abcdef")
    assert found["f"].bits == 3


def test_annotations_of_the_kernel_do_not_hide_members() -> None:
    found = members("u64 __rcu *a;\ntdp_ptep_t b;\nstruct hlist_node c;")
    assert set(found) == set("abc")


def test_a_forward_declaration_is_no_definition() -> None:
    text = "struct thing;\nstruct thing *other(void);\nstruct thing { int a; };\n"
    assert struct(text).line == 3


def test_no_such_struct() -> None:
    with pytest.raises(Problem, match="no header here defines thing"):
        struct("struct other { int a; };\n")

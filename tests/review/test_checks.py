"""What is looked for in new text: contradictions, figures, names, references."""

from __future__ import annotations

import pytest

from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.kvm.mmu import KVM_MMU_NUM_PREV_ROOTS
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.spte import MMIO_SPTE_GEN_HIGH_BITS, MMIO_SPTE_GEN_LOW_BITS
from mmu_model.kvm.types import SPTE_LEVEL_BITS
from mmu_model.kvm.zap_all import next_generation
from mmu_model.snapshot.role import ROLE_BITS
from mmu_model.tdp.root import REFERENCES_OF_A_NEW_ROOT
from mmuspec.extract import extract
from mmuspec.review.contradictions import contradictions
from mmuspec.review.data import data
from mmuspec.review.figures import wrong_figures
from mmuspec.review.names import Names
from mmuspec.review.references import missing_files, missing_sections
from tests.review.scene import PAGE

DOCUMENT, _ = extract(PAGE, "page.rst")


class TestContradictions:
    @pytest.mark.parametrize(
        "sentence",
        [
            "Set if trays are 3-wide (X.W=1) on top of 2-wide ones (X.W=1).",
            "The value is '1' if the page is full, '1' if it is empty.",
            "A page with A.B=1, and so A.B=0, is used.",
        ],
    )
    def test_found(self, sentence: str) -> None:
        assert len(list(contradictions(sentence))) == 1

    @pytest.mark.parametrize(
        "sentence",
        [
            "Set if trays are 3-wide (X.W=1) on top of 2-wide ones (X.W=0).",
            "Both 3-wide trays (X.W=1) and the 3-wide frames (X.W=1) are used.",
            "The value is '0' if the page is full, '1' if it is empty.",
            "If A.B=1 it is kept, if A.B=0 it goes.",
            "The 4-level tower has 512-entry pages (A.B=1) and 9-bit steps (A.B=1).",
        ],
    )
    def test_not_found(self, sentence: str) -> None:
        assert list(contradictions(sentence)) == []


class TestFigures:
    @pytest.mark.parametrize(
        ("names", "text", "right"),
        [
            ((), "A shadow page contains 256 sptes.", "512"),
            (("role.direct",), "The size is 1GB for first level, 1GB for second level.", "2MB"),
            (("role.direct",), "It is 0.25TB for third level.", "512GB"),
            (("role.level",), "1=4k sptes, 2=4M sptes, 3=1G sptes", "2M"),
            (("role.quadrant",), "It takes values in the range 0..7.", "3 at most"),
            (("role.quadrant",), "Each quadrant maps 4GB virtual address space.", "1GB or 2MB"),
            (("role.access",), "The field is 4 bits wide.", "3 bits"),
            (("role.smm",), "Is 256 if SMM is on.", "8 bits"),
            (("role.invalid",), "Set role.invalid=2 for such pages.", "1 bit"),
            ((), "The generation fits in 18 bits.", "19"),
            (("mmu_valid_gen",), "The MMU generation is only ever '0' or '2'.", "1, not 2"),
            (("tdp_mmu_root_count",), "It is initialized to 1 for a new root.", "2, not 1"),
            ((), "A vCPU remembers four previous roots.", "3, not four"),
            ((), "Guests with 4-level paging (CR4.LA57=1) run.", "5-level"),
        ],
    )
    def test_wrong(self, names: tuple[str, ...], text: str, right: str) -> None:
        (message,) = wrong_figures(text, names)
        assert right in message

    @pytest.mark.parametrize(
        ("names", "text"),
        [
            ((), "A shadow page contains 512 sptes."),
            ((), "Each 32-bit gpte becomes two 64-bit sptes."),
            (("role.direct",), "256TB for fourth level, 0.5TB for third level, 1GB for second level, 2MB for first level"),
            (("role.level",), "1=4k sptes, 2=2M sptes, 3=1G sptes"),
            (("role.quadrant",), "It takes values in the range 0..3 under 32-bit guests."),
            (("clear_spte_count",), "Only there on 32-bit hosts, where 64 bits are two words."),
            ((), "Guests with 5-level paging (CR4.LA57=1) and 4-level (CR4.LA57=0) run."),
            ((), "The box has 18 bits of wood."),
        ],
    )  # fmt: skip
    def test_right(self, names: tuple[str, ...], text: str) -> None:
        assert list(wrong_figures(text, names)) == []

    def test_the_widths_are_those_of_the_model(self) -> None:
        widths = {name: bits for name, bits in data("figures")["widths"].items() if name.startswith("role.")}
        assert widths == {f"role.{name}": bits for name, _, bits in ROLE_BITS}

    def test_the_figures_are_those_of_the_model(self) -> None:
        known = {figure["id"]: figure["is"] for figure in data("figures")["figures"]}
        entries = 1 << SPTE_LEVEL_BITS
        assert known["sptes-per-page"] == known["gptes-per-quadrant"] == [str(entries)]
        assert known["mmio-generation-bits"] == [str(MMIO_SPTE_GEN_LOW_BITS + MMIO_SPTE_GEN_HIGH_BITS)]
        assert known["highest-mmu-generation"] == [str(max(next_generation(0), next_generation(1)))]
        assert known["previous-roots"] == [str(KVM_MMU_NUM_PREV_ROOTS)]
        assert known["references-of-a-new-tdp-root"] == [str(REFERENCES_OF_A_NEW_ROOT)]
        levels = dict(zip(known["page-of-a-level"].values(), known["range-of-a-level"].values(), strict=True))
        assert {_bytes(page): _bytes(reach) for page, reach in levels.items()} == {
            (1 << PAGE_SHIFT) * entries**level: (1 << PAGE_SHIFT) * entries ** (level + 1)
            for level in range(5)
        }

    def test_every_member_of_the_model_is_a_known_name(self) -> None:
        known = set(data("names")["members"]["kvm_mmu_page"].split())
        members = {name for name, thing in vars(KvmMmuPage).items() if isinstance(thing, property)}
        assert {"mmu_valid_gen", "tdp_mmu_root_count", "ptep"} <= members & known
        roles = {name for name, _, _ in ROLE_BITS}
        assert roles < set(data("names")["members"]["kvm_mmu_page_role"].split())


def _bytes(size: str) -> int:
    digits = "".join(filter(str.isdigit, size))
    unit = size[len(digits)].upper()
    return int(digits) << 10 * (" KMGTP".index(unit))


class TestNames:
    @pytest.mark.parametrize(
        ("text", "unknown", "near"),
        [
            ("See role.leval for that.", "role.leval", "role.level"),
            ("It hangs in parent_pte.", "parent_pte", "parent_ptes"),
            ("KVM calls kvm_mmu_zap_al() then.", "kvm_mmu_zap_al", "kvm_mmu_zap_all"),
            ("The sp->xylophone_count is used.", "xylophone_count", ""),
        ],
    )
    def test_unknown(self, text: str, unknown: str, near: str) -> None:
        assert list(Names(DOCUMENT).unknown(text)) == [(unknown, near)]

    @pytest.mark.parametrize(
        "text",
        [
            "See role.level and root_count.",
            "CR4.LA57, efer.nx and cr0.wp are registers.",
            "paging_tmpl.h and Documentation/virt/kvm/x86/mmu.rst are files.",
            "sp1->spt[n] may point at __pa(sp2->spt), i.e. elsewhere.",
            "e.g. mmu_lock",
        ],
    )
    def test_known(self, text: str) -> None:
        assert list(Names(DOCUMENT).unknown(text)) == []

    def test_a_tree_knows_more(self) -> None:
        names = Names(DOCUMENT, in_tree=lambda name: name == "xylophone_count")
        assert list(names.unknown("xylophone_count and xylophone_size")) == [("xylophone_size", "")]


class TestReferences:
    def test_a_section_that_is_there(self) -> None:
        assert list(missing_sections('See "Reverse map" below.', DOCUMENT)) == []
        assert list(missing_sections('He said "whatever you like" and left.', DOCUMENT)) == []

    def test_a_section_that_is_not(self) -> None:
        (message,) = missing_sections('See "Reverse maps" below.', DOCUMENT)
        assert 'did you mean "Reverse map"?' in message

    def test_files(self) -> None:
        text = "See Documentation/a.rst and arch/x86/kvm/b.c."
        assert list(missing_files(text, None)) == []
        (message,) = missing_files(text, lambda path: path.endswith(".rst"))
        assert "arch/x86/kvm/b.c" in message

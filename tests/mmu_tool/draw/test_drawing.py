"""What a drawing shows, in its words and in its shapes; well-formed, the same each time, bounded in size."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.live.predicate import children, with_entry, with_page
from conformance.pictures import NEWEST
from conformance.scenes import guest
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import Gfn, Kind, MmuKind, PageId, Snapshot, Spte, SpteAt, Word, canonical
from mmu_model.snapshot.role import RoleWord
from mmu_tool.draw import Drawing, draw, drawings
from mmu_tool.draw.compose import compose
from mmu_tool.draw.layout import Box, lay_out
from mmu_tool.draw.match import step
from tests.mmu_tool.draw.states import crowd, moment, recorded

SVG = "{http://www.w3.org/2000/svg}"


def classes(drawing: Drawing, tag: str) -> Counter[str]:
    root = ElementTree.fromstring(drawing.svg)
    return Counter(name for each in root.iter(SVG + tag) for name in each.get("class", "").split())


def words(drawing: Drawing) -> list[str]:
    root = ElementTree.fromstring(drawing.svg)
    return [each.text or "" for each in root.iter(SVG + "text")]


def test_each_link_of_a_small_state_is_drawn_and_points_back() -> None:
    state = moment("unsync", "in-sync-through-another-root")
    roots = 2  # the root in use, and one remembered
    drawing = draw(state)

    links = len(list(children(state)))
    assert links > 8
    assert classes(drawing, "path")["link"] == links + roots
    assert classes(drawing, "circle")["back"] == links


def test_the_words_say_what_the_shapes_show() -> None:
    text = draw(moment("quadrants", "four-quadrants")).text

    for quadrant in range(4):
        first = 256 * quadrant
        assert f"quadrant {quadrant}: 4-byte gptes {first}–{first + 255}" in text
        assert f"- new: pae_root[{quadrant}] → " not in text
        assert f"  - pae_root[{quadrant}] → " in text
    assert "quadrant 1: 4-byte gptes 512–1023" in text
    assert "shadow pages 10" in text


def test_what_changed_is_marked_by_sign_shape_and_word() -> None:
    drawing = draw(moment("unsync", "two-children"), moment("unsync", "out-of-sync"))

    assert "~ unsync_children 2: [0, 1], was 1: [0]" in " ".join(words(drawing))
    assert "  - new: unsync" in drawing.text
    assert "  - changed: unsync_children 2: [0, 1], was 1: [0]" in drawing.text
    assert classes(drawing, "rect")["touched"] == 4  # the parent, the child, a leaf's page and the rmap
    assert classes(drawing, "text")["changed"] and classes(drawing, "text")["added"]
    assert "what changed since 'out-of-sync'" in " ".join(words(drawing))


def test_pages_that_came_and_went_are_marked() -> None:
    drawing = draw(moment("write-flooding", "flooded"), moment("write-flooding", "before"))

    assert classes(drawing, "rect")["gone"] >= 1
    assert "− gone" in words(drawing)
    assert "(gone)" in drawing.text


def test_without_a_step_before_nothing_is_marked() -> None:
    drawing = draw(moment("unsync", "two-children"))

    for tag in ("rect", "path", "text"):
        assert not {"added", "gone", "changed", "touched"} & set(classes(drawing, tag))
    assert "Compared" not in drawing.text


def test_equal_states_have_no_change() -> None:
    state = moment("unsync", "two-children")
    drawing = draw(state, state)

    assert not {"added", "gone", "changed", "touched"} & set(classes(drawing, "rect"))


def test_like_leaves_are_folded() -> None:
    """Sptes of one direct page that say the same of frames in a row."""
    text = draw(moment("dirty-log", "before", mmu="direct")).text

    assert "[70–71] gfn 0x46–0x47 rwxu -D" in text


def test_roots_generations_and_invalid_pages_are_told() -> None:
    text = draw(moment("delete-slot", "obsolete", "6.1", "direct")).text
    assert "obsolete: generation 0, VM 1" in text

    text = draw(moment("delete-slot", "obsolete", "6.1", "tdp")).text
    assert "invalid" in text and "tdp_mmu_root_count" in text


def test_an_old_mmio_generation_is_told() -> None:
    text = draw(moment("mmio", "renewed")).text

    assert "MMIO gfn 0xd0000 generation 6\n" in text
    assert "MMIO gfn 0xd0001 generation 4 (old)" in text


def test_a_link_without_a_way_back_is_marked() -> None:
    state = moment("unsync", "in-sync")
    child = next(page for page in state.pages if page.parent_ptes)
    broken = draw(with_page(state, replace(child, parent_ptes=())))

    assert "(unsound)" in broken.text and "×" in words(broken)
    assert "(unsound)" not in draw(state).text


def test_a_table_that_no_page_owns_is_marked() -> None:
    state = moment("unsync", "in-sync")
    page, index, _ = next(children(state))
    spte = page.sptes()[index].with_pfn(0xABCDE)

    assert "→ a table of no page (unsound)" in draw(with_page(state, with_entry(page, index, spte))).text


@pytest.mark.parametrize("pages", [60, 250])
def test_a_crowd_is_folded_into_a_picture_of_bounded_size(pages: int) -> None:
    state = crowd(pages)
    drawing, few = draw(state), draw(crowd(12))

    assert len(drawing.svg) < 30_000
    assert len(drawing.svg) < 2 * len(few.svg)
    width, height = map(float, ElementTree.fromstring(drawing.svg).attrib["viewBox"].split()[2:])
    assert width < 2000 and height < 2000
    counted = [int(line.split()[1]) for line in drawing.text.splitlines() if " more such pages" in line]
    singles = sum(line.startswith("- ") and "  gfn" in line for line in drawing.text.splitlines())
    assert sum(counted) + singles == len(state.pages), "no page is lost"


def test_a_crowd_that_changes_shows_the_page_that_changed() -> None:
    state = crowd(250)
    page = next(each for each in state.pages if each.gfn == Gfn(0x10A0))
    changed = with_page(state, replace(page, unsync=True))

    text = draw(changed, state).text

    assert "gfn 0x10a0" in text and "new: unsync" in text


def all_snapshots() -> list[tuple[Snapshot | None, Snapshot]]:
    found = []
    for name, mmu in (
        ("recycling", "shadow"),
        ("nested-smm", "direct"),
        ("nested-npt-passthrough", "tdp"),
        ("smm", "shadow"),
    ):
        snapshots = recorded(name, mmu=mmu).snapshots
        found += list(zip((None, *snapshots), snapshots, strict=False))
    return found


def test_no_two_cards_overlap_and_all_are_inside() -> None:
    for before, after in all_snapshots():
        layout = lay_out(compose(step(after, before), ""))
        for number, box in enumerate(layout.boxes):
            assert box.x + box.width <= layout.width and box.y + box.height <= layout.height
            assert not any(_overlap(box, other) for other in layout.boxes[number + 1 :])


def _overlap(one: Box, two: Box) -> bool:
    across = one.x < two.x + two.width and two.x < one.x + one.width
    return across and one.y < two.y + two.height and two.y < one.y + one.height


def test_the_same_state_gives_the_same_bytes() -> None:
    recording = recorded("previous-roots")

    assert list(drawings(recording)) == list(drawings(recording))


def test_it_is_accessible_and_follows_the_theme() -> None:
    drawing = draw(moment("unsync", "in-sync"), title="Unsync & <friends>")
    root = ElementTree.fromstring(drawing.svg)

    assert root.get("role") == "img"
    title, description = root.find(SVG + "title"), root.find(SVG + "desc")
    assert title is not None and description is not None
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "Unsync & <friends>"
    assert description.text == drawing.text
    assert "prefers-color-scheme:dark" in drawing.svg
    assert not list(root.iter(SVG + "script"))


HOSTILE = st.text(
    st.characters(codec="utf-8", exclude_categories=[]) | st.sampled_from("<>&\"'\0\x1b\u202e\ufffe")
)


@given(HOSTILE)
@settings(max_examples=50, deadline=None)
def test_whatever_a_snapshot_is_called_the_file_is_xml(name: str) -> None:
    state = replace(moment("four-level", "created", mmu="tdp"), name=name, kernel=name)
    drawing = draw(state, state, title=name)

    ElementTree.fromstring(drawing.svg)
    for text in (drawing.svg, drawing.text):
        assert not set(text) & set("\0\x1b\u202e\ufffe")


WORDS = st.integers(0, (1 << 64) - 1)
PLACES = st.builds(SpteAt, st.builds(PageId, st.integers(0, 99)), st.integers(-5, 600))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_state_that_no_kernel_has_is_drawn_all_the_same(data: st.DataObject) -> None:
    state = moment("unsync-32-bit", "out-of-sync")
    page = data.draw(st.sampled_from(state.pages))
    index = data.draw(st.sampled_from([entry.index for entry in page.entries] or [0]))
    changed = replace(
        page,
        role_word=RoleWord(data.draw(WORDS)),
        gfn=Gfn(data.draw(WORDS)),
        spt=data.draw(st.sampled_from([each.spt for each in state.pages])),
        parent_ptes=tuple(
            data.draw(
                st.lists(
                    st.builds(SpteAt, st.builds(PageId, st.integers(0, 99)), st.integers(-5, 600)), max_size=3
                )
            )
        ),
        ptep=data.draw(st.none() | st.just(SpteAt(PageId(77), -1))),
        root_count=data.draw(st.none() | st.integers(-9, 1 << 64)),
    )
    changed = with_entry(changed, index, Spte(Word(data.draw(WORDS)), 1))

    for drawing in (
        draw(with_page(state, changed)),
        draw(with_page(state, changed), state),
        draw(state, with_page(state, changed)),
    ):
        ElementTree.fromstring(drawing.svg)


def test_entries_in_a_row_that_lead_to_one_page_are_one_row() -> None:
    text = draw(moment("many-parents", "in-sync")).text

    assert any(line.startswith("  - [1–") and "rwxu A- → " in line for line in text.splitlines())


def test_links_of_pages_that_came_look_new() -> None:
    drawing = draw(moment("unsync", "in-sync-through-another-root"), moment("unsync", "all-in-sync"))

    assert classes(drawing, "path")["added"] >= 2 * classes(drawing, "rect")["added"] > 0


def test_entries_of_ept_are_read_as_such() -> None:
    scene = guest(NEWEST, MmuKind.TDP, tdp_format=TdpFormat.EPT)
    scene.reads(0x5000)
    text = draw(canonical(scene.vm.snapshot())).text

    assert "nested paging, TDP MMU (EPT);" in text
    assert "[5] gfn 0x5 rwx A" in text and "rwxu" not in text


def test_mmio_and_other_words_are_told_apart() -> None:
    kinds = {spte.kind for page in moment("mmio", "renewed").pages for spte in page.sptes().values()}

    assert kinds == {Kind.LEAF, Kind.TABLE, Kind.MMIO}

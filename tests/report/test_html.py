"""The page, read back: its structure, its marks, its filter, and that it needs nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest

from mmuspec.gaps import Gap, GapKind
from mmuspec.merge import bare
from mmuspec.report import build
from mmuspec.report.build import Aside
from mmuspec.report.code import Code
from mmuspec.report.html import page
from mmuspec.report.links import Links
from mmuspec.report.marks import MARKS
from mmuspec.results import Test
from mmuspec.status import Status
from mmuspec.text import fold
from tests.mmuspec.gadget import GADGET
from tests.report import scene
from tests.report.tree import Element, read

DOCUMENT = scene.gadget()
SPEC = scene.gadget_spec(DOCUMENT)
RUN = scene.gadget_run(SPEC)
TEXT = page(build(SPEC, RUN, DOCUMENT))
PAGE = read(TEXT)
BODY = PAGE.one(class_="document")
STYLE = PAGE.one("style").text


def statement(item: str, number: int = 0) -> Element:
    return PAGE.one(id=scene.find(SPEC, item, number))


def own_words(part: Element) -> str:
    """What a reader of the document reads: all but the folded knowledge."""
    return "".join(
        child if isinstance(child, str) else own_words(child)
        for child in part.children
        if isinstance(child, str) or child.tag != "details"
    )


def test_every_statement_is_there_once_and_in_order() -> None:
    ids = [each.attributes["id"] for each in BODY.all(class_="statement") if "id" in each.attributes]

    assert ids == scene.statement_ids(SPEC)


def test_every_statement_has_one_place_where_its_knowledge_unfolds() -> None:
    names = [each.one("a", class_="id").text for each in BODY.all("details", class_="known")]

    assert names == scene.statement_ids(SPEC)


def test_no_id_is_given_twice() -> None:
    ids = [each.attributes["id"] for each in PAGE.all() if "id" in each.attributes]

    assert len(ids) == len(set(ids))
    assert not [name for name in ids if re.search(r"\s", name)]


def test_every_link_leads_to_a_place_in_the_page() -> None:
    ids = {each.attributes.get("id") for each in PAGE.all()}
    targets = [each.attributes["href"] for each in PAGE.all("a")]

    assert targets
    assert all(target.startswith("#") and unquote(target[1:]) in ids for target in targets)


def test_the_document_keeps_its_headings() -> None:
    headings = [(each.tag, each.text) for each in BODY.all() if re.fullmatch("h[1-6]", each.tag)]

    assert headings == [("h1", "The gadget cache"), ("h2", "Acronyms"), ("h2", "Slots"), ("h2", "Events")]


def test_no_word_of_the_document_is_lost_or_doubled() -> None:
    in_cards = {id(inner) for card in BODY.all(class_="card") for inner in card.all()}
    holders = [*BODY.all(class_="text"), *BODY.all(class_="verbatim")]
    holders += [*BODY.all("dt"), *BODY.all("h1"), *BODY.all("h2")]
    shown = [own_words(each) for each in holders if id(each) not in in_cards]
    written = "The gadget cache" + GADGET.partition("gadget cache\n====")[2]

    assert sorted(re.findall(r"\w+", " ".join(shown))) == sorted(re.findall(r"\w+", written))


def test_fields_are_a_definition_list_and_can_be_linked_to() -> None:
    terms = {each.attributes["id"]: fold(each.text) for each in BODY.all("dt") if "id" in each.attributes}

    assert terms == {
        "state.level": "state.level:",
        "state.kind": "state.kind:",
        "use_count": "use_count / tower_use_count:",
        "owner": "owner:",
    }


def test_a_table_row_is_one_statement_over_two_cells() -> None:
    row = next(each for each in BODY.all("tr") if "gdt" in own_words(each))
    cells = [fold(own_words(cell)).rstrip("\u2060") for cell in row.all("td")]

    assert cells == ["gdt", "gadget, turning"]
    assert len([*row.all(class_="statement")]) == 2
    assert len([*row.all("details", class_="known")]) == 1


def test_a_literal_block_keeps_its_columns_and_marks_each_line() -> None:
    block = next(BODY.all(class_="verbatim"))

    assert "empty:        nothing\n" in own_words(block)
    assert [fold(own_words(each)) for each in block.all(class_="statement")] == [
        "empty: nothing",
        "full, hot: (key->)gadget",
        "shared: key->gadget (*)",
        "(*) the sharer counts the key->gadget pairs if nobody else does",
    ]


def test_sub_bullets_are_nested() -> None:
    outer = next(each for each in BODY.all("li") if own_words(each).strip().startswith("a move"))

    assert [fold(own_words(each)) for each in outer.all("li")] == ["to another slot", "out of the tower (*)"]


def test_inline_markup_is_shown_not_spelt_out() -> None:
    document = scene.document_of(
        "A\n=\n\nRead ``a.b`` with *care*, **never** :c:func:`twice`.  Then `go on <x>`_ home.\n"
    )
    text = read(page(build(bare(document), None, document))).one(class_="document").one(class_="text")

    assert fold(own_words(text)) == "Read a.b with care, never twice. Then go on home."
    assert [(e.tag, e.text) for e in text.all() if e.tag in ("code", "em", "strong")][:4] == [
        ("code", "a.b"),
        ("em", "care"),
        ("strong", "never"),
        ("code", "twice"),
    ]


def test_a_card_tells_all() -> None:
    told = fold(statement("use_count").one("details").text)

    for fact in (
        "No, it counts owners.",
        "wrong; 6.1: holds; 6.12: wrong",
        "Since 5.19.",
        f"passed {scene.T}count (refutes)",
        "counts_users killed by test_count",  # named in full above
    ):
        assert fact in told
    assert "live 6.12 recordings/6.12/levels.json" in fold(statement("state.level").text)
    assert "sizes_are_lost killed by no test in these results" in fold(statement("state.level", 1).text)
    assert f"failed {scene.T}kind" in fold(statement("state.kind").text)


def test_each_status_has_a_sign_a_name_and_a_line_of_its_own() -> None:
    assert len({mark.sign for mark in MARKS.values()}) == len(Status)
    strokes = dict(re.findall(r'^\[data-status="(\w+)"\] \{[^}]*--stroke: (\w+);', STYLE, re.MULTILINE))
    assert set(strokes) == {status.value for status in Status}
    assert len(set(strokes.values())) == len(Status)
    for each in BODY.all(class_="statement"):
        for summary in each.all("summary"):
            status = Status(each.attributes["data-status"])
            assert summary.one(class_="sign").text == MARKS[status].sign
            assert summary.one(class_="label").text.strip() == status.value


def test_the_filter_is_the_totals_and_works_without_a_script() -> None:
    form = PAGE.one("form", class_="filter")
    shown = {each.attributes["value"]: each for each in form.all("input", type="radio", name="status")}
    totals = build(SPEC, RUN, DOCUMENT).totals

    assert [*shown] == ["all", *(status.value for status in Status)]
    assert "checked" in shown["all"].attributes
    for status in Status:
        label = form.one("label", data_status=status.value)
        assert label.one("b").text == str(totals[status])
        assert ("disabled" in shown[status.value].attributes) == (totals[status] == 0)
        for kept in (".part", ".chapter", ".document .statement"):
            assert re.search(
                rf':root:has\(\.filter \[value="{status}"\]:checked\) {re.escape(kept)}:not', STYLE
            )


def test_totals_by_section_are_those_of_the_report() -> None:
    rows = [[cell.text for cell in row.children if isinstance(cell, Element)] for row in _totals().all("tr")]

    for chapter, row in zip(build(SPEC, RUN, DOCUMENT).chapters, rows[1:-1], strict=True):
        assert row[:2] == [chapter.title, str(len(chapter.dossiers))]
        assert row[2:] == [str(chapter.totals[status]) for status in Status]


def _totals() -> Element:
    return PAGE.one(class_="overview").one("table")


def test_the_page_asks_the_network_for_nothing() -> None:
    assert not [*PAGE.all("link"), *PAGE.all("img"), *PAGE.all("iframe"), *PAGE.all("object")]
    assert not [each for each in PAGE.all() if "src" in each.attributes or "style" in each.attributes]
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert "//" not in re.sub(r"^ *//.*$", "", PAGE.one("script").text, flags=re.MULTILINE)
    policy = PAGE.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_obsolete_statements_are_folded_at_the_end() -> None:
    obsolete = PAGE.one("details", class_="obsolete")

    assert "open" not in obsolete.attributes
    assert fold(obsolete.one("summary").text) == "Statements that the document no longer has 1"
    assert "Last seen in Linux 6.1" in obsolete.text
    assert TEXT.index("page:obsolete") > TEXT.index(scene.statement_ids(SPEC)[-1])


def test_claims_stand_in_for_words_that_are_not_at_hand() -> None:
    bare_page = read(page(build(SPEC, None)))
    known = bare_page.one(id=scene.find(SPEC, "state.level"))
    unknown = bare_page.one(id=scene.find(SPEC, "state.kind", 1))

    assert known.one(class_="stand-in").text == "It has a level."
    assert scene.find(SPEC, "state.kind", 1) in unknown.one(class_="stand-in").text
    assert [n.text[:19] for n in bare_page.all(class_="notice")] == [
        "No document at hand",
        "No test results at ",
    ]


def test_headings_never_skip_the_first_level() -> None:
    document = scene.document_of("Words before any heading.\n\nOne\n===\n\nA.\n\nTwo\n===\n\nB.\n")
    tags = [
        each.tag
        for each in read(page(build(bare(document), None, document))).all()
        if re.fullmatch("h[1-6]", each.tag)
    ]

    assert tags[0] == "h1"
    assert tags.count("h1") == 1


COLOUR = re.compile(r"--(\w+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)")


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "quiet", "link", "drift", *Status])
def test_contrast_is_at_least_four_and_a_half(name: str, theme: int) -> None:
    colours = {key: (light, dark)[theme] for key, light, dark in COLOUR.findall(STYLE)}
    for ground in ("paper", "raised"):
        brighter, darker = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
        assert (brighter + 0.05) / (darker + 0.05) >= 4.5


def test_what_is_not_of_one_age_is_marked_sentence_by_sentence() -> None:
    words = {statement.digest: statement.text for statement in DOCUMENT.statements}
    other = scene.document_of(
        GADGET.replace("use_count counts users.", "use_count counts all users.  Quite unheard of before."),
        "6.13",
    )
    outrun = replace(
        RUN,
        statements=tuple(
            replace(each, digest="0" * 16) if each.id == scene.find(SPEC, "state.level") else each
            for each in RUN.statements
        ),
    )
    body = read(page(build(SPEC, outrun, other, aside=Aside(words_of=words.get)))).one(class_="document")
    marked = {
        each.attributes["data-drift"]: each
        for each in body.all(class_="statement")
        if "data-drift" in each.attributes
    }

    assert {drift: each.attributes["id"] for drift, each in marked.items()} == {
        "reworded": scene.find(SPEC, "use_count"),
        "untested words": scene.find(SPEC, "state.level"),
    }
    assert fold(own_words(marked["reworded"])).startswith("use_count counts all users.")
    assert "They are refuted: use_count counts users." in fold(marked["reworded"].text)
    assert "counts for nothing until they run again" in fold(marked["untested words"].text)
    assert all(
        each.one(class_="sign").text == "≠" for mark in marked.values() for each in mark.all("summary")
    )
    assert fold(body.one(class_="stranger").text) == "Quite unheard of before.≠ (not in the spec)"


def test_links_lead_to_source_lines_where_there_are_any() -> None:
    root = Path(__file__).parents[2]
    nodeid = f"tests/report/test_html.py::{test_links_lead_to_source_lines_where_there_are_any.__name__}"
    name = scene.find(SPEC, "state.level")
    tests = (Test(nodeid, "passed"), Test("nowhere.py::test_x", "passed"))
    run = replace(
        RUN,
        statements=tuple(replace(each, tests=tests) if each.id == name else each for each in RUN.statements),
    )
    report = build(SPEC, run, DOCUMENT, aside=Aside(code=Code(root)))
    card = read(page(report, Links(root, root / "build" / "report"))).one(id=name).one(class_="card")
    links = {each.text: each.attributes["href"] for each in card.all("a", class_="path")}

    path, _, line = links[nodeid].partition("#L")
    assert path == "../../tests/report/test_html.py"
    assert nodeid.partition("::")[2] in (root / path[6:]).read_text().splitlines()[int(line) - 1]
    assert "nowhere.py::test_x" not in links
    assert "nowhere.py::test_x" in card.text


def test_the_overview_says_what_is_missing_what_differs_and_what_is_new() -> None:
    gap = Gap("rcu_head", GapKind.FIELD, "Slots", "What it is for.", "a.c, f", ("6.12",))
    gone = replace(RUN.statements[0], id="gone/by-now")
    aside = Aside(gaps=(gap,), baseline=replace(build(SPEC, RUN, DOCUMENT).results, statements=(gone,)))
    tree = read(page(build(SPEC, RUN, DOCUMENT, aside=aside)))

    assert "rcu_head Slots; 6.12 only" in fold(tree.one(id="page:gaps").text)
    kernels = tree.one(id="page:kernels")
    assert [each.text for each in kernels.all("a")] == [
        scene.find(SPEC, "state.level"),
        scene.find(SPEC, "use_count"),
    ]
    assert "gone gone/by-now" in fold(tree.one(id="page:changes").text)
    assert not [*PAGE.all(id="page:gaps"), *PAGE.all(id="page:changes")]
    wrong = [fold(each.one("a").text) for each in PAGE.one(id="page:wrong").all("li")]
    assert wrong == ["If set, the slot is one of gdt.h's (see below)", "use_count counts users."]


def test_signs_follow_their_words_at_once() -> None:
    """A space between the two would let a line begin with a sign."""
    for each in BODY.all(class_="statement"):
        for before, after in pairwise(each.children):
            if isinstance(after, Element) and after.tag == "details":
                assert isinstance(before, Element)
                assert before.fits("span", {"class": "words"})

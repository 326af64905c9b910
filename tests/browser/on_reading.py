"""Reading: what a click opens, what an address names, what is left without a script and on paper."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

from playwright.sync_api import expect

from mmuspec.results import DEFAULT
from tests.browser.conftest import ROOT, Visit
from tests.browser.places import SPEC, address, card, ending, id_of, opened, shown, summary, words
from tests.report import scene


def test_a_click_on_words_opens_what_is_known_and_another_closes_it(gadget: Path, visit: Visit) -> None:
    page, statement = visit(gadget), id_of("use_count")

    words(page, statement).click()
    expect(card(page, statement)).to_be_visible()
    assert ending(page) == address(statement)

    words(page, statement).click()
    expect(card(page, statement)).to_be_hidden()
    assert ending(page) == ""


def test_the_sign_opens_it_too_and_one_is_open_at_a_time(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)

    summary(page, id_of("use_count")).click()
    words(page, id_of("state.level")).click()

    assert opened(page) == [id_of("state.level")]


def test_an_address_opens_what_it_names_where_it_can_be_seen(gadget: Path, visit: Visit) -> None:
    page, statement = visit(gadget, address(id_of("owner")), height=400), id_of("owner")

    expect(card(page, statement)).to_be_visible()
    expect(words(page, statement)).to_be_in_viewport()


def test_a_row_of_a_table_opens_from_each_of_its_cells(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)
    cells = page.locator(".document tr .statement")
    row = cells.first.get_attribute("data-of")
    assert row and cells.nth(1).get_attribute("data-of") == row

    cells.first.locator(".words").click()

    assert opened(page) == [row]


def test_back_and_forth_go_through_what_was_open(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)
    words(page, id_of("use_count")).click()
    words(page, id_of("owner")).click()

    page.go_back()
    assert opened(page) == [id_of("use_count")]
    page.go_back()
    assert opened(page) == []
    page.go_forward()
    assert opened(page) == [id_of("use_count")]


def test_a_link_from_the_overview_opens_its_statement(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)

    page.locator(".topic[id='page:wrong'] a").first.press("Enter")

    expect(card(page, id_of("state.kind"))).to_be_visible()  # what fails comes first


def test_the_contents_say_where_one_is(gadget: Path, visit: Visit) -> None:
    page = visit(gadget, height=300)

    page.locator(".contents").get_by_role("link", name="Events").click()

    expect(page.locator(".contents [aria-current]")).to_have_text("Events")
    expect(page.get_by_role("heading", name="Events")).to_be_in_viewport()


def test_marking_text_opens_nothing(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)
    box = words(page, id_of("use_count")).bounding_box()
    assert box

    page.mouse.move(box["x"] + 3, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 8)
    page.mouse.up()

    assert opened(page) == []


def test_beside_the_document_where_there_is_room_and_below_the_sentence_where_not(
    gadget: Path, visit: Visit
) -> None:
    statement = id_of("use_count")
    wide, narrow = (visit(gadget, address(statement), width=width) for width in (1280, 768))

    document, beside = wide.locator("main").bounding_box(), card(wide, statement).bounding_box()
    assert document and beside and beside["x"] >= document["x"] + document["width"] - 1
    sentence, below = words(narrow, statement).bounding_box(), card(narrow, statement).bounding_box()
    assert sentence and below and below["y"] >= sentence["y"] + sentence["height"] - 1


def test_marks_are_named_when_they_are_looked_for(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)
    label = summary(page, id_of("use_count")).locator(".label")
    quiet = label.bounding_box()
    assert quiet and quiet["width"] <= 1

    page.get_by_role("button", name="Marks").click()

    named = label.bounding_box()
    assert named and named["width"] > 20


FUNCTIONS = """[...document.querySelectorAll('.card a.path[href*=".py#L"]')]
  .filter((link) => !/:\\d+$/.test(link.textContent)).map((link) => [link.textContent, link.getAttribute("href")])"""
"""Links to tests and violations; an assertion's line is that of the run, and the file may have changed since."""


def test_links_to_tests_and_violations_lead_to_their_lines(real: Path, visit: Visit) -> None:
    links: list[tuple[str, str]] = visit(real).evaluate(FUNCTIONS)
    if (ROOT / DEFAULT).exists():  # without results there is nothing to link to
        assert links
    for name, link in links:
        path, _, line = link.partition("#L")
        file = (real.parent / unquote(path)).resolve()
        assert file.is_relative_to(ROOT)
        assert f"def {name.rpartition('::')[2]}(" in file.read_text().splitlines()[int(line) - 1]


def test_without_a_script_all_can_be_read_unfolded_and_filtered(gadget: Path, visit: Visit) -> None:
    page, statement = visit(gadget, script=False), id_of("use_count")

    expect(page.locator(".document .words")).to_have_count(page.locator(".document .statement").count())
    expect(page.locator(".tools")).to_be_hidden()  # nothing is offered that does nothing
    summary(page, statement).click()
    expect(card(page, statement)).to_be_visible()
    page.get_by_role("radio", name="Refuted").check(force=True)
    expect(words(page, statement)).to_be_visible()
    expect(page.locator(".chapter", has_text="Acronyms")).to_be_hidden()


def test_without_a_script_an_address_still_leads_to_its_statement(gadget: Path, visit: Visit) -> None:
    page = visit(gadget, address(id_of("owner")), script=False, height=300)

    expect(words(page, id_of("owner"))).to_be_in_viewport()


def test_on_paper_every_mark_is_named_and_no_tool_is_left(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)

    page.emulate_media(media="print")

    expect(page.locator(".bar")).to_be_hidden()
    label = summary(page, id_of("use_count")).locator(".label").bounding_box()
    assert label and label["width"] > 20
    assert shown(page) == scene.statement_ids(SPEC)


def test_the_theme_follows_the_system_until_it_is_chosen(gadget: Path, visit: Visit) -> None:
    page = visit(gadget, theme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)

    page.get_by_role("button", name="Light or dark").click()
    light = page.evaluate(ground)
    page.reload()

    assert light != dark
    assert page.evaluate(ground) == light
    assert urlparse(page.url).scheme == "file"

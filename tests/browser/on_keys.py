"""The keyboard alone: from sentence to sentence, into search, into what is known and out again."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from tests.browser.conftest import Visit
from tests.browser.places import SPEC, address, card, ending, focused, id_of, opened, shown, words
from tests.report import scene

EVERYTHING = scene.statement_ids(SPEC)


def test_j_and_k_go_from_sentence_to_sentence(gadget: Path, visit: Visit) -> None:
    page = visit(gadget, "#page:document")
    page.keyboard.press("j")
    first = focused(page)
    assert first in EVERYTHING

    page.keyboard.press("j")
    assert focused(page) == EVERYTHING[EVERYTHING.index(first) + 1]
    page.keyboard.press("k")
    assert focused(page) == first
    for _ in EVERYTHING:
        page.keyboard.press("k")
    assert focused(page) == EVERYTHING[0]
    for _ in EVERYTHING:
        page.keyboard.press("j")
    assert focused(page) == EVERYTHING[-1]


def test_what_has_the_focus_can_be_seen(gadget: Path, visit: Visit) -> None:
    page = visit(gadget, height=400)

    for _ in EVERYTHING:
        page.keyboard.press("j")
        name = focused(page)
        assert name
        box, bar = words(page, name).bounding_box(), page.locator(".bar").bounding_box()
        assert box and bar and bar["height"] <= box["y"] <= 400


def test_only_what_the_filter_left_is_gone_through(gadget: Path, visit: Visit) -> None:
    page = visit(gadget, "?mmu=shadow")

    seen = []
    for _ in shown(page):
        page.keyboard.press("j")
        seen.append(focused(page))

    assert seen == shown(page)


def test_enter_opens_and_escape_closes_and_stays_there(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)
    page.keyboard.press("j")
    name = focused(page)
    assert name

    page.keyboard.press("Enter")
    expect(card(page, name)).to_be_visible()
    assert ending(page) == address(name)
    page.keyboard.press("Tab")
    assert focused(page) == name  # into the card, whose first link it is
    page.keyboard.press("Escape")
    expect(card(page, name)).to_be_hidden()
    assert ending(page) == ""
    assert focused(page) == name


def test_an_open_card_follows(gadget: Path, visit: Visit) -> None:
    page = visit(gadget, address(id_of("state.level")))
    page.locator(f'.statement[data-of="{id_of("state.level")}"] summary').focus()

    page.keyboard.press("j")

    assert opened(page) == [id_of("state.level", 1)]
    assert ending(page) == address(id_of("state.level", 1))
    page.keyboard.press("Escape")
    assert opened(page) == []


def test_slash_searches_enter_goes_to_the_first_hit_and_escape_leaves(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)

    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("users")
    page.keyboard.press("Enter")
    assert focused(page) == id_of("use_count")

    page.keyboard.press("/")
    page.keyboard.press("Escape")  # the browser's own way to empty a search
    page.keyboard.press("Escape")
    expect(page.get_by_role("searchbox")).not_to_be_focused()
    assert shown(page) == EVERYTHING


def test_letters_typed_into_the_search_are_text(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)
    page.keyboard.press("/")

    page.keyboard.type("jk?/m")

    expect(page.get_by_role("searchbox")).to_have_value("jk?/m")
    expect(page.locator("dialog")).to_be_hidden()


def test_a_question_mark_tells_the_keys_and_they_can_be_turned_off(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()

    dialog.get_by_label("Single keys do this").uncheck()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.keyboard.press("j")
    assert focused(page) is None
    page.reload()
    page.keyboard.press("j")
    assert focused(page) is None

    page.get_by_role("button", name="Keys").click()
    dialog.get_by_label("Single keys do this").check()
    dialog.get_by_role("button", name="Close").click()
    page.keyboard.press("j")
    assert focused(page)


def test_keys_with_a_modifier_are_the_browsers(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)

    page.keyboard.press("Alt+j")
    page.keyboard.press("Control+k")

    assert focused(page) is None


def test_tab_reaches_every_tool_and_the_first_statement(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
        if focused(page):
            break

    assert reached[0] == "skip"
    assert {"marks", "theme", "help", "INPUT", "SUMMARY"} <= set(reached)
    assert focused(page) == EVERYTHING[0]

"""Filters and search: what is left, and that the address says it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Visit
from tests.browser.places import SPEC, address, card, ending, id_of, opened, shown, words
from tests.report import scene

EVERYTHING = scene.statement_ids(SPEC)


def choose(page: Page, label: str, value: str) -> None:
    """Pick something in the menu."""
    page.locator(".menu > summary").click()
    page.get_by_role("combobox", name=label).select_option(value)
    page.locator("main").click(position={"x": 5, "y": 5})


@pytest.mark.parametrize(
    ("label", "value", "query", "left"),
    [
        ("Verdict", "wrong", "?verdict=wrong", ["use_count"]),
        ("MMU", "shadow", "?mmu=shadow", ["state.level", "state.kind"]),
        ("Evidence", "live", "?tier=live", ["state.level"]),
        ("Seen on", "6.12", "?kernel=6.12", ["state.level"]),
        ("Seen on", "6.1", "?kernel=6.1", []),
    ],
)
def test_each_filter_leaves_what_fits(
    gadget: Path, visit: Visit, label: str, value: str, query: str, left: list[str]
) -> None:
    page = visit(gadget)

    choose(page, label, value)

    assert {each.partition("/")[0] for each in shown(page)} == set(left)
    assert ending(page) == query
    expect(page.get_by_role("status")).to_have_text(f"{len(shown(page))} of {len(EVERYTHING)} statements")


def test_a_section_can_be_had_alone(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)

    choose(page, "Section", "Acronyms")

    assert shown(page) and all(each.startswith("acronyms") or "gdt" in each for each in shown(page))
    expect(page.locator(".chapter", has_text="Events").first).to_be_hidden()
    assert ending(page) == "?section=Acronyms"


def test_status_is_chosen_by_its_total(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)

    page.get_by_role("radio", name="Refuted").check(force=True)

    assert shown(page) == [id_of("use_count")]
    assert ending(page) == "?status=refuted"


def test_filters_add_up(gadget: Path, visit: Visit) -> None:
    page = visit(gadget, "?mmu=shadow&status=proven")
    assert shown(page) == [id_of("state.level")]

    assert shown(visit(gadget, "?tier=live&kernel=6.1")) == []
    assert shown(visit(gadget, "?tier=live&kernel=6.12")) == [id_of("state.level")]


def test_a_link_shows_what_its_sender_saw(gadget: Path, visit: Visit) -> None:
    sender = visit(gadget)
    choose(sender, "MMU", "shadow")
    words(sender, id_of("state.level")).click()

    reader = visit(gadget, ending(sender))

    assert shown(reader) == shown(sender) != EVERYTHING
    assert opened(reader) == opened(sender) == [id_of("state.level")]
    expect(card(reader, id_of("state.level"))).to_be_visible()
    expect(reader.locator(".menu .active")).to_have_text("1")


def test_back_takes_a_filter_off(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)
    page.get_by_role("radio", name="Refuted").check(force=True)
    choose(page, "Verdict", "wrong")

    page.go_back()
    assert ending(page) == "?status=refuted"
    page.go_back()

    assert shown(page) == EVERYTHING
    assert page.get_by_role("radio", name="All").is_checked()
    expect(page.get_by_role("status")).to_be_empty()


def test_clear_takes_all_off(gadget: Path, visit: Visit) -> None:
    page = visit(gadget, "?mmu=shadow&status=proven&q=level")

    page.locator(".menu > summary").click()
    page.get_by_role("button", name="Clear all").click()

    assert shown(page) == EVERYTHING
    assert ending(page) == ""


def test_a_statement_that_is_named_is_shown_whatever_the_filter(gadget: Path, visit: Visit) -> None:
    page = visit(gadget, "?status=proven" + address(id_of("owner")))

    expect(card(page, id_of("owner"))).to_be_visible()
    assert ending(page) == address(id_of("owner"))


def test_search_finds_words_claims_and_ids(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)
    box = page.get_by_role("searchbox")

    for query, found in (
        ("counts USERS", "use_count"),
        ("counts owners", "use_count"),
        ("state.kind", "state.kind"),
    ):
        box.fill(query)
        assert {each.partition("/")[0] for each in shown(page)} == {found}, query
    box.fill("no such words anywhere")
    assert shown(page) == []
    assert page.evaluate("CSS.highlights.get('search')?.size ?? 0") == 0
    box.fill("users")
    assert page.evaluate("CSS.highlights.get('search').size") >= 1
    assert ending(page) == "?q=users"


@pytest.mark.parametrize(
    "query", ["?status=nonsense", "?mmu=%22%5D&tier=<b>", "?q=%5B%22%29", "?kernel=7&section=x"]
)
def test_an_address_that_asks_for_nonsense_does_no_harm(gadget: Path, visit: Visit, query: str) -> None:
    page = visit(gadget, query)

    assert shown(page) in ([], EVERYTHING)
    expect(page.locator("main")).to_be_visible()


def test_totals_of_the_overview_lead_to_what_they_count(gadget: Path, visit: Visit) -> None:
    page = visit(gadget)

    page.locator("[data-filter='verdict=wrong']").click()

    assert shown(page) == [id_of("use_count")]
    assert ending(page) == "?verdict=wrong"

"""For everybody: axe in both themes, no scrolling sideways, large text, hostile text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from mmuspec.report import build
from mmuspec.report.html import page as page_of
from tests.browser.conftest import Visit, Watch
from tests.browser.places import opened
from tests.report.test_hostile import hostile

LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice"]
WIDTHS = (360, 768, 1280)


def findings(page: Page) -> list[str]:
    """What axe says against the page as it is now, one line for each element."""
    options = {"runOnly": {"type": "tag", "values": LEVELS}, "resultTypes": ["violations"]}
    response: dict[str, Any] = Axe().run(page, options=options).response
    return [
        f"{violation['id']} ({violation['impact']}): {node['target']} {node['failureSummary']}"
        for violation in response["violations"]
        for node in violation["nodes"][:5]
    ]


def as_it_is(page: Page) -> None:
    """Nothing is open."""


def a_card(page: Page) -> None:
    page.locator(".document .statement[data-status=refuted] .words, .document .words").first.click()
    assert opened(page)


def the_menu(page: Page) -> None:
    page.locator(".menu > summary").click()


def the_keys(page: Page) -> None:
    page.keyboard.press("?")


def a_filter(page: Page) -> None:
    page.get_by_role("searchbox").fill("the")


def all_topics(page: Page) -> None:
    page.evaluate("for (const each of document.querySelectorAll('.topic, .obsolete')) each.open = true")


def named_marks(page: Page) -> None:
    page.keyboard.press("m")


STATES = [as_it_is, a_card, the_menu, the_keys, a_filter, all_topics, named_marks]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_axe_finds_nothing(gadget: Path, visit: Visit, state: Callable[[Page], None], theme: str) -> None:
    page = visit(gadget, theme=theme)

    state(page)

    assert findings(page) == []


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_axe_finds_nothing_in_the_projects_own_report(
    real: Path, visit: Visit, theme: str, width: int
) -> None:
    page = visit(real, width=width, theme=theme)

    a_card(page)

    assert findings(page) == []


@pytest.mark.parametrize("width", [320, *WIDTHS])
@pytest.mark.parametrize("state", [as_it_is, a_card, the_menu, all_topics], ids=lambda state: state.__name__)
def test_nothing_is_to_be_scrolled_sideways(
    real: Path, visit: Visit, state: Callable[[Page], None], width: int
) -> None:
    page = visit(real, width=width)

    state(page)

    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_text_of_twice_the_size_fits(real: Path, visit: Visit) -> None:
    """A window of 1280 at 200 % has room for 640, and what is set in rem is twice as large."""
    page = visit(real, width=640)
    a_card(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 640

    page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert page.evaluate("document.documentElement.scrollWidth") <= 640


def test_wider_spacing_of_text_hides_nothing(gadget: Path, visit: Visit) -> None:
    """WCAG 1.4.12."""
    page = visit(gadget, width=360)
    a_card(page)

    page.evaluate(
        "for (const each of document.querySelectorAll('*')) Object.assign(each.style,"
        "{lineHeight: '1.5', letterSpacing: '.12em', wordSpacing: '.16em'})"
    )

    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_hostile_text_is_text(tmp_path: Path, visit: Visit) -> None:
    """Whatever it would do shows in the watch: a dialog, an error, a request, a refusal of the page's policy."""
    spec, run, document = hostile()
    (tmp_path / "index.html").write_text(page_of(build(spec, run, document)), encoding="utf-8")
    page = visit(tmp_path / "index.html")

    for topic in page.locator("details:not([name]) > summary").all():
        if topic.is_visible():
            topic.click()
    for summary in page.locator(".document .known > summary").all():
        summary.click()
    page.get_by_role("searchbox").fill("<script>")
    assert page.locator(".document .statement:not([data-out])").count()
    assert "<script>alert(1)</script>" in page.locator("main").inner_text()
    assert findings(page) == []


def test_the_policy_refuses_what_is_not_the_pages_own(
    gadget: Path, visit: Visit, tmp_path: Path, watch: Watch
) -> None:
    """The page with a script smuggled in: it does not run."""
    text = gadget.read_text(encoding="utf-8").replace(
        "<main>", "<main><script>document.title = 'taken'</script>", 1
    )
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    page = visit(tmp_path / "index.html")

    assert page.title() != "taken"
    assert [each for each in watch.complaints if "Content Security Policy" in each] == watch.complaints != []
    watch.complaints.clear()

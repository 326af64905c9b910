"""Pictures: small in a card, large in the viewer, in the gallery without a script; images and nothing more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mmuspec.attachments import Attachment
from mmuspec.report import build, write
from mmuspec.results import Attached
from tests.browser.conftest import Visit
from tests.browser.on_access import findings
from tests.browser.places import SPEC, address, card, id_of
from tests.report import scene

ONE = id_of("state.level")
WIDE = b"""<svg xmlns="http://www.w3.org/2000/svg" width="1500" height="700" viewBox="0 0 1500 700">
<rect width="1500" height="700" fill="#ccc"/><script>document.title = "hacked"; alert(1)</script>
<image href="https://example.org/spy.png"/></svg>"""
NAME = "A wide one <script>alert(2)</script>"


@pytest.fixture
def pictured(tmp_path: Path) -> Path:
    """A report with one picture, which does what a picture must not: two statements show it."""
    run = scene.gadget_run(SPEC)
    picture = Attachment(NAME, "image/svg+xml", "One grey page.", WIDE)
    statements = tuple(
        replace(each, pictures=tuple(Attached(t.nodeid, picture.id) for t in each.tests))
        for each in run.statements
    )
    results = replace(run, statements=statements, attachments=(picture,))
    return write(build(SPEC, results, scene.gadget()), tmp_path / "pictured")


def test_a_card_shows_it_small_and_the_viewer_large(pictured: Path, visit: Visit) -> None:
    page = visit(pictured, address(ONE))
    small = card(page, ONE).locator("a.picture img")
    small.wait_for()
    assert small.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1500
    box = small.bounding_box()
    assert box and box["width"] < 500

    card(page, ONE).locator("a.picture").click()

    viewer = page.locator("dialog.viewer")
    assert viewer.is_visible()
    large = viewer.locator("img").bounding_box()
    assert large and large["width"] == 1500
    assert NAME in viewer.inner_text()
    page.keyboard.press("Escape")
    assert not viewer.is_visible() and viewer.locator("img").count() == 0
    assert page.title() != "hacked"


def test_by_keyboard_too(pictured: Path, visit: Visit) -> None:
    page = visit(pictured, address(ONE))
    link = card(page, ONE).locator("a.picture")

    link.focus()
    page.keyboard.press("Enter")
    viewer = page.locator("dialog.viewer")
    assert viewer.is_visible()
    viewer.locator("summary").press("Enter")
    assert "One grey page." in viewer.inner_text()
    page.keyboard.press("j")
    assert viewer.is_visible()
    viewer.get_by_role("button").press("Enter")

    assert not viewer.is_visible()
    assert link.evaluate("link => link === document.activeElement")


def test_without_a_script_the_link_leads_to_the_gallery(pictured: Path, visit: Visit) -> None:
    page = visit(pictured, script=False)
    known = page.locator(".document .known:has(a.picture)").first
    known.locator("summary").first.click()

    known.locator("a.picture").click()

    figure = page.locator(".gallery figure")
    figure.wait_for()
    assert figure.locator("img").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(
    pictured: Path, visit: Visit, theme: str, width: int
) -> None:
    page = visit(pictured, width=width, theme=theme)
    page.evaluate("document.querySelector('.gallery').open = true")
    page.locator(".gallery img").wait_for()
    assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    page.evaluate("document.querySelector('.gallery').open = false")
    page.goto(pictured.as_uri() + address(ONE))
    page.reload()
    card(page, ONE).locator("a.picture").click()
    assert page.locator("dialog.viewer").is_visible()
    assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width

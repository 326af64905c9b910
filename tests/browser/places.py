"""The words that tests have for what is on a page."""

from __future__ import annotations

from urllib.parse import quote

from playwright.sync_api import Locator, Page

from tests.report import scene

SPEC = scene.gadget_spec(scene.gadget())


def id_of(item: str, number: int = 0) -> str:
    """The id of a statement of the gadget."""
    return scene.find(SPEC, item, number)


def address(statement: str) -> str:
    """The end of the address that names a statement."""
    return "#" + quote(statement, safe="")


def words(page: Page, statement: str) -> Locator:
    """What is read of a statement."""
    return page.locator(f'.document .statement[data-of="{statement}"] > .words').first


def summary(page: Page, statement: str) -> Locator:
    """What unfolds it."""
    return page.locator(f'.document .statement[data-of="{statement}"] > .known > summary')


def card(page: Page, statement: str) -> Locator:
    """What is known of it."""
    return page.locator(f'.document .statement[data-of="{statement}"] > .known > .card')


def shown(page: Page) -> list[str]:
    """The statements that can be unfolded, in order."""
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('.document .known')].filter((each) => each.checkVisibility())"
        ".map((each) => each.parentElement.dataset.of)"
    )
    return found


def focused(page: Page) -> str | None:
    """The statement that has the focus."""
    name: str | None = page.evaluate("document.activeElement.closest('.statement')?.dataset.of ?? null")
    return name


def opened(page: Page) -> list[str]:
    """The statements that are unfolded."""
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('.document .known[open]')].map((each) => each.parentElement.dataset.of)"
    )
    return found


def ending(page: Page) -> str:
    """What the address has after the path."""
    return str(page.evaluate("location.search + location.hash"))

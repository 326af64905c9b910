"""A Chromium of the system, pages of the report on disk, and a watch on whatever a page must not do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pytest
from playwright.sync_api import Browser, Page, Request, Route, sync_playwright

from mmuspec import results
from mmuspec.errors import Problem
from mmuspec.fetch import fetch
from mmuspec.reading import read_document
from mmuspec.report import build, write
from mmuspec.report.aside import aside
from mmuspec.report.build import Aside
from mmuspec.report.code import Code
from mmuspec.report.links import Links
from mmuspec.specfiles import load_spec
from tests.report import scene

ROOT = Path(__file__).parents[2]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

Visit: TypeAlias = Callable[..., Page]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser that is installed; none is downloaded, and none at hand is a failure."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert path, "no Chromium at hand; `make browser` says how to get it"
    with sync_playwright() as playwright:
        # Chromium's sandbox needs a user of its own.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def gadget(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small report of which everything is known: one statement of each status, two kernels, three tiers."""
    document = scene.gadget()
    spec = scene.gadget_spec(document)
    folder = tmp_path_factory.mktemp("gadget")
    report = build(spec, scene.gadget_run(spec), document, aside=Aside(code=Code(ROOT)))
    return write(report, folder, Links(ROOT, folder))


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own report: with the results of the last run if there are any, with the document if it can be had."""
    spec = load_spec(ROOT / "spec")
    path = ROOT / results.DEFAULT
    ran = results.load([path]) if path.exists() else None
    try:
        fetch(spec.source.release)
        document = read_document(spec.source.release)
    except Problem:
        document = None
    folder = tmp_path_factory.mktemp("real")
    report = build(spec, ran, document, aside=aside(spec, ran, ROOT / "spec"))
    return write(report, folder, Links(ROOT, folder))


@dataclass
class Watch:
    """What pages did that they must not do."""

    complaints: list[str] = field(default_factory=list)

    def on(self, page: Page) -> None:
        """Keep an eye on a page: what it logs, what fails in it, what it asks the network for, what pops up."""
        page.on("console", lambda message: self.complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        page.on("request", self._asked)
        page.route("**/*", self._only_files)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith("file:"):
            self.complaints.append(f"request: {request.url}")

    def _only_files(self, route: Route) -> None:
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            route.abort()


@pytest.fixture
def watch() -> Watch:
    """What the pages of a test did that they must not do."""
    return Watch()


@pytest.fixture
def visit(chromium: Browser, watch: Watch) -> Iterator[Visit]:
    """Opens a page from disk; whatever it does besides being shown fails the test."""
    contexts = []

    def opened(
        path: Path,
        address: str = "",
        *,
        width: int = 1280,
        height: int = 900,
        theme: str = "light",
        script: bool = True,
    ) -> Page:
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if theme == "dark" else "light",
            java_script_enabled=script,
            offline=True,
        )
        contexts.append(context)
        context.set_default_timeout(5000)
        page = context.new_page()
        watch.on(page)
        page.goto(path.as_uri() + address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert watch.complaints == []

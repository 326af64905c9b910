"""The pages are true: what they tell to type works, what they show is used, what they link to is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REAL_CACHE
from tests.docs.checkout import prepare
from tests.docs.pages import PAGES, ROOT, Block, blocks, commands

SAYS_NO = ("mmuspec check", "mmuspec diff", "mmuspec review", "mmuspec audit", "kvm-live compare")
"""Commands whose exit status 1 is an answer: drift, differences, findings."""
WITH_COMMANDS = [page for page in PAGES if any((b.language, b.use) == ("sh", "") for b in blocks(page))]
LANGUAGES = {"sh", "yaml", "python", "rst", "text", "json", "make", "ini", "toml", "html"}


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_what_a_page_says_works(page: Path, tmp_path: Path, real_document: dict[str, str]) -> None:
    """From top to bottom, in one copy of the repository."""
    environment = prepare(tmp_path, real_document["6.12"], REAL_CACHE)
    checkout = tmp_path / "checkout"
    for block in blocks(page):
        key, _, value = block.use.partition("=")
        if key == "file":
            path = checkout / value
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif key == "claim":
            _claim(checkout / "spec", value, block)
        elif block.language == "sh" and not block.use:
            for command in block.commands():
                _run(command, block, checkout, environment)


def _run(command: str, block: Block, checkout: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = re.search(rf"{re.escape(command)}.*# .*exit status (\d)(?:$|:)", block.text, re.MULTILINE)
    allowed = {int(said[1])} if said else {0, 1} if any(each in command for each in SAYS_NO) else {0}
    assert done.returncode in allowed, f"{block.where}: {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr


def _claim(spec: Path, statement: str, block: Block) -> None:
    """Put the lines of the block into the statement's entry, below what belongs to the tool."""
    for path in spec.glob("*.yaml"):
        entry = re.search(
            rf"^  - id: {re.escape(statement)}\n(    (line|end_line|digest): .*\n)+",
            path.read_text(),
            re.MULTILINE,
        )
        if entry:
            text = path.read_text()
            rest = re.sub(r"\A(    .*\n)+", "", text[entry.end() :])
            lines = "".join(f"    {line}\n" for line in block.text.splitlines())
            path.write_text(text[: entry.end()] + lines + rest)
            return
    raise AssertionError(f"{block.where}: no statement {statement} in the spec")


def test_what_needs_the_whole_is_run_by_ci() -> None:
    ran = (ROOT / ".ci/run").read_text()
    assert [f"{block.where}: {command}" for block, command in commands("ci") if command not in ran] == []


@pytest.mark.parametrize("command", [command for _, command in commands("long")])
def test_what_takes_long_would_begin(command: str) -> None:
    """The target is there, the options are understood: nothing is run but the command's help."""
    dry = (
        command.replace("make ", "make --dry-run ", 1) if command.startswith("make ") else f"{command} --help"
    )
    done = subprocess.run(["bash", "-c", dry], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    unknown = [
        f"{block.where}: {block.language!r}" for block in blocks(page) if block.language not in LANGUAGES
    ]
    assert unknown == []
    uses = {block.use.split("=")[0] for block in blocks(page)}
    assert uses <= {"", "ci", "live", "long", "file", "claim"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [
        page.name for page in PAGES if page.parent.name == "docs" and f"docs/{page.name}" not in readme
    ] == []

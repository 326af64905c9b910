"""The GitHub action and the pre-commit hooks: their very commands, run in a repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmuspec.extract import extract
from mmuspec.merge import bare
from mmuspec.specfiles import save_spec
from tests.review.scene import PAGE, PATH, patch_mail, replaced, write

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
SMALL = replaced(PAGE, ("It is small.", "It is quite small."))
REFERENCE = re.compile(r"\$\{\{\s*(\S+)\s*\}\}")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository: the page, its spec, and a commit that changes the page."""
    tree = tmp_path / "tree"
    (tree / PATH).parent.mkdir(parents=True)
    save_spec(bare(extract(PAGE, PATH, "")[0]), tree / "spec")
    git(tree, "init", "-q", "-b", "main")
    for text in (PAGE, SMALL):
        (tree / PATH).write_text(text)
        git(tree, "add", "-A")
        git(tree, "commit", "-qm", "pages: step")
    return tree


def git(tree: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    subprocess.run(["git", *identity, "-C", tree, *arguments], check=True, capture_output=True)


def shell(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as CI would; `mmuspec` is the one of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=cwd,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def act(tree: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """The last step of the action, with inputs as a workflow gives them."""
    step = ACTION["runs"]["steps"][-1]
    inputs = {f"inputs.{name}": str(about.get("default", "")) for name, about in ACTION["inputs"].items()}
    inputs |= {f"inputs.{name}": value for name, value in given.items()}
    values = inputs | {"github.action_path": str(tree)}
    environment = {
        key: REFERENCE.sub(lambda found: values[found[1]], value) for key, value in step["env"].items()
    }
    return shell(step["run"], tree, GITHUB_STEP_SUMMARY=str(tree.parent / "summary.md"), **environment)


def hook(name: str, tree: Path, *files: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A hook as pre-commit runs it: its entry, its arguments, and the files."""
    found: dict[str, Any] = HOOKS[name]
    assert found["language"] == "python"
    passed = [each for each in files if re.search(found["files"], each)]
    return shell(" ".join([found["entry"], *passed]), tree, **environment)


class TestAction:
    def test_check_fails_on_drift(self, tree: Path) -> None:
        assert act(tree).returncode == 1
        (tree / PATH).write_text(PAGE)
        assert act(tree).returncode == 0

    def test_review_writes_the_summary(self, tree: Path) -> None:
        result = act(tree, command="review", range="HEAD~1..HEAD")
        assert result.returncode == 1, result.stderr
        summary = (tree.parent / "summary.md").read_text()
        assert summary == result.stdout and "quite small" in summary

    def test_findings_may_be_shown_only(self, tree: Path) -> None:
        result = act(tree, command="review", range="HEAD~1..HEAD", findings="report")
        assert result.returncode == 0 and "quite small" in result.stdout

    def test_what_cannot_be_done_fails_all_the_same(self, tree: Path) -> None:
        assert act(tree, command="review", range="HEAD~1..nowhere", findings="report").returncode == 2
        assert act(tree, command="polish", findings="report").returncode == 2

    def test_a_range_is_no_place_for_commands(self, tree: Path) -> None:
        act(tree, command="review", range='"; touch hacked; "')
        assert not (tree / "hacked").exists()

    def test_the_action_installs_this_project(self) -> None:
        install = ACTION["runs"]["steps"][-2]
        assert install["run"].split()[-1] == '"$ACTION"'
        assert (ROOT / "pyproject.toml").is_file() and (ROOT / "spec").is_dir()


class TestHooks:
    def test_check(self, tree: Path) -> None:
        assert hook("mmuspec-check", tree, PATH, "README").returncode == 1
        (tree / PATH).write_text(PAGE)
        assert hook("mmuspec-check", tree, PATH).returncode == 0

    def test_review_of_what_is_pushed(self, tree: Path) -> None:
        result = hook("mmuspec-review", tree, PRE_COMMIT_FROM_REF="HEAD~1", PRE_COMMIT_TO_REF="HEAD")
        assert result.returncode == 1 and "quite small" in result.stdout
        same = hook("mmuspec-review", tree, PRE_COMMIT_FROM_REF="HEAD", PRE_COMMIT_TO_REF="HEAD")
        assert same.returncode == 0, same.stderr

    def test_review_of_patch_files(self, tree: Path) -> None:
        (tree / PATH).write_text(PAGE)
        write(tree, "a.patch", patch_mail("[PATCH] pages: small", PAGE, SMALL))
        result = hook("mmuspec-review-patches", tree, "a.patch", "README")
        assert result.returncode == 1, result.stderr
        assert "quite small" in result.stdout


def test_the_examples_in_the_documentation_name_what_there_is() -> None:
    text = (ROOT / "docs" / "reviewing.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        found = yaml.safe_load(block)
        assert found
        for repo in found.get("repos", []) if isinstance(found, dict) else []:
            assert {each["id"] for each in repo["hooks"]} <= HOOKS.keys()
        if isinstance(found, dict) and "jobs" in found:
            steps = [step for job in found["jobs"].values() for step in job["steps"]]
            own = [step for step in steps if "kvm-mmu-conformance" in step.get("uses", "")]
            assert own and all(set(step.get("with", {})) <= ACTION["inputs"].keys() for step in own)

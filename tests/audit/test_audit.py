"""The command: trees, archives, packages and revisions in; what is not described and what is gone, out."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mmuspec.cli import main
from mmuspec.extract import extract
from mmuspec.merge import bare
from mmuspec.reading import load_spec_once
from mmuspec.spec import Obsolete
from mmuspec.specfiles import save_spec
from tests.audit.tree import DOCUMENT, HEADER, PAGE, PAGE_STRUCT, ROLE_UNION, git, write

UNDESCRIBED = ["link", "tdp_mmu_root_count", "rcu_head"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def audit(source: Path, *arguments: str) -> Result:
    load_spec_once.cache_clear()
    command = ["--spec", "spec", "audit", "--source", str(source), *arguments]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def findings(source: Path, *arguments: str) -> list[dict[str, Any]]:
    result = audit(source, "--format", "json", *arguments)
    assert result.exit_code in (0, 1), result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)["findings"]
    assert result.exit_code == bool(found)
    return found


def of(topic: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in found if each["topic"] == topic]


class TestCompare:
    def test_members_that_nobody_describes(self, here: Path) -> None:
        found = findings(write(here / "linux"))
        assert [each["name"] for each in of("not-described", found)] == UNDESCRIBED
        link, shared, _ = of("not-described", found)
        assert (link["path"], link["line"]) == (HEADER, 3)
        assert link["message"] == "struct member 'link' not described in 'kvm_mmu_page'"
        assert "shares its storage with 'root_count'" in shared["message"]

    def test_warnings_as_kernel_doc_has_them(self, here: Path) -> None:
        result = audit(write(here / "linux"))
        assert result.exit_code == 1
        first = result.stdout.splitlines()[0]
        assert first == f"{HEADER}:3: warning: struct member 'link' not described in 'kvm_mmu_page'"
        assert "of 6.12" in result.stdout.splitlines()[-1]

    def test_nothing_to_say(self, here: Path) -> None:
        rest = "  link:\n    Lists.\n  tdp_mmu_root_count:\n    Counts.\n  rcu_head:\n    Only used on 64-bit hosts.\n"
        result = audit(write(here / "linux", mmu_rst=PAGE + rest))
        assert (result.exit_code, "nothing to say" in result.stdout) == (0, True)

    def test_described_but_gone_and_renamed_by_its_neighbours(self, here: Path) -> None:
        page = PAGE.replace("  shadowed_translation:\n", "  gfns:\n")
        found = findings(write(here / "linux", mmu_rst=page))
        (excess,) = of("excess", found)
        assert excess["message"] == (
            "Excess struct member 'gfns' description in 'kvm_mmu_page'; it seems to be 'shadowed_translation' now"
        )
        assert page.splitlines()[excess["line"] - 1] == "  gfns:"
        assert "shadowed_translation" in [each["name"] for each in of("not-described", found)]

    def test_renamed_by_likeness(self, here: Path) -> None:
        found = findings(
            write(here / "linux", mmu_rst=PAGE.replace("  clear_spte_count:", "  clear_sptes_count:"))
        )
        assert "'clear_spte_count' now" in of("excess", found)[0]["message"]

    def test_renamed_as_the_spec_remembers(self, here: Path) -> None:
        """Neither place nor name tells, but what the spec has under `link` was called `chain` once."""
        now, _ = extract(PAGE + "  link:\n    What holds the pages together.\n", DOCUMENT, "6.12")
        spec = bare(now)
        link = next(item for item in spec.items if item.id == "link")
        then = replace(link.statements[0], id="link/then", digest="0" * 16)
        owner = replace(link, names=("chain",), statements=())
        save_spec(replace(spec, obsolete=(Obsolete(then, owner, "6.1", "0" * 64),)), here / "spec")
        page = PAGE + "  chain:\n    What holds the pages together.\n"
        (excess,) = of("excess", findings(write(here / "linux", mmu_rst=page)))
        assert "'chain'" in excess["message"] and "'link' now" in excess["message"]

    def test_a_field_of_the_role_that_is_gone(self, here: Path) -> None:
        found = findings(write(here / "linux", mmu_rst=PAGE.replace("  role.smm:", "  role.access:")))
        assert "'role.access' description in 'kvm_mmu_page_role'" in of("excess", found)[0]["message"]
        assert "role.smm" in [each["name"] for each in of("not-described", found)]

    @pytest.mark.parametrize(
        ("struct", "sentence", "said"),
        [
            (PAGE_STRUCT.replace("CONFIG_X86_32", "CONFIG_X86_64"), "Only present on 32-bit hosts.", "is under CONFIG_X86_64"),
            (PAGE_STRUCT, "Counts clears.", "is under CONFIG_X86_32, which its description does not say"),
            (
                PAGE_STRUCT.replace("#ifdef CONFIG_X86_32\n", "").replace("#else\n", "#ifdef CONFIG_SMP\n"),
                "Only present on 32-bit hosts.",
                "no #ifdef says so",
            ),
        ],
    )  # fmt: skip
    def test_documented_condition_against_the_ifdef(
        self, here: Path, struct: str, sentence: str, said: str
    ) -> None:
        page = PAGE.replace("Only present on 32-bit hosts, where it is needed.", sentence)
        found = findings(write(here / "linux", mmu_rst=page, mmu_internal_h=struct))
        (condition,) = of("condition", found)
        assert said in condition["message"]

    def test_documented_width_against_the_bit_field(self, here: Path) -> None:
        role = ROLE_UNION.replace("quadrant:2", "quadrant:1")
        (width,) = of("width", findings(write(here / "linux", kvm_host_h=role)))
        assert width["message"] == "role.quadrant has 1 bit, so it is 1 at most, not 3"

    def test_names_in_running_text(self, here: Path) -> None:
        text = (
            "\n\nMore\n====\n\nSee kvm_mmu_zap_all_fast(), shadow_translation, disallow_lpages, nobody_knows_it "
            "and Documentation/virt/kvm/none.rst.\n"
        )
        found = findings(write(here / "linux", mmu_rst=PAGE + text))
        assert [each["name"] for each in of("no-such-name", found)] == [
            "shadow_translation", "disallow_lpages", "nobody_knows_it",
        ]  # fmt: skip
        assert "did you mean 'shadowed_translation'?" in of("no-such-name", found)[0]["message"]
        assert "did you mean 'disallow_lpage'?" in of("no-such-name", found)[1]["message"]
        assert [each["message"] for each in of("no-such-file", found)] == [
            "the kernel tree has no Documentation/virt/kvm/none.rst"
        ]

    def test_a_member_with_a_letter_too_few_that_a_local_variable_has(self, here: Path) -> None:
        page = (
            PAGE.replace("Counts the users.", "Counts the users; see parent_pte.")
            + "  parent_ptes:\n    Parents.\n"
        )
        struct = PAGE_STRUCT.replace("\tu64 *spt;\n", "\tu64 *spt;\n\tulong parent_ptes;\n")
        (name,) = of("no-such-name", findings(write(here / "linux", mmu_rst=page, mmu_internal_h=struct)))
        assert name["message"] == "'parent_pte' is no member; did you mean 'parent_ptes'?"


class TestSource:
    def archive(self, here: Path, name: str, mode: Any) -> Path:
        with tarfile.open(here / name, mode) as tar:
            tar.add(write(here / "linux-source-6.12"), arcname="linux-source-6.12")
        return here / name

    @pytest.mark.parametrize(("name", "mode"), [("a.tar.xz", "w:xz"), ("a.tar.gz", "w:gz"), ("a.tar", "w:")])
    def test_an_archive_is_not_unpacked(self, here: Path, name: str, mode: str) -> None:
        path = self.archive(here, name, mode)
        shutil.rmtree(here / "linux-source-6.12")
        assert [each["name"] for each in of("not-described", findings(path))] == UNDESCRIBED
        assert sorted(each.name for each in here.iterdir() if each.name != "cache") == [name]

    def test_a_package(self, here: Path) -> None:
        """A .deb with a tar of sources in it, as Debian's linux-source is."""
        if shutil.which("dpkg-deb") is None:
            pytest.fail("dpkg-deb is needed to test packages")
        root = here / "package"
        (root / "usr/src").mkdir(parents=True)
        (root / "DEBIAN").mkdir()
        (root / "DEBIAN/control").write_text(
            "Package: linux-source-6.12\nVersion: 1\nArchitecture: all\nMaintainer: Ada <a@b>\nDescription: x\n"
        )
        self.archive(here, "a.tar.xz", "w:xz").rename(root / "usr/src/linux-source-6.12.tar.xz")
        subprocess.run(["dpkg-deb", "--build", root, here / "a.deb"], check=True, capture_output=True)
        assert [each["name"] for each in of("not-described", findings(here / "a.deb"))] == UNDESCRIBED

    def test_a_revision(self, here: Path) -> None:
        tree = write(here / "linux")
        git(tree, "init", "-q")
        git(tree, "add", "-A")
        git(tree, "commit", "-qm", "one")
        git(tree, "tag", "one")
        (tree / HEADER).write_text("")
        assert [each["name"] for each in of("not-described", findings(tree, "--rev", "one"))] == UNDESCRIBED
        assert "no header here defines" in audit(tree).stderr

    def test_what_is_no_source(self, here: Path) -> None:
        (here / "empty").mkdir()
        (here / "broken.tar.xz").write_bytes(b"\xfd7zXZ\0 this is no archive")
        (here / "words.txt").write_text("words")
        with tarfile.open(here / "other.tar", "w:") as tar:
            tar.addfile(tarfile.TarInfo("README"), io.BytesIO())
        for name, said in (
            ("empty", "has no arch/x86/kvm/"), ("none", "no such file or folder"), ("words.txt", "is neither"),
            ("broken.tar.xz", "is damaged"), ("other.tar", "has no arch/x86/kvm/"),
        ):  # fmt: skip
            result = audit(here / name)
            assert result.exit_code == 2
            (line,) = result.stderr.splitlines()
            assert said in line and ": error: " in line

    def test_a_cut_archive(self, here: Path) -> None:
        path = self.archive(here, "a.tar.xz", "w:xz")
        path.write_bytes(path.read_bytes()[:-200])
        result = audit(path)
        assert result.exit_code == 2
        assert "is damaged" in result.stderr

    def test_a_tree_without_the_document(self, here: Path) -> None:
        tree = write(here / "linux")
        (tree / DOCUMENT).unlink()
        assert "--doc" in audit(tree).stderr
        (here / "page.rst").write_text(PAGE)
        assert of("not-described", findings(tree, "--doc", "page.rst"))

    def test_an_unknown_revision_and_half_a_range(self, here: Path) -> None:
        tree = write(here / "linux")
        git(tree, "init", "-q")
        assert audit(tree, "--rev", "nowhere").exit_code == 2
        assert "half a range" in audit(tree, "--rev", "v1..").stderr


def test_how_often_members_changed_since_their_sentence_did(here: Path) -> None:
    tree = write(here / "linux")
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "one")
    git(tree, "tag", "one")
    code = tree / "arch/x86/kvm/mmu/mmu.c"
    for number in range(3):
        code.write_text(
            f"{code.read_text()}int use{number}(struct kvm_mmu_page *sp) {{ return sp->root_count; }}\n"
        )
        git(tree, "commit", "-qam", f"use {number}")
    code.write_text(f"{code.read_text()}int last(struct kvm_mmu_page *sp) {{ return sp->gfn; }}\n")
    git(tree, "commit", "-qam", "gfn")
    (tree / DOCUMENT).write_text(PAGE.replace("The frame.", "The frame it is for."))
    git(tree, "commit", "-qam", "say more of gfn")
    git(tree, "tag", "two")

    result = audit(tree, "--rev", "one..two", "--format", "json")

    history = json.loads(result.stdout)["history"]
    assert [(age["name"], age["changes"]) for age in history] == [("root_count", 3)]
    told = audit(tree, "--rev", "one..two").stdout
    assert "'root_count' was touched by 3 commits since its description last changed" in told

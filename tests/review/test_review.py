"""The command: series in, a reply, JSON or Markdown out; what is bad is said, and the rest is reviewed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mmuspec.cli import main
from mmuspec.extract import extract
from mmuspec.merge import bare
from mmuspec.reading import load_spec_once
from mmuspec.spec import Curated, Obsolete, SpecStatement, Verdict
from mmuspec.specfiles import load_spec, save_spec
from tests.review.scene import (
    LOCKED,
    PAGE,
    PATH,
    archived,
    diff,
    mail,
    mbox,
    patch_mail,
    quoted,
    replaced,
    write,
)

KNOWN = "root_count/read-lock"
SMALL = replaced(PAGE, ("It is small.", "It is quite small."))
GUEST = replaced(PAGE, ("  root_count:\n", "  role.guest_mode:\n    For a nested guest.\n  root_count:\n"))
BITMAP = replaced(GUEST, ("  spt:\n", "  unsync_child_bitmap:\n    512 bits, one for each entry.\n  spt:\n"))
JOINED = replaced(
    BITMAP, ("  root_count:\n", "  root_count / tdp_mmu_root_count:\n"),
    ("    page stays.\n", f"    page stays.  {LOCKED}\n"),
)  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page, its spec, and a sentence that is known to be wrong on one kernel, with a test that says so."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / PATH).parent.mkdir(parents=True)
    (tmp_path / PATH).write_text(PAGE)
    document, _ = extract(PAGE, PATH, "6.12")
    spec = bare(document)
    sentence = next(s for s in extract(JOINED, PATH)[0].statements if s.text == LOCKED)
    said = Curated(
        "A reference is taken under the read lock.", Verdict.WRONG, "taken under the write lock: root.c",
        kernels=(("6.1", Verdict.WRONG), ("6.12", Verdict.HOLDS)),
    )  # fmt: skip
    item = next(item for item in spec.items if item.id == "root_count")
    owner = replace(item, statements=())
    known = Obsolete(SpecStatement(KNOWN, 27, 27, sentence.digest, said), owner, "", "", proposed="v3 2/3")
    save_spec(replace(spec, obsolete=(known,)), tmp_path / "spec")
    (tmp_path / "conformance").mkdir()
    (tmp_path / "conformance" / "test_roots.py").write_text(
        f'import pytest\n\n\n@pytest.mark.spec("{KNOWN}", refutes=True)\ndef test_the_write_lock():\n    pass\n'
    )
    return tmp_path


def review(*arguments: str, base: str | None = PATH) -> Result:
    load_spec_once.cache_clear()
    named = ["--base", base] if base else []
    return CliRunner().invoke(main, ["--spec", "spec", "review", *arguments, *named], catch_exceptions=False)


def as_data(*arguments: str, base: str | None = PATH) -> dict[str, Any]:
    result = review(*arguments, "--format", "json", base=base)
    assert result.stdout, result.stderr
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def messages_of(data: dict[str, Any], topic: str) -> list[str]:
    return [f["message"] for patch in data["patches"] for f in patch["findings"] if f["topic"] == topic]


def series(shape: Callable[..., str] = mbox) -> str:
    return shape(
        mail(
            "[PATCH v3 0/3] Pages",
            "About.\n\nAda (3):\n  pages: guests\n  pages: bitmap\n  pages: roots\n\nx\n",
        ),
        patch_mail("[PATCH v3 3/3] pages: roots", BITMAP, JOINED),
        patch_mail("[PATCH v3 1/3] pages: guests", PAGE, GUEST),
        patch_mail("[PATCH v3 2/3] pages: bitmap", GUEST, BITMAP),
    )


def thread() -> str:
    """The same as a web archive has it: the second patch missing, and a reply to the third."""
    last = diff(BITMAP, JOINED)
    at = last.index("read lock.") + len("read lock.\n")
    objection = f"{quoted(last[:at])}\nThe other lock, please.\n\n{quoted(last[at:])}"
    return archived(
        (
            "Ada",
            "[PATCH v3 0/3] Pages",
            "About.\n\nAda (3):\n pages: guests\n pages: bitmap\n pages: roots\n\nx\n",
        ),
        ("Ada", "[PATCH v3 3/3] pages: roots", f"Roots.\n---\n x | 2 +\n\n{last}--\n2.41\n"),
        ("Ada", "[PATCH v3 1/3] pages: guests", f"Guests.\n---\n\n{diff(PAGE, GUEST)}--\n2.41\n"),
        ("Bob", "Re: [PATCH v3 3/3] pages: roots", objection),
    )


class TestSeries:
    def test_patch_by_patch_and_as_a_whole(self, here: Path) -> None:
        data = as_data(write(here, "in.mbox", series()))
        assert [patch["number"] for patch in data["patches"]] == [1, 2, 3]
        assert [patch["fields"] for patch in data["patches"]] == [
            {"added": ["role.guest_mode"], "joined": [], "removed": []},
            {"added": ["unsync_child_bitmap"], "joined": [], "removed": []},
            {"added": [], "joined": ["tdp_mmu_root_count"], "removed": []},
        ]
        assert data["series"]["fields"]["joined"] == ["tdp_mmu_root_count"]
        assert KNOWN in data["series"]["added"] and KNOWN not in data["todo"]
        assert len(data["series"]["added"]) == len(data["todo"]) + 1 == 3
        counts = [
            (p["coverage"]["before"]["statements"], p["coverage"]["after"]["statements"])
            for p in data["patches"]
        ]
        assert [after - before for before, after in counts] == [1, 1, 1]

    def test_a_sentence_known_to_be_wrong_by_kernel_and_test(self, here: Path) -> None:
        data = as_data(write(here, "in.mbox", series()))
        (found,) = [f for p in data["patches"] for f in p["findings"] if f["topic"] == "known"]
        assert found["level"] == "WARNING"
        assert found["verdicts"] == {"6.1": "wrong", "6.12": "holds", "others": "wrong"}
        assert [test["nodeid"] for test in found["tests"]] == [
            "conformance/test_roots.py::test_the_write_lock"
        ]
        assert found["text"] == LOCKED

    def test_the_thread_of_a_web_archive(self, here: Path) -> None:
        data = as_data(write(here, "thread.txt", thread()))
        assert [patch["number"] for patch in data["patches"]] == [1, 3]
        assert [(m["number"], m["title"]) for m in data["missing"]] == [(2, "pages: bitmap")]
        assert data["series"]["fields"] == {
            "added": ["role.guest_mode"], "joined": ["tdp_mmu_root_count"], "removed": [],
        }  # fmt: skip
        (said,) = messages_of(data, "known")
        assert "wrong on 6.1, holds on 6.12" in said
        (objection,) = [f for p in data["patches"] for f in p["findings"] if f["topic"] == "objection"]
        assert objection["message"] == "Bob objects: The other lock, please."
        assert objection["statement"] == KNOWN
        assert all(fit["folded"] for patch in data["patches"] for fit in patch["applied"])

    def test_a_contradiction_in_the_context_is_found_once(self, here: Path) -> None:
        data = as_data(write(here, "in.mbox", series()))
        (said,) = messages_of(data, "contradiction")
        assert said.startswith("in the context: ") and "CR4.LA57=1" in said

    def test_a_sentence_of_the_context_that_is_known_to_be_wrong(self, here: Path) -> None:
        """The page has it already; a patch that shows all of it is told."""
        page = replaced(PAGE, ("    page stays.\n", f"    page stays.\n    {LOCKED}\n"))
        (here / PATH).write_text(page)
        after = replaced(page, ("  parent_ptes:\n", "  ptep:\n    Where a page hangs.\n  parent_ptes:\n"))
        (said,) = messages_of(as_data(write(here, "in.diff", diff(page, after))), "known")
        assert said.startswith(f"in the context: known statement {KNOWN}: wrong on 6.1")

    def test_rewording_moving_and_removing(self, here: Path) -> None:
        after = replaced(
            PAGE,
            ("While it is not zero, the\n    page stays.", "While it is not one, the\n    page stays."),
            ("The way back from a page to its entries.\n", ""),
            ("- a page is added\n", "- a page is added\n\nThe way back from a page to its entries.\n"),
            ("  The entries go first.\n\n", ""),
        )
        data = as_data(write(here, "in.diff", diff(PAGE, after)))
        (patch,) = data["patches"]
        assert [(c["class"], c["after"]) for c in patch["changed"]] == [
            ("number", "While it is not one, the page stays.")
        ]
        assert any("way-back" in each for each in patch["moved"])
        assert len(patch["removed"]) == 1
        assert {"reworded", "moved", "removed"} <= {f["topic"] for f in patch["findings"]}

    def test_markup_alone_is_nothing_to_say(self, here: Path) -> None:
        result = review(write(here, "in.diff", diff(PAGE, PAGE.replace("is small", "is *small*"))))
        assert result.exit_code == 0, result.stdout
        assert "Nothing to say." in result.stdout

    def test_what_new_text_gets_wrong(self, here: Path) -> None:
        after = replaced(
            PAGE, ("A page holds 512 sptes.", "A shadow page holds 256 sptes."),
            ("    A page of entries.\n", '    See parent_pte and "Reverse maps" below.\n  root_count:\n    Again.\n'),
        )  # fmt: skip
        data = as_data(write(here, "in.diff", diff(PAGE, after)))
        assert any("512, not 256" in each for each in messages_of(data, "figure"))
        assert any("did you mean parent_ptes?" in each for each in messages_of(data, "name"))
        assert any('"Reverse map"?' in each for each in messages_of(data, "reference"))
        assert messages_of(data, "described-twice") == ["root_count is described a second time"]

    def test_a_new_field_that_is_no_member(self, here: Path) -> None:
        after = replaced(PAGE, ("  spt:\n", "  role.guest_made:\n    Made by guests.\n  spt:\n"))
        (said,) = messages_of(as_data(write(here, "in.diff", diff(PAGE, after))), "name")
        assert said == "role.guest_made is no member of the struct; did you mean role.guest_mode?"

    def test_broken_markup(self, here: Path) -> None:
        after = replaced(PAGE, ("- a page is added\n", "- a page is added\n\n=====\nMore\n~~~~~\n"))
        (said,) = messages_of(as_data(write(here, "in.diff", diff(PAGE, after))), "markup")
        assert "overline" in said

    def test_the_stub_can_be_pasted_into_the_spec(self, here: Path) -> None:
        stub = as_data(write(here, "in.diff", diff(PAGE, SMALL)))["stub"]
        path = here / "spec" / "introduction.yaml"
        text = path.read_text()
        at = text.index("items:\n") + len("items:\n")
        path.write_text(text[:at] + stub)
        spec = load_spec(here / "spec")
        assert any(
            s.digest for item in spec.items if item.section.startswith("The tiny") for s in item.statements
        )

    def test_an_older_version_beside_the_new_one_is_said_to_be_left_out(self, here: Path) -> None:
        old, new = (patch_mail(f"[PATCH v{n} 1/1] pages: small", PAGE, SMALL) for n in (1, 2))
        data = as_data(write(here, "in.mbox", mbox(old, new)))
        assert len(data["patches"]) == 1
        assert "[v1] is older" in data["notes"][0]

    def test_several_files_make_one_series(self, here: Path) -> None:
        one = write(here, "0001.patch", patch_mail("[PATCH 1/2] pages: guests", PAGE, GUEST))
        two = write(here, "0002.patch", patch_mail("[PATCH 2/2] pages: bitmap", GUEST, BITMAP))
        data = as_data(two, one)
        assert [patch["file"] for patch in data["patches"]] == [one, two]
        assert data["series"]["fields"]["added"] == ["role.guest_mode", "unsync_child_bitmap"]


class TestText:
    def test_it_is_a_reply(self, here: Path) -> None:
        """Findings stand under quoted lines of the patch; nothing is wider than a mail, but what is quoted."""
        source = series()
        result = review(write(here, "in.mbox", source))
        assert result.exit_code == 1
        assert "Subject: Re: [PATCH v3 3/3] pages: roots" in result.stdout
        rows = result.stdout.splitlines()
        quotes = [row[2:] for row in rows if row.startswith("> ")]
        assert quotes and all(quote in source.splitlines() for quote in quotes)
        own = [row for row in rows if not row.startswith(("> ", "Subject: "))]
        assert max(map(len, own)) <= 75
        assert "\x1b" not in result.stdout

    def test_a_reworded_statement_has_a_word_diff(self, here: Path) -> None:
        result = review(write(here, "in.diff", diff(PAGE, SMALL)))
        assert "It is {+quite+} small." in " ".join(result.stdout.split())

    def test_places_can_be_parsed(self, here: Path) -> None:
        source = series()
        found = re.findall(
            r"^in\.mbox:(\d+): (?:WARNING|NOTE): ",
            review(write(here, "in.mbox", source) and "in.mbox").stdout,
            re.MULTILINE,
        )
        assert len(found) >= 4
        rows = source.splitlines()
        assert all(rows[int(number) - 1].startswith(("+", "-", " ")) for number in found)

    def test_hidden_characters_are_shown(self, here: Path) -> None:
        after = replaced(
            PAGE, ("It is small.", "It is \x1b[31msmall\u202e, and 256 sptes make a shadow page.")
        )
        result = review(write(here, "in.diff", diff(PAGE, after)))
        assert "\x1b" not in result.stdout and "\u202e" not in result.stdout

    def test_markdown(self, here: Path) -> None:
        result = review(write(here, "in.mbox", series()), "--format", "md")
        assert result.exit_code == 1
        assert result.stdout.startswith("## Review against ")
        assert result.stdout.count("````") % 2 == 0
        assert "- **WARNING**" in result.stdout


class TestBadInput:
    def test_a_hunk_that_does_not_fit_and_the_rest_of_the_series(self, here: Path) -> None:
        other = replaced(PAGE, ("A page of entries.", "Something else entirely."))
        odd = replaced(other, ("Something else entirely.", "Odd."))
        text = mbox(
            patch_mail("[PATCH 1/2] pages: odd", other, odd),
            patch_mail("[PATCH 2/2] pages: small", PAGE, SMALL),
        )
        result = review(write(here, "in.mbox", text))
        assert result.exit_code == 2
        (said,) = result.stderr.splitlines()
        line = next(n for n, row in enumerate(text.splitlines(), 1) if row == "-    Something else entirely.")
        assert f":{line}: error: hunk 1 does not apply" in said
        assert "`Something else entirely.`" in said and "`A page of entries.`" in said
        assert ("pages: small" in result.stdout and "1 added" in result.stdout) or "reworded" in result.stdout

    def test_a_series_that_is_in_already(self, here: Path) -> None:
        (here / PATH).write_text(SMALL)
        result = review(write(here, "in.diff", diff(PAGE, SMALL)))
        assert result.exit_code == 2
        assert "hunk 1 is in the document already" in result.stderr

    def test_a_patch_for_another_file(self, here: Path) -> None:
        result = review(write(here, "in.diff", diff("a\n", "b\n", "arch/x86/kvm/x86.c")))
        assert result.exit_code == 2
        assert "only for arch/x86/kvm/x86.c" in result.stderr

    def test_other_files_beside_the_document_are_named(self, here: Path) -> None:
        text = diff("a\n", "b\n", "arch/x86/kvm/x86.c") + diff(PAGE, SMALL)
        (patch,) = as_data(write(here, "in.diff", text))["patches"]
        assert patch["other_files"] == ["arch/x86/kvm/x86.c"]

    @pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd"])
    def test_a_path_that_leads_out_is_never_opened(self, here: Path, path: str) -> None:
        text = diff(PAGE, SMALL).replace(f"a/{PATH}", path).replace(f"b/{PATH}", path)
        result = review(write(here, "in.diff", text))
        assert result.exit_code == 2
        assert "leads out of the tree" in result.stderr
        assert not (here.parent / "etc").exists()

    def test_an_html_mail(self, here: Path) -> None:
        text = mail("[PATCH] Small", "<html>\n", headers=("MIME-Version: 1.0", "Content-Type: text/html"))
        result = review(write(here, "in", text))
        assert result.exit_code == 2
        assert "HTML" in result.stderr

    def test_a_binary_diff_of_the_document(self, here: Path) -> None:
        text = f"diff --git a/{PATH} b/{PATH}\nindex 1..2 100644\nGIT binary patch\nliteral 3\nxyz\n"
        result = review(write(here, "in.diff", text))
        assert result.exit_code == 2
        assert "binary" in result.stderr

    def test_a_mail_without_a_diff(self, here: Path) -> None:
        result = review(write(here, "in", mail("[PATCH] Small", "Nothing.\n")))
        assert result.exit_code == 2
        assert "no patch in it" in result.stderr

    def test_a_cut_diff_names_its_line(self, here: Path) -> None:
        text = diff(PAGE, SMALL)
        result = review(write(here, "in.diff", text[: text.index("+It keeps")]))
        assert result.exit_code == 2
        assert re.search(r"in\.diff:\d+: error: .*ends early", result.stderr)

    def test_no_such_base_and_nothing_is_written(self, here: Path) -> None:
        before = sorted(here.rglob("*"))
        result = review(str(here / PATH), base="none.rst")
        assert result.exit_code == 2
        assert "none.rst" in result.stderr
        assert [path for path in sorted(here.rglob("*")) if "cache" not in str(path)] == [
            path for path in before if "cache" not in str(path)
        ]

    def test_a_range_needs_a_tree(self, here: Path) -> None:
        result = review("v1..v2")
        assert result.exit_code == 2
        assert "--tree" in result.stderr


class TestTree:
    @pytest.fixture
    def tree(self, here: Path) -> Path:
        """A repository with two commits on the page after the first."""

        def git(*arguments: str) -> None:
            subprocess.run(
                ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-C", here, *arguments],
                check=True,
                capture_output=True,
            )

        git("init", "-q", "-b", "main")
        (here / "arch/x86/kvm").mkdir(parents=True)
        (here / "arch/x86/kvm/mmu.c").write_text("int xylophone_count;\n")
        for number, text in enumerate((PAGE, GUEST, BITMAP)):
            (here / PATH).write_text(text)
            git("add", "-A")
            git("commit", "-qm", f"pages: step {number}")
            git("tag", f"step{number}")
        return here

    def test_a_range_is_reviewed_commit_by_commit_against_its_start(self, tree: Path) -> None:
        result = review("step0..step2", "--tree", str(tree), "--format", "json", base=None)
        data = json.loads(result.stdout)
        assert result.exit_code == 1
        assert [patch["subject"] for patch in data["patches"]] == [
            "[PATCH 1/2] pages: step 1", "[PATCH 2/2] pages: step 2",
        ]  # fmt: skip
        assert all(fit["fuzz"] == 0 and not fit["folded"] for p in data["patches"] for fit in p["applied"])

    def test_a_range_that_leaves_the_document_alone(self, tree: Path) -> None:
        result = review("step2..step2", "--tree", str(tree), base=None)
        assert result.exit_code == 0
        assert "Nothing to say." in result.stdout

    def test_an_unknown_revision(self, tree: Path) -> None:
        result = review("step0..nowhere", "--tree", str(tree), base=None)
        assert result.exit_code == 2
        assert "nowhere" in result.stderr

    @pytest.mark.parametrize("through_git", [False, True])
    def test_names_and_files_are_looked_up_in_the_tree(self, tree: Path, through_git: bool) -> None:
        new = "    The xylophone_count and the xylophone_size.  See arch/x86/kvm/{}.c, arch/x86/kvm/mmu.c.\n"
        after = replaced(BITMAP, ("    A page of entries.\n", new.format("none")))
        patch = write(tree, "in.diff", diff(BITMAP, after))
        if through_git:
            (tree / PATH).write_text(after)
            commit = (
                "git",
                "-c",
                "user.name=A",
                "-c",
                "user.email=a@b",
                "-C",
                tree,
                "commit",
                "-qam",
                "more",
            )
            subprocess.run(commit, check=True)
            data = as_data("step2..HEAD", "--tree", str(tree), base=None)
        else:
            data = as_data(patch, "--tree", str(tree))
        (name,) = messages_of(data, "name")
        assert name.startswith("xylophone_size is no field")
        assert messages_of(data, "reference") == ["the kernel tree has no arch/x86/kvm/none.c"]

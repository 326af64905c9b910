"""Mails, mboxes, diffs and archive pages: what is in them, and on which lines."""

from __future__ import annotations

import base64
import quopri
from pathlib import Path

import pytest

from mmuspec.errors import Problem
from mmuspec.review.diffs import file_diffs
from mmuspec.review.mailbox import messages
from tests.review.scene import PAGE, PATH, archived, diff, mail, mbox, patch_mail, replaced, write

AFTER = replaced(PAGE, ("It is small.", "It is quite small."))


def read(folder: Path, text: str | bytes, name: str = "in") -> list[object]:
    return list(messages(write(folder, name, text)))


def test_an_mbox_has_all_its_mails_and_the_lines_they_stand_on(tmp_path: Path) -> None:
    text = mbox(mail("[PATCH 0/1] About", "Words.\n"), patch_mail("[PATCH 1/1] Small", PAGE, AFTER))
    first, second = messages(write(tmp_path, "in.mbox", text))
    assert (first.number, second.number, second.title) == (0, 1, "Small")
    rows = text.splitlines()
    assert all(rows[line.number - 1] == line.text for line in second.body if line.text)


def test_a_single_mail(tmp_path: Path) -> None:
    (one,) = messages(write(tmp_path, "in.eml", patch_mail("[RFC PATCH v4 02/12] Small", PAGE, AFTER)))
    assert (one.version, one.number, one.total, one.author) == (4, 2, 12, "Ada Author")


def test_a_bare_diff_has_no_subject(tmp_path: Path) -> None:
    (one,) = messages(write(tmp_path, "in.diff", diff(PAGE, AFTER)))
    assert (one.subject, one.body[0].number) == ("", 1)


def test_a_folded_and_encoded_subject(tmp_path: Path) -> None:
    (one,) = messages(
        write(tmp_path, "in", mail("=?utf-8?q?=5BPATCH_v2_1/2=5D_Stra=C3=9Fe?=\n and more", "x\n"))
    )
    assert (one.version, one.title) == (2, "Straße and more")


@pytest.mark.parametrize("encoding", ["quoted-printable", "base64"])
def test_encoded_bodies(tmp_path: Path, encoding: str) -> None:
    body = f"Grüße\n---\n{diff(PAGE, AFTER)}"
    data = body.encode()
    encoded = quopri.encodestring(data) if encoding == "quoted-printable" else base64.encodebytes(data)
    headers = (
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Transfer-Encoding: {encoding}",
    )
    (one,) = messages(write(tmp_path, "in", mail("[PATCH] Small", encoded.decode(), headers=headers)))
    assert [line.text for line in one.body][: len(body.splitlines())] == body.splitlines()
    (found,) = file_diffs(one.body)
    assert found.path == PATH and not found.broken


def test_a_line_of_quoted_printable_is_where_it_begins(tmp_path: Path) -> None:
    long = "word " * 40
    encoded = quopri.encodestring(f"{long}\nsecond\n".encode()).decode()
    assert encoded.count("\n") > 2
    headers = ("MIME-Version: 1.0", "Content-Type: text/plain", "Content-Transfer-Encoding: quoted-printable")
    text = mail("[PATCH] Small", encoded, headers=headers)
    (one,) = messages(write(tmp_path, "in", text))
    second = next(line for line in one.body if line.text == "second")
    assert text.splitlines()[second.number - 1] == "second"


def test_carriage_returns_are_the_mail_s_own(tmp_path: Path) -> None:
    (one,) = messages(write(tmp_path, "in", patch_mail("[PATCH] Small", PAGE, AFTER).replace("\n", "\r\n")))
    assert not any("\r" in line.text for line in one.body)
    (found,) = file_diffs(one.body)
    assert not found.broken


def test_an_attachment_is_read(tmp_path: Path) -> None:
    body = (
        "--cut\nContent-Type: text/plain\n\nSee below.\n\n"
        f"--cut\nContent-Type: text/x-patch; name=a.patch\n\n{diff(PAGE, AFTER)}\n--cut--\n"
    )
    headers = ("MIME-Version: 1.0", 'Content-Type: multipart/mixed; boundary="cut"')
    text = mail("[PATCH] Small", body, headers=headers)
    (one,) = messages(write(tmp_path, "in", text))
    (found,) = file_diffs(one.body)
    assert text.splitlines()[found.line - 1].startswith("diff --git")


def test_html_alone_is_a_complaint_and_beside_text_none(tmp_path: Path) -> None:
    only = mail("[PATCH] Small", "<p>hello</p>\n", headers=("MIME-Version: 1.0", "Content-Type: text/html"))
    (one,) = messages(write(tmp_path, "in", only))
    assert "HTML" in one.complaints[0].text
    both = (
        f"--cut\nContent-Type: text/plain\n\n{diff(PAGE, AFTER)}\n"
        "--cut\nContent-Type: text/html\n\n<p>hello</p>\n--cut--\n"
    )
    headers = ("MIME-Version: 1.0", 'Content-Type: multipart/alternative; boundary="cut"')
    (other,) = messages(write(tmp_path, "in", mail("[PATCH] Small", both, headers=headers)))
    assert not other.complaints


def test_an_archive_page(tmp_path: Path) -> None:
    text = archived(("Ada", "[PATCH v3 0/2] About", "Words.\n"), ("Bob", "Re: [PATCH v3 1/2] Small", "No.\n"))
    first, second = messages(write(tmp_path, "in.txt", text))
    assert (first.author, first.number, first.flattened) == ("Ada", 0, True)
    assert second.is_reply and second.title == "Small"
    assert text.splitlines()[second.line - 1].startswith("2023-08-02")


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b" \n\n", "is empty"), (b"a\0b", "is binary")]
)
def test_what_is_no_input(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(Problem, match=said):
        read(tmp_path, content)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no such file"):
        list(messages(str(tmp_path / "none")))
    with pytest.raises(Problem, match="is a folder"):
        list(messages(str(tmp_path)))


def test_a_large_mbox_is_read_mail_by_mail(tmp_path: Path) -> None:
    filler = "All work and no play makes a long list of mails that nobody reads to the end.\n" * 13_000
    text = mbox(
        *[mail(f"chatter {number}", filler) for number in range(50)], patch_mail("[PATCH] Small", PAGE, AFTER)
    )
    assert len(text) > 50_000_000
    path = write(tmp_path, "in.mbox", text)
    assert sum(message.title == "Small" for message in messages(path)) == 1

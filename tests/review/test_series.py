"""Patches in their order, what is missing, what is a reply, what was said in it of which statement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmuspec.extract import extract
from mmuspec.review.mailbox import messages
from mmuspec.review.replies import remarks, statement_quoted
from mmuspec.review.series import Series, gather
from tests.review.scene import LOCKED, PAGE, diff, mail, mbox, patch_mail, quoted, replaced, write

AFTER = replaced(PAGE, ("It is small.", "It is quite small."))
COVER = """\
Two things.

Ada Author (3):
  pages: Say that it is
    quite small
  pages: The second thing
  pages: The third thing

 mmu.rst | 2 +-
"""


def gathered(folder: Path, *mails: str) -> Series:
    return gather(messages(write(folder, "in.mbox", mbox(*mails))))


def numbers(series: Series) -> list[int | None]:
    return [patch.message.number for patch in series.patches]


def patch(subject: str, **options: Any) -> str:
    return patch_mail(subject, PAGE, AFTER, **options)


def test_patches_are_put_in_order_and_the_missing_one_is_named(tmp_path: Path) -> None:
    series = gathered(
        tmp_path, patch("[PATCH 3/3] pages: The third thing"), mail("[PATCH 0/3] Things", COVER),
        patch("[PATCH 1/3] pages: Say that it is quite small"),
    )  # fmt: skip
    assert numbers(series) == [1, 3]
    assert [(m.number, m.total, m.title) for m in series.missing] == [(2, 3, "pages: The second thing")]
    assert [series.lacks_before(each) for each in series.patches] == [False, True]


def test_a_short_log_whose_indentation_is_lost(tmp_path: Path) -> None:
    flat = "".join(f"{row.strip()}\n" for row in COVER.splitlines())
    series = gathered(
        tmp_path, mail("[PATCH 0/3] Things", flat), patch("[PATCH 2/3] pages: The second thing")
    )
    assert [m.title for m in series.missing] == [
        "pages: Say that it is quite small",
        "pages: The third thing",
    ]


def test_a_reply_with_a_diff_of_its_own_is_no_patch(tmp_path: Path) -> None:
    series = gathered(
        tmp_path, patch("[PATCH 1/1] Small"), patch("Re: [PATCH 1/1] Small"), patch("AW: [PATCH 1/1] Small")
    )
    assert numbers(series) == [1]
    assert len(series.replies) == 2


def test_an_older_version_is_left_out(tmp_path: Path) -> None:
    series = gathered(tmp_path, patch("[PATCH v2 1/1] Small"), patch("[PATCH v3 1/1] Small"))
    assert [each.message.version for each in series.patches] == [3]
    assert [message.version for message in series.superseded] == [2]


def test_the_same_mail_by_two_lists_counts_once(tmp_path: Path) -> None:
    one = patch("[PATCH 1/2] Small", message_id="a@b")
    assert numbers(gathered(tmp_path, one, one, patch("[PATCH 2/2] Smaller", message_id="c@d"))) == [1, 2]


def test_two_series_in_one_mbox_come_one_after_the_other(tmp_path: Path) -> None:
    series = gathered(
        tmp_path, patch("[PATCH 2/2] B", message_id="b@x", headers=("References: <x@x>",)),
        patch("[PATCH 1/2] C", message_id="c@y", headers=("References: <y@y>",)),
        patch("[PATCH 1/2] A", message_id="a@x", headers=("References: <x@x>",)),
        patch("[PATCH 2/2] D", message_id="d@y", headers=("References: <y@y>",)),
    )  # fmt: skip
    assert [each.message.title for each in series.patches] == ["A", "B", "C", "D"]
    assert not series.missing


def test_patches_without_numbers_stay_as_they_come(tmp_path: Path) -> None:
    series = gathered(tmp_path, patch("[PATCH] B"), patch("[PATCH] A"))
    assert [each.message.title for each in series.patches] == ["B", "A"]


def test_a_remark_belongs_to_the_sentence_it_stands_below(tmp_path: Path) -> None:
    after = replaced(PAGE, ("the\n    page stays.", f"the\n    page stays.  {LOCKED}"))
    body = quoted(f"Words.\n{diff(PAGE, after)}")
    at = body.index("read lock.") + len("read lock.\n")
    reply = mail(
        "Re: [PATCH] Lock",
        f"{body[:at]}\nThat is not so:\nthe lock is the other one.\n\n{body[at:]}",
        author="Bob",
    )
    (found,) = gathered(tmp_path, reply).replies
    (remark,) = remarks(found)
    assert (remark.author, remark.text) == ("Bob", "That is not so: the lock is the other one.")
    document, _ = extract(after, "x")
    said = statement_quoted(remark, document.statements)
    assert said is not None and said.text == LOCKED


def test_a_quoted_remark_has_its_own_author_and_an_answer_is_told_apart(tmp_path: Path) -> None:
    body = (
        "On Wed, Aug 16, 2023, Bob Reviewer wrote:\n> On Tue, Aug 1, 2023, Ada Author wrote:\n"
        "> > +    A page is never freed while a vCPU runs.\n>\n> Never is wrong.\n\nI see.\n\n--\nAda\n"
    )
    (reply,) = gathered(tmp_path, mail("Re: [PATCH] Free", body)).replies
    objection, answer = remarks(reply)
    assert (objection.author, objection.text, objection.answer) == ("Bob Reviewer", "Never is wrong.", False)
    assert (answer.author, answer.text, answer.answer) == ("Ada Author", "I see.", True)


def test_what_stands_below_no_diff_is_no_remark_on_a_statement(tmp_path: Path) -> None:
    (reply,) = gathered(tmp_path, mail("Re: [PATCH] Free", f"{quoted('Words.')}\nThanks.\n")).replies
    assert not list(remarks(reply))

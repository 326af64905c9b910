"""Pictures that conformance tests attach."""

from __future__ import annotations

from xml.etree import ElementTree

from conformance.pictures import NEWEST, Camera
from conformance.scenes import guest
from mmu_model.snapshot import MmuKind
from mmuspec.attachments import Attachment
from tests.mmu_tool.draw.states import moment


def pictures(kernel: str) -> list[Attachment]:
    """What is attached by a test of the model on that kernel that takes one picture, then one of a change."""
    taken: list[Attachment] = []
    camera = Camera(lambda *fields: taken.append(_attached(*fields)), kernel)
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000, 0x40000000: 0x7000})
    scene.reads(0x5000)
    before = scene.vm.snapshot()
    camera("one page", scene.vm)
    scene.reads(0x40000000)
    camera("two pages", scene.vm, before)
    return taken


def _attached(name: str, media_type: str, content: bytes, text: str) -> Attachment:
    return Attachment(name, media_type, text, content)


def test_pictures_of_the_newest_kernel_are_fit_to_be_attached() -> None:
    one, two = pictures(NEWEST)

    assert (one.name, two.name) == (f"one page (Linux {NEWEST})", f"two pages (Linux {NEWEST})")
    for each in (one, two):
        assert each.media_type == "image/svg+xml"
        ElementTree.fromstring(each.content)
    assert " (new)" not in one.text and "new: " not in one.text
    assert two.text.count(" (new)") == 2  # the pages of level 2 and 1 below the same page of level 3


def test_of_other_kernels_there_are_none() -> None:
    assert pictures("6.1") == []


def test_a_recorded_state_is_taken_as_it_is() -> None:
    taken: list[Attachment] = []
    camera = Camera(lambda *fields: taken.append(_attached(*fields)), NEWEST)

    camera("recorded", moment("unsync", "two-children"), moment("unsync", "in-sync"))

    assert "new: unsync" in taken[0].text

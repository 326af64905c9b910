"""Page-modification logging, SDM vol. 3, 29.3.6: what is logged, when, and what happens when there is no room."""

import pytest

from conformance.hardware.guest import GPA, VA, EptGuest
from mmu_model.hardware import Access, EptViolation, ExtendedPaging, Kind, LogicalProcessor, Mode, access
from mmu_model.hardware.pml import PageModificationLog, PageModificationLogFull

READ, WRITE = access(Kind.READ), access(Kind.WRITE)
EPT_A, EPT_D, W = 1 << 8, 1 << 9, 2


class Logged:
    """A guest of 4-level paging whose processor logs."""

    def __init__(self) -> None:
        self.guest = EptGuest(Mode.FOUR_LEVEL, Mode.FOUR_LEVEL, flags=True)
        self.log = PageModificationLog()
        plain = self.guest.paging
        assert isinstance(plain, ExtendedPaging)
        eptp = plain.ep4ta | 6 | 3 << 3 | 1 << 6
        self.paging = ExtendedPaging(eptp, log=self.log)
        self.cpu = LogicalProcessor(self.guest.memory)
        self.cpu.enter_guest(self.guest.registers, self.paging)

    def access(self, how: Access) -> None:
        self.cpu.translate(VA | 0x18, how)


@pytest.fixture
def logged() -> Logged:
    return Logged()


def test_a_page_is_logged_when_its_dirty_flag_becomes_set(logged: Logged) -> None:
    """Once; without the offset. With dirty flags for EPT, walking the guest's tables is a write to them."""
    logged.access(READ)
    assert sorted(logged.log.take()) == logged.guest.table_gpas

    logged.access(WRITE)
    logged.access(WRITE)

    assert logged.log.take() == [GPA]


def test_a_page_that_was_made_clean_is_logged_again_once_the_tlb_forgot_it(logged: Logged) -> None:
    logged.access(WRITE)
    logged.log.take()
    logged.guest.change(GPA, clear=EPT_D)
    logged.access(WRITE)
    assert logged.log.take() == []

    logged.cpu.invept()
    logged.access(WRITE)

    assert GPA in logged.log.take()


def test_a_write_that_is_not_permitted_is_not_logged(logged: Logged) -> None:
    logged.access(READ)
    logged.log.take()
    logged.guest.change(GPA, clear=W)
    logged.cpu.invept()

    with pytest.raises(EptViolation):
        logged.access(WRITE)

    assert logged.log.take() == []


def test_without_room_the_write_does_not_happen(logged: Logged) -> None:
    """Neither does the processor set the flag; with room for it, it goes on."""
    logged.access(READ)
    for _ in range(PageModificationLog.ENTRIES - len(logged.log)):
        logged.log.append(0)

    with pytest.raises(PageModificationLogFull):
        logged.access(WRITE)
    assert not logged.guest.entry(GPA) & EPT_D
    assert len(logged.log.take()) == PageModificationLog.ENTRIES

    logged.access(WRITE)
    assert logged.log.take() == [GPA]


def test_no_log_without_dirty_flags() -> None:
    with pytest.raises(ValueError, match="needs dirty flags"):
        ExtendedPaging(0x1000 | 6 | 3 << 3, log=PageModificationLog())

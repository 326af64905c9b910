"""Scenarios run on the model: what each step gives, what a snapshot is of, and what ends a run before its time."""

import pytest

from conformance.scenario.short_scenarios import HEAD, Reader, with_steps
from mmu_model.run import run_scenario, unexpected
from mmu_model.scenario.schema import Place
from mmu_model.scenario.tables import GuestTables
from mmu_model.snapshot import Kind, MmuKind, Recording, StepResult, canonical

RW_U = 0x40000000
"""Linear address of the first page of slot 1; the next one is mapped, too."""

NESTED = (
    HEAD
    + "  inner: [{at: 0x40000000, to: 0x208000, count: 2}]\n"
    + "  npt: {npt: [{at: 0x208000, count: 1}]}\n"
    + "nested: {cr3: inner, npt: npt}\n"
)


def results(recording: Recording) -> list[dict[str, object]]:
    """What the steps gave, without what they did not."""
    return [
        {name: getattr(result, name) for name in StepResult.__slots__ if getattr(result, name) is not None}
        for result in recording.results
    ]


def run(
    read: Reader, *steps: str, head: str = HEAD, mmu: MmuKind = MmuKind.SHADOW, kernel: str = "6.12"
) -> Recording:
    return run_scenario(read(with_steps(*steps, head=head)), kernel, mmu)


def test_what_the_guest_reads_is_told(read: Reader, kernel: str, mmu: MmuKind) -> None:
    """As wide as a register. Memory is full of jumps by RBP, but for what was written."""
    steps = ("read: 0x40000000", "write: {at: 0x40000000, value: 0x1234567890abcdef}", "read: 0x40000000")
    sized = (
        *("write: {at: 0x40000001, value: 0xff77, size: 1}", "write: {at: 0x40000004, size: 4}"),
        steps[-1],
    )

    given = run(read, *steps, *sized, "read: {at: 0x40000008, user: true}", kernel=kernel, mmu=mmu)

    assert results(given) == [
        {"step": 0, "value": 0xE5FFE5FFE5FFE5FF},
        {"step": 2, "value": 0x1234567890ABCDEF},
        {"step": 5, "value": 0x00005EED90AB77EF},
        {"step": 6, "value": 0xE5FFE5FFE5FFE5FF},
    ]


def test_outside_long_mode_registers_have_32_bits(read: Reader) -> None:
    head = HEAD.replace("4-level", "pae")
    write = "write: {at: 0x40000000, value: 0x1234567890abcdef}"

    assert results(run(read, write, "read: 0x40000000", "read: 0x40000004", head=head)) == [
        {"step": 1, "value": 0x90ABCDEF},
        {"step": 2, "value": 0xE5FFE5FF},
    ]


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ("read: {at: 0x40000000, fault: true}", 0),
        ("write: {at: 0x40000000, fault: true}", 0x2),
        ("fetch: {at: 0x40000000, fault: true}", 0x10),
        ("read: {at: 0x40000000, user: true, fault: true}", 0x4),
        ("write: {at: 0x40000000, user: true, fault: true}", 0x6),
        ("fetch: {at: 0x40000000, user: true, fault: true}", 0x14),
    ],
)
def test_a_fault_is_told_and_the_guest_goes_on(read: Reader, mmu: MmuKind, step: str, code: int) -> None:
    """Vector 14, the error code and CR2 (SDM Vol. 3, 4.7); the next step is done."""
    unmapped = "set_entry: {in: main, at: 0x40000000, level: 1, clear: true}"

    given = run(read, unmapped, "invlpg: 0x40000000", step, "read: 0x40001000", mmu=mmu)

    assert results(given) == [
        {"step": 2, "vector": 14, "error_code": code, "cr2": RW_U},
        {"step": 3, "value": 0xE5FFE5FFE5FFE5FF},
    ]


def test_steps_that_load_registers_take_effect(read: Reader) -> None:
    """Each decides whether an access faults: WP, SMEP, SMAP, NXE, CR3."""
    head = HEAD + "    - {at: 0x80000000, to: 2M, flags: []}\n    - {at: 0xc0000000, to: 2M, flags: [nx]}\n"
    head += "  other: []\n"
    steps = (
        *(
            "write: {at: 0x80000000, fault: true}",
            "set: {cr0.wp: 0}",
            "write: 0x80000000",
            "set: {cr0.wp: 1}",
        ),
        *("fetch: 0x40000000", "set: {cr4.smep: 1}", "fetch: {at: 0x40000000, fault: true}"),
        *("read: 0x40000000", "set: {cr4.smap: 1}", "read: {at: 0x40000000, fault: true}"),
        *("fetch: {at: 0xc0000000, fault: true}", "set: {efer.nx: 0}", "read: {at: 0xc0000000, fault: true}"),
        *("cr3: other", "read: {at: 0x80000000, fault: true}", "cr3: main", "read: 0x80000000"),
    )
    scenario = read(with_steps(*steps, head=head))
    given = run_scenario(scenario, "6.12", MmuKind.SHADOW)

    assert unexpected(scenario, given) == []
    codes = {result.step: result.error_code for result in given.results if result.vector is not None}
    assert codes == {0: 3, 6: 0x11, 9: 1, 10: 0x11, 12: 9, 14: 0}


def test_an_entry_is_stale_until_invlpg(read: Reader) -> None:
    """Under shadow paging nothing is carried over by the processor, but by unsync pages."""
    steps = (
        *("read: 0x40001000", "write: {at: 0x40001000, value: 1}"),
        "set_entry: {in: main, at: 0x40000000, level: 1, to: 0x201000}",
        *("invlpg: 0x40000000", "read: 0x40000000"),
    )

    assert results(run(read, *steps))[-1] == {"step": 4, "value": 1}


def test_userspace_writes_an_entry_behind_the_guests_back(read: Reader) -> None:
    steps = (
        "read: 0x40000000",
        "set_entry: {in: main, at: 0x40000000, level: 1, clear: true, quietly: true}",
        *("cr3: main", "read: {at: 0x40000000, fault: true}"),
    )

    assert results(run(read, *steps, mmu=MmuKind.TDP))[-1] == {
        "step": 3,
        "vector": 14,
        "error_code": 0,
        "cr2": RW_U,
    }


def test_the_dirty_log_has_the_pages_of_the_slot(read: Reader, kernel: str, mmu: MmuKind) -> None:
    head = HEAD.replace("size: 2M}", "size: 2M, dirty_log: true}")
    steps = (
        "write: 0x40001000",
        "write: 0x40000000",
        "read: 0x40001000",
        "get_dirty_log: 1",
        "get_dirty_log: 1",
    )

    assert results(run(read, *steps, head=head, mmu=mmu, kernel=kernel))[1:] == [
        {"step": 3, "dirty": (0, 1)},
        {"step": 4, "dirty": ()},
    ]


def test_a_log_that_is_protected_by_hand_keeps_what_is_not_cleared(read: Reader) -> None:
    head = HEAD.replace("size: 2M}", "size: 2M, dirty_log: true}").replace("count: 2", "count: 70")
    steps = ("write: 0x40000000", "write: 0x40041000", "get_dirty_log: 1")
    clear = "clear_dirty_log: {slot: 1, page: 64, count: 1}"
    more = "clear_dirty_log: {slot: 1, page: 64, count: 2}"

    given = run(
        read,
        *steps,
        clear,
        "get_dirty_log: 1",
        more,
        "get_dirty_log: 1",
        head=head + "manual_dirty_log: true\n",
    )

    assert [result.dirty for result in given.results] == [(0, 65), (0, 65), (0,)]


def test_slots_come_move_change_and_go(read: Reader) -> None:
    """Where there is no memory userspace answers with zeros; memory that moves keeps what is in it."""
    head = HEAD + "    - {at: 0x80000000, to: 16M}\n"
    steps = (
        *(
            "write: {at: 0x40000000, value: 5}",
            "read: 0x80000000",
            "slot: {id: 1, base: 16M}",
            "read: 0x80000000",
        ),
        *("read: 0x40000000", "slot: {id: 2, base: 2M, size: 8K, shares: 1}", "read: 0x40000000"),
        *("slot: {id: 1, dirty_log: true}", "write: 0x80000000", "get_dirty_log: 1", "delete_slot: 1"),
        *("read: 0x80000000", "snapshot: end"),
    )
    given = run(read, *steps, head=head)

    assert [result.value for result in given.results if result.dirty is None] == [0, 5, 0, 5, 0]
    assert [result.dirty for result in given.results if result.dirty is not None] == [(0,)]
    assert [(slot.id, slot.base_gfn, slot.npages) for slot in given.snapshots[0].memslots] == [
        (0, 0, 128),
        (2, 0x200, 2),
    ]


def test_the_host_takes_pages_and_forbids_writing(read: Reader, mmu: MmuKind) -> None:
    """What was dropped reads as zeros; what may not be written loses W, and gets it back."""
    steps = (
        *("write: 0x40000000", "write: 0x40001000", "snapshot: written", "drop: {slot: 1, page: 0}"),
        *("read: 0x40000000", "read: 0x40001000", "host_readonly: {slot: 1, page: 1}", "read: 0x40001000"),
        *(
            "snapshot: readonly",
            "host_writable: {slot: 1, page: 1}",
            "write: 0x40001000",
            "snapshot: writable",
        ),
    )
    given = run(read, *steps, mmu=mmu)

    assert [result.value for result in given.results] == [0, 0x5EED, 0x5EED]
    assert [snapshot.name for snapshot in given.snapshots] == ["written", "readonly", "writable"]
    seconds = [
        [
            spte
            for page in snapshot.pages
            if page.role.level == 1
            for index, spte in page.sptes().items()
            if index == 1
        ]
        for snapshot in given.snapshots
    ]
    marks = [[spte.host_writable for spte in sptes if spte.user] for sptes in seconds]
    assert [all(mark) for mark in marks] == [True, False, True]
    assert not any(spte.writable for spte in seconds[1] if not spte.host_writable)


def test_a_snapshot_is_canonical_and_says_where_slots_lie(read: Reader) -> None:
    """Slots by address space and number; their places are pages of the memory behind the VM."""
    head = HEAD.replace(
        "  1: {", "  9: {base: 16M, size: 8K, smm: true}\n  2: {base: 8M, size: 8K, shares: 9}\n  1: {"
    )
    given = run(read, "read: 0x40000000", "smm: [snapshot: within]", "snapshot: some words", head=head)
    within, after = given.snapshots

    assert [(slot.as_id, slot.id, slot.backing) for slot in after.memslots] == [
        *((0, 0, 0), (0, 1, 0x400), (0, 2, 0x200), (0, 9, 0x200)),
        *((1, 0, 0), (1, 9, 0x200)),
    ]
    assert (within.name, after.name) == ("within", "some words")
    assert (within.vcpus[0].smm, after.vcpus[0].smm) == (True, False)
    assert [canonical(snapshot) for snapshot in given.snapshots] == [within, after]
    assert (after.kernel, after.mmu) == ("6.12", MmuKind.SHADOW)
    assert (given.scenario, len(given.program)) == ("some", 64)


def test_system_management_mode_has_its_own_memory(read: Reader, mmu: MmuKind) -> None:
    """And registers of 32 bits; the guest goes on as it was."""
    head = HEAD.replace("  1: {", "  2: {base: 16M, size: 4K, smm: true}\n  1: {")
    head += "    - {at: 0x80000000, to: 16M}\n"
    steps = (
        "write: {at: 0x80000000, value: 0x1122334455667788}",
        "smm: [read: 0x1000000, write: {at: 0x1000004, value: 0x99aabbccdd}, read: 0x200000]",
        *("read: 0x80000000", "read: {at: 0x40000000, user: true}"),
    )

    assert results(run(read, *steps, head=head, mmu=mmu)) == [
        {"step": 2, "value": 0x55667788},
        {"step": 4, "value": 0},
        {"step": 5, "value": 0xAABBCCDD55667788},
        {"step": 6, "value": 0xE5FFE5FFE5FFE5FF},
    ]


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_a_fault_in_nested_page_tables_ends_the_nested_guest(read: Reader, kernel: str, mmu: MmuKind) -> None:
    """The hypervisor goes on, and can enter again: the nested guest is at its next list then."""
    steps = (
        "nested: [write: 0x40000000, read: 0x40001000, write: {at: 0x40000000, value: 1}]",
        *("read: 0x40000000", "nested: [read: 0x40000000, snapshot: within]", "snapshot: after"),
    )
    given = run(read, *steps, head=NESTED, kernel=kernel, mmu=mmu)

    assert results(given) == [{"step": 4, "value": 0xE5FFE5FFE5FFE5FF}, {"step": 6, "value": 0x5EED}]
    assert [(shot.name, shot.vcpus[0].guest_mode, shot.vcpus[0].mmu) for shot in given.snapshots] == [
        ("within", True, "guest_mmu"),
        ("after", False, "root_mmu"),
    ]


def test_a_nested_guest_keeps_its_registers_while_it_is_out(read: Reader, mmu: MmuKind) -> None:
    """Its CR3; without nested paging it has the hypervisor's memory."""
    head = HEAD + "  inner: [{at: 0x40000000, to: 0x201000}]\n  other: [{at: 0x40000000, to: 0x202000}]\n"
    steps = (
        *("write: 0x40001000", "nested: [read: 0x40000000, cr3: other]", "read: 0x40001000"),
        "nested: [write: {at: 0x40000000, value: 7}, read: 0x40000000, cr3: inner, read: 0x40000000]",
    )

    given = run(read, *steps, head=head + "nested: {cr3: inner}\n", mmu=mmu)

    assert [result.value for result in given.results] == [0x5EED, 0x5EED, 7, 0x5EED]


def test_the_vm_is_made_as_the_scenario_wants_it(read: Reader) -> None:
    """Large pages of the host, nx_huge_pages, levels of nested paging, MAXPHYADDR of the guest."""
    large = HEAD.replace("size: 2M}", "size: 2M, large: true}")
    host = "host: {five_level: true}\n"

    def levels(head: str, mmu: MmuKind = MmuKind.TDP) -> set[tuple[int, bool]]:
        (shot,) = run(read, "fetch: 0x40000000", "snapshot: it", head=head, mmu=mmu).snapshots
        return {
            (page.role.level, spte.executable)
            for page in shot.pages
            for index, spte in page.sptes().items()
            if spte.kind is Kind.LEAF
            and page.gfn >> 9 in (0, 1)
            and (page.gfn == 0x200 or (index == 1 and page.role.level == 2))
        }

    assert levels(HEAD) == {(1, True)}
    assert levels(large) == {(2, True)}
    assert levels(large + "host: {nx_huge_pages: true}\n") == {(1, True)}
    for text, root in ((HEAD, 4), (HEAD + host, 5)):
        (shot,) = run(read, "read: 0", "snapshot: it", head=text, mmu=MmuKind.TDP).snapshots
        assert max(page.role.level for page in shot.pages) == root


def test_bits_beyond_the_guests_maxphyaddr_are_reserved(read: Reader) -> None:
    head = HEAD + "    - {at: 0x80000000, to: 128G}\n"

    for bits, code in ((40, None), (37, 9)):
        given = run(read, "read: 0x80000000", head=head + f"cpu: {{maxphyaddr: {bits}}}\n")
        assert given.results[0].error_code == code


def test_the_host_has_40_bits_of_physical_address(read: Reader, mmu: MmuKind) -> None:
    """As the processor has that was recorded; so has the guest if nothing else is said, and bit 40 is reserved."""
    entry = GuestTables(read(with_steps("read: 0"))).entry_at(Place("main", RW_U, 1), 1)

    def error(bit: int) -> int | None:
        step = f"write: {{at: {entry:#x}, value: {1 << bit | 0x200007:#x}}}"
        return run(read, step, "read: 0x40000000", mmu=mmu).results[0].error_code

    assert (error(39), error(40)) == (None, 9)

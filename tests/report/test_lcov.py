"""Coverage of the document's lines, as a program that knows nothing of this project reads it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from xml.etree import ElementTree

from lcov_cobertura import LcovCobertura  # type: ignore[import-untyped]

from mmuspec.report import Report, build
from mmuspec.report.lcov import tracefile
from mmuspec.status import Status
from tests.report import scene

DOCUMENT = scene.gadget()
SPEC = scene.gadget_spec(DOCUMENT)
REPORT = build(SPEC, scene.gadget_run(SPEC), DOCUMENT)


def read(report: Report) -> dict[str, list[list[str]]]:
    """The records by their kind, and the fields of each."""
    found = defaultdict(list)
    for line in tracefile(report).splitlines():
        kind, _, fields = line.partition(":")
        found[kind].append(fields.split(","))
    return found


def test_another_program_reads_it() -> None:
    cobertura = ElementTree.fromstring(LcovCobertura(tracefile(REPORT)).convert())

    (source,) = cobertura.iter("class")
    assert source.get("filename") == REPORT.source.path
    lines = {int(each.get("number", "")): int(each.get("hits", "")) for each in source.findall("lines/line")}
    assert lines == {int(line): int(hits) for line, hits in read(REPORT)["DA"]}
    methods = [each.get("name") for each in source.iter("method")]
    assert methods == [each.id for each in REPORT.dossiers if each.status is not Status.WAIVED]


HITS = {Status.PROVEN: 1, Status.TESTED: 1, Status.REFUTED: 1, Status.FAILING: 0, Status.UNCOVERED: 0}


def test_lines_count_by_the_status_of_what_is_on_them() -> None:
    """Each statement moved to lines of its own."""
    apart = [replace(each, line=10 * n, end_line=10 * n + 2) for n, each in enumerate(REPORT.dossiers, 1)]
    lines = {int(line): int(hits) for line, hits in read(replace(REPORT, dossiers=tuple(apart)))["DA"]}

    assert {each.status for each in apart} == set(Status)
    assert lines == {
        line: HITS[each.status]
        for each in apart
        if each.status is not Status.WAIVED
        for line in range(each.line, each.line + 3)
    }


def test_a_line_counts_as_the_least_of_its_statements() -> None:
    together = tuple(replace(each, line=7, end_line=7) for each in REPORT.dossiers)
    good = tuple(each for each in together if HITS.get(each.status))

    assert read(replace(REPORT, dossiers=together))["DA"] == [["7", "0"]]
    assert read(replace(REPORT, dossiers=good))["DA"] == [["7", "1"]]


def test_what_cannot_be_tested_is_left_out() -> None:
    (waived,) = (each for each in REPORT.dossiers if each.status is Status.WAIVED)

    assert waived.id not in tracefile(REPORT)


def test_branches_tell_proven_from_tested() -> None:
    taken = defaultdict(list)
    for _, number, branch, count in read(REPORT)["BRDA"]:
        taken[int(number)].append((int(branch), count))
    counted = [each for each in REPORT.dossiers if each.status is not Status.WAIVED]

    assert len(taken) == len(counted)
    for place, known in enumerate(counted):
        expected = {
            Status.PROVEN: [(0, "1"), (1, "1")],
            Status.REFUTED: [(0, "1"), (1, "1")],
            Status.TESTED: [(0, "1"), (1, "0")],
        }
        assert taken[place] == expected.get(known.status, [(0, "0"), (1, "-")])


def test_the_sums_are_right() -> None:
    found = read(REPORT)

    assert int(found["LF"][0][0]) == len(found["DA"])
    assert int(found["LH"][0][0]) == sum(hits != "0" for _, hits in found["DA"])
    assert int(found["FNF"][0][0]) == len(found["FN"]) == len(found["FNDA"])
    assert int(found["FNH"][0][0]) == sum(hits != "0" for hits, _ in found["FNDA"])
    assert int(found["BRF"][0][0]) == len(found["BRDA"])
    assert int(found["BRH"][0][0]) == sum(taken not in ("0", "-") for *_, taken in found["BRDA"])


def test_hostile_names_do_not_end_their_record() -> None:
    bad = "x,y\nend_of_record\nSF:/etc/passwd\u202e"
    dossiers = (replace(REPORT.dossiers[0], id=bad), *REPORT.dossiers[1:])
    report = replace(REPORT, dossiers=dossiers, source=replace(REPORT.source, path=bad))

    found = read(report)

    assert len(found["SF"]) == len(found["end_of_record"]) == 1
    assert {len(fields) for fields in found["FN"]} == {2}
    assert "\u202e" not in tracefile(report)


def test_nothing_known_is_no_hit() -> None:
    found = read(build(SPEC))

    assert found["LH"] == [["0"]] and found["FNH"] == [["0"]]

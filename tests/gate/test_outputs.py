"""What a gate writes: parsed again by a parser of the format, hostile names included."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from rich.console import Console

from chipmark.errors import UnknownNameError, UsageError
from chipmark.gate.findings import GateFindings, GateRow
from chipmark.gate.outputs.annotations import github_annotations
from chipmark.gate.outputs.console import print_findings
from chipmark.gate.outputs.junit import junit_xml
from chipmark.gate.outputs.markdown import markdown
from chipmark.gate.outputs.write import Outputs
from chipmark.gate.verdict import Estimate, Judgement, Margins, Verdict, unfit

HOSTILE = "t.py::test[a|b]<script>&\x1b[31m\n::error::x @me"


def row(verdict: Verdict, name: str = HOSTILE, not_gated: str = "") -> GateRow:
    judged = Judgement(verdict, Estimate(0.1, 0.05, float("inf"), 4), Margins(), reasons=("why",))
    return GateRow(name, "time_s", "s", "lower", 0.001, 0.0011, judged, not_gated)


EVERY = GateFindings(
    "a`b", "new", tuple(row(v, f"{v.value} {HOSTILE}") for v in Verdict), ("a <note>\x00",)
)


def test_junit_is_xml_and_counts():
    suites = ElementTree.fromstring(junit_xml(EVERY))
    assert suites.attrib == {"tests": "6", "failures": "2", "errors": "0", "skipped": "2"}
    cases = suites.findall("testsuite/testcase")
    kinds = {c.attrib["classname"].split()[0]: [e.tag for e in c] for c in cases}
    assert kinds["regressed"] == kinds["missing"] == ["failure"]
    assert kinds["inconclusive"] == kinds["unfit"] == ["skipped"]
    assert kinds["equivalent"] == kinds["improved"] == ["system-out"]
    assert "<script>&" in cases[0].attrib["classname"]


def test_what_is_not_gated_never_fails():
    findings = GateFindings(
        "a", "b", (row(Verdict.REGRESSED, not_gated="known"), row(Verdict.IMPROVED))
    )
    assert findings.exit_code == 0
    suites = ElementTree.fromstring(junit_xml(findings))
    assert suites.attrib["failures"] == "0"
    assert github_annotations(findings)[0].startswith("::notice ")
    assert "known" in markdown(findings)


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        ([Verdict.EQUIVALENT, Verdict.IMPROVED], 0),
        ([Verdict.EQUIVALENT, Verdict.UNFIT], 3),
        ([Verdict.INCONCLUSIVE, Verdict.REGRESSED], 1),
        ([Verdict.EQUIVALENT, Verdict.MISSING], 1),
        ([], 3),
    ],
)
def test_exit_codes(kinds, code):
    assert GateFindings("a", "b", tuple(row(v) for v in kinds)).exit_code == code


def test_an_annotation_is_one_line_whatever_the_name():
    lines = github_annotations(EVERY)
    assert [line.split(" ")[0] for line in lines] == [
        "::error", "::error", "::notice", "::warning"
    ]  # fmt: skip
    for line in lines:
        assert line.isprintable()
        assert line.count("::") == 2  # the name's own are escaped


def test_markdown_holds_no_markup_of_a_name():
    text = markdown(EVERY)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(EVERY.rows)
    for line in table[2:]:
        assert line.replace("\\|", "").count("|") == 8
    assert "<script>" not in text
    assert "`a'b`" in text
    assert "\\@me" in text
    assert table[2].count("**regressed**") == 1


def test_a_terminal_gets_no_escape_of_a_name(capsys):
    print_findings(EVERY, Console(highlight=False, width=200))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "1 regressed" in out


def test_json_is_one_document_without_infinities(capsys, tmp_path):
    junit, summary = tmp_path / "j.xml", tmp_path / "s.md"
    Outputs("json", junit, summary, "github").emit(EVERY)
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["exit_code"] == 1
    assert document["rows"][0]["estimate"]["high"] is None
    assert captured.err.startswith("::error ")
    assert ElementTree.parse(junit).getroot().tag == "testsuites"
    assert summary.read_text(encoding="utf-8").startswith("### chipmark gate: 1 regressed")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["j.xml", "s.md"]


@pytest.mark.parametrize("on", [True, False])
def test_annotations_come_by_themselves_on_github_only(capsys, monkeypatch, on):
    monkeypatch.setenv("GITHUB_ACTIONS", "true" if on else "")
    Outputs("md").emit(EVERY)
    assert ("::error" in capsys.readouterr().err) is on


def test_outputs_are_checked_before_anything_is_measured(tmp_path):
    with pytest.raises(UnknownNameError, match="jsno"):
        Outputs("jsno").check()
    with pytest.raises(UnknownNameError, match="annotations"):
        Outputs(annotations="gitlab").check()
    with pytest.raises(UsageError, match="folder does not exist"):
        Outputs(junit=tmp_path / "no" / "j.xml").check()


def test_an_unfit_row_without_an_estimate_is_written_everywhere(capsys):
    bare = GateRow("x", "time_s", "s", "lower", None, None, unfit(["the canary moved"], Margins()))
    findings = GateFindings("a", "b", (bare,))
    assert "the canary moved" in markdown(findings)
    assert "the canary moved" in junit_xml(findings)
    print_findings(findings, Console(width=100))
    assert "the canary moved" in capsys.readouterr().out


def test_a_reason_that_holds_for_all_rows_is_printed_once():
    judged = unfit(("the machine is busy",), Margins(), Estimate(0.1, 0.05, 0.15, 6))
    rows = tuple(GateRow(n, "time_s", "s", "lower", 1.0, 1.1, judged) for n in "xyz")
    console = Console(record=True, width=200)
    print_findings(GateFindings("a", "b", rows, ("the machine is busy",)), console)
    assert console.export_text().count("the machine is busy") == 1

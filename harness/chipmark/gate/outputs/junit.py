"""JUnit XML: a test case a row; regressed and missing are failures, undecided is skipped."""

from __future__ import annotations

from xml.etree import ElementTree

from chipmark.foreign_text import xml_text
from chipmark.gate.findings import GateFindings, GateRow
from chipmark.gate.verdict import Verdict


def junit_xml(findings: GateFindings) -> str:
    """The document. A row that is not gated is skipped whatever its verdict."""
    failed = sum(row.fails for row in findings.rows)
    skipped = sum(_skips(row) for row in findings.rows)
    counts = {
        "tests": str(len(findings.rows)),
        "failures": str(failed),
        "errors": "0",
        "skipped": str(skipped),
    }
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "chipmark gate", **counts})
    for row in findings.rows:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {"classname": xml_text(row.benchmark), "name": xml_text(row.metric), "time": "0"},
        )
        text = xml_text(row.sentence())
        if row.fails:
            failure = {"message": text, "type": row.verdict.value}
            ElementTree.SubElement(case, "failure", failure)
        elif _skips(row):
            message = f"{row.verdict.value}: {text}"
            ElementTree.SubElement(case, "skipped", {"message": message})
        else:
            ElementTree.SubElement(case, "system-out").text = f"{row.verdict.value}: {text}"
    if findings.notes:
        ElementTree.SubElement(suite, "system-out").text = xml_text("\n".join(findings.notes))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _skips(row: GateRow) -> bool:
    return bool(row.not_gated) or row.verdict in (Verdict.INCONCLUSIVE, Verdict.UNFIT)

"""JUnit XML: a test case a row; regressed and missing are failures, undecided is skipped."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from chipmark.gate.findings import GateFindings, GateRow
from chipmark.gate.verdict import Verdict

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold even escaped."""


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
            {"classname": _clean(row.benchmark), "name": _clean(row.metric), "time": "0"},
        )
        text = _clean(row.sentence())
        if row.fails:
            failure = {"message": text, "type": row.verdict.value}
            ElementTree.SubElement(case, "failure", failure)
        elif _skips(row):
            message = f"{row.verdict.value}: {text}"
            ElementTree.SubElement(case, "skipped", {"message": message})
        else:
            ElementTree.SubElement(case, "system-out").text = f"{row.verdict.value}: {text}"
    if findings.notes:
        ElementTree.SubElement(suite, "system-out").text = _clean("\n".join(findings.notes))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _skips(row: GateRow) -> bool:
    return bool(row.not_gated) or row.verdict in (Verdict.INCONCLUSIVE, Verdict.UNFIT)


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)

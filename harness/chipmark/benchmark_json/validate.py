"""Is a stored run of pytest-benchmark whole, and what it claims to be."""

from __future__ import annotations

from pathlib import Path

from chipmark.benchmark_json.store import CONTENT_FILE, RUN_FILE, description, load_run, run_name
from chipmark.codes import FindingCode
from chipmark.errors import BadInputError, ChipmarkError
from chipmark.results.finding import Finding


def validate_run(folder: Path) -> list[Finding]:
    """Findings on an imported run: its description, checksum and size, the file read again by the
    rules of the import (every sample, and statistics against samples), and files next to it."""
    try:
        described = description(folder / RUN_FILE)
        run = load_run(folder)
    except ChipmarkError as error:
        path = Path(error.path) if isinstance(error, BadInputError) else folder
        return [Finding("error", FindingCode.BENCHMARK_RUN, path, error.message)]
    findings = []
    file = described["file"]
    claims = (
        ("id", described.get("id"), run_name(run)),
        ("version", described.get("version"), run.version),
        ("benchmarks", described.get("benchmarks"), run.size),
        ("file.name", file.get("name"), CONTENT_FILE),
        ("file.bytes", file.get("bytes"), (folder / CONTENT_FILE).stat().st_size),
    )
    for name, said, found in claims:
        if said != found:
            text = f"{name} is {said!r}, the file gives {found!r}"
            findings.append(Finding("error", FindingCode.BENCHMARK_RUN, folder / RUN_FILE, text))
    for fault in run.faults:
        text = f"{fault.field}: {fault.problem}"
        findings.append(Finding("error", FindingCode.BENCHMARK_RUN, folder / CONTENT_FILE, text))
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.relative_to(folder).as_posix() not in (RUN_FILE, CONTENT_FILE):
            findings.append(Finding("warning", FindingCode.EXTRA, path, "is not of the run"))
    return findings

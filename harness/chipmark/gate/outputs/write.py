"""The files and lines that a gate or an A/B run leaves in addition to what it prints."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from chipmark.errors import UnknownNameError, UsageError
from chipmark.gate.findings import GateFindings
from chipmark.gate.outputs.annotations import github_annotations
from chipmark.gate.outputs.junit import junit_xml
from chipmark.gate.outputs.markdown import markdown
from chipmark_models.files import whole_file

FORMATS = ("rich", "json", "md")
ANNOTATIONS = ("auto", "github", "none")


@dataclass(frozen=True, slots=True)
class Outputs:
    """format of stdout; files for JUnit and Markdown; annotations `auto` is GitHub's where its
    runner says that it is there."""

    format: str = "rich"
    junit: Path | None = None
    summary: Path | None = None
    annotations: str = "auto"

    def check(self) -> None:
        """Before anything is measured: names that do not exist, folders that are not there."""
        for what, name, valid in (
            ("format", self.format, FORMATS),
            ("annotations", self.annotations, ANNOTATIONS),
        ):
            if name not in valid:
                raise UnknownNameError(what, name, valid)
        for path in (self.junit, self.summary):
            if path is not None and not path.resolve().parent.is_dir():
                raise UsageError(f"{path}: its folder does not exist", "make it, or choose another")

    def emit(self, findings: GateFindings) -> None:
        """Write the files whole, annotations to stderr, and the findings to stdout."""
        if self.junit is not None:
            write_whole(self.junit, junit_xml(findings))
        if self.summary is not None:
            write_whole(self.summary, markdown(findings))
        on_github = os.environ.get("GITHUB_ACTIONS") == "true"
        if self.annotations == "github" or (self.annotations == "auto" and on_github):
            for line in github_annotations(findings):
                # The runner reads both streams; stdout keeps one document.
                sys.stderr.write(line + "\n")
        if self.format == "json":
            sys.stdout.write(json.dumps(findings.to_dict(), indent=1, allow_nan=False) + "\n")
        elif self.format == "md":
            sys.stdout.write(markdown(findings))
        else:
            from chipmark.gate.outputs.console import print_findings
            from chipmark.terminal.console import stdout

            print_findings(findings, stdout())


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all. CannotWriteError where it cannot be written."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")

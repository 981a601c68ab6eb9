"""Which operators a call measures, checked before a process is started."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from chipmark.cell.given import options_for, read_option
from chipmark.errors import UnknownNameError
from chipmark.kernel_bench.document import Codes, code_hash, file_at
from chipmark.kernel_bench.operators.bench import cases, check_backend
from chipmark.kernel_bench.operators.case import OperatorCase
from chipmark.kernel_bench.operators.reference import RMS_LIMIT
from chipmark.kernel_bench.selection import Selection
from chipmark.registry import split_backend

BENCH = "chipmark.kernel_bench.operators.bench:OperatorBench"


def selected(options: argparse.Namespace, scratch: Path) -> Selection:
    """The operators that the command line names; sets `options.out` to a file. scratch: where the
    measuring process may write.

    Raises UnknownNameError (backend, model, profile, precision) and BadInputError (a scale, an
    option).
    """
    check_backend(options.backend)
    if options.precision not in RMS_LIMIT:
        raise UnknownNameError("precision of operators", options.precision, RMS_LIMIT)
    name = f"operators-{re.sub('[^A-Za-z0-9]+', '-', options.backend)}.json"
    options.out = file_at(options.out, name)
    kind, _ = split_backend(options.backend)
    settings: dict[str, Any] = {
        "backend": options.backend, "model": options.model, "workload": options.workload,
        "scale": options.scale, "precision": options.precision, "scratch": str(scratch),
        "options": options_for(kind, [read_option(text) for text in options.option]),
    }  # fmt: skip
    order = cases(options.model, options.workload, options.scale, options.precision)
    return Selection(BENCH, settings, order, (), partial(_codes, order))


def _codes(order: Sequence[OperatorCase], identity: Mapping[str, Any]) -> Codes:
    """One hash for all: each operator goes through a whole backend."""
    here = Path(__file__).parents[2]
    code = code_hash([here / "kernel_bench" / "operators", here / "backends"])
    return Codes({(case.kernel, case.name): code for case in order}, code)

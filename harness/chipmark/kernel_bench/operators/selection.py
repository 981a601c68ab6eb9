"""Which operators a call measures, checked before a process is started."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from chipmark.cell.given import options_for, read_option
from chipmark.errors import UnknownNameError
from chipmark.kernel_bench.operators.bench import cases, check_backend
from chipmark.kernel_bench.operators.reference import RMS_LIMIT
from chipmark.kernel_bench.selection import Selection
from chipmark.registry import split_backend

BENCH = "chipmark.kernel_bench.operators.bench:OperatorBench"


def selected(options: argparse.Namespace, scratch: Path) -> Selection:
    """The operators that the command line names; sets `options.out` where it is not given. scratch:
    where the measuring process may write.

    Raises UnknownNameError (backend, model, profile, precision) and BadInputError (a scale, an
    option).
    """
    check_backend(options.backend)
    if options.precision not in RMS_LIMIT:
        raise UnknownNameError("precision of operators", options.precision, RMS_LIMIT)
    if options.out is None:
        options.out = (
            Path("runs") / f"operators-{re.sub('[^A-Za-z0-9]+', '-', options.backend)}.json"
        )
    kind, _ = split_backend(options.backend)
    settings: dict[str, Any] = {
        "backend": options.backend, "model": options.model, "workload": options.workload,
        "scale": options.scale, "precision": options.precision, "scratch": str(scratch),
        "options": options_for(kind, [read_option(text) for text in options.option]),
    }  # fmt: skip
    order = cases(options.model, options.workload, options.scale, options.precision)
    return Selection(BENCH, settings, order, ())

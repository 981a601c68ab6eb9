"""`chipmark kernels tune`: the fastest tile of each product and attention of a model's decode step.

Each tile is checked against float64 and timed in a captured graph with cold inputs, with the norm,
residual and SwiGLU that a step has; the fastest, timed once more next to the rule's, goes into the
table that the kernels read. What tells most comes first; each shape is saved when it is done, and
the same call again resumes. Unverified on hardware.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chipmark.errors import ChipmarkError, UnknownNameError, UsageError
from chipmark.kernel_bench.document import file_at
from chipmark.kernel_bench.phases import LEAST_S, Asker, Reporter
from chipmark.kernel_bench.presence import missing_device
from chipmark.terminal.console import PlainConsole, emit_json, reporting, show_error, stderr

BENCH = "chipmark.kernel_bench.tile_bench:CudaTileBench"
MODELS = "qwen3-8b,qwen3-1.7b,qwen3-0.6b"

_EPILOG = """examples:
  chipmark kernels tune                                  decode of three models, one row first
  chipmark kernels tune -m qwen3-8b --rows 1 --kernels skinny_gemm,decode_attention
  chipmark kernels tune -o out/tiles.json --from shared/tiles.json --table out

exit codes: 0 all shapes tuned; 1 a rule's own tile failed; 2 wrong usage or a broken file; 3 no
GPU, or shapes are left: call again; 130 interrupted, what was measured stands."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tuning:
    """One call. device: facts, by which the rule and the candidates are found. save: writes
    document and table."""

    worker: Asker
    document: dict[str, Any]
    device: Any
    codes: dict[str, str]
    save: Callable[[], None]
    reporter: Reporter
    step_s: float
    until_s: float


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chipmark kernels tune", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("-m", "--models", default=MODELS, help="comma-separated; default: %(default)s")
    add("--kernels", default="", help="comma-separated; all that have tiles by default")
    add("--rows", default="1,8,64", help="comma-separated numbers of rows; default: %(default)s")
    add("-o", "--out", type=Path,
        help="file, or a folder that is there, of what was tried; default: runs/tiles.json",
        )  # fmt: skip
    add("--from", dest="earlier", type=Path, metavar="FILE",
        help="take what -o lacks from the file of an earlier call, which is only read")  # fmt: skip
    add("--table", type=Path, metavar="FOLDER",
        help="where the table PRODUCT.json goes; default: where the kernels read it")  # fmt: skip
    add("--budget-s", type=float, default=520.0, help="end before this; default: %(default)s")
    add("--step-s", type=float, default=30.0,
        help="time of one tile, compilation included; default: %(default)s")  # fmt: skip
    add("--format", choices=("rich", "json"), default="rich", help="of the result on stdout")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """As the epilog of `--help` says."""
    options = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _tuned(options, time.monotonic() + options.budget_s)
    except ChipmarkError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        stderr().print("interrupted; what was measured stands")
        return 130


def _chosen(text: str, known: Sequence[str], kind: str) -> list[str]:
    names = [n for n in text.split(",") if n] or list(known)
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, known)
    return names


def _rows(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdigit() and 1 <= int(word) <= 64 for word in words):
        raise UsageError(f"--rows: {text!r} is not a list of numbers from 1 to 64, as 1,8,64")
    return [int(word) for word in words]


def _tuned(options: argparse.Namespace, until_s: float) -> int:
    from chipmark.kernel_bench.supervisor import Worker
    from chipmark.kernel_bench.tiling import KERNELS, tunable_cases
    from chipmark_kernels.manifest import MODEL_SHAPES

    models = _chosen(options.models, [s.name for s in MODEL_SHAPES], "model")
    kernels, rows = _chosen(options.kernels, KERNELS, "kernel"), _rows(options.rows)
    if missing := missing_device():
        stderr().print(missing)
        return 3
    shapes = [s for name in models for s in MODEL_SHAPES if s.name == name]
    cases = tunable_cases(shapes, rows, kernels)
    out = file_at(options.out, "tiles.json")
    settings = {"models": models, "rows": rows, "kernels": kernels}
    with Worker(BENCH, settings) as worker, reporting() as reporter:
        tuning, table = begun(
            worker, dict(worker.identity), cases, [out, options.earlier], options.table, reporter,
            options.step_s, until_s,
        )  # fmt: skip
        reporter.steps(len(open_cases(tuning, cases)))
        cut = fill(tuning, cases)
    left = len(open_cases(tuning, cases))
    if cut:
        stderr().print(f"tune: time was over at {cut}; {left} shapes are left: call again")
    return _tell(options, tuning.document, out, table, left)


def begun(
    worker: Asker, identity: dict[str, Any], cases: Sequence[Any], files: Sequence[Path | None],
    folder: Path | None, reporter: Reporter, step_s: float, until_s: float,
) -> tuple[Tuning, Path]:  # fmt: skip
    """A call that writes to the first of the files and takes what they all have; and its table."""
    from chipmark.kernel_bench import tile_document
    from chipmark.kernel_bench.row_sources import code_of
    from chipmark_kernels import tuned
    from chipmark_kernels.device import DeviceFacts

    device = DeviceFacts(**identity["facts"])
    table = tuned.table_path(device.product)
    table = table if folder is None else folder / table.name
    codes = {tile_document.key_of(c.kernel, c.name): code_of(c) for c in cases}
    paths = [path for path in files if path is not None]
    document = tile_document.opened(paths, identity, codes)

    def save() -> None:
        tile_document.save(paths[0], document)
        tile_document.write_table(table, device.name, identity["triton"], document["rows"])

    tuning = Tuning(worker, document, device, codes, save, reporter, step_s, until_s)
    return tuning, table


def open_cases(tuning: Tuning, cases: Sequence[Any]) -> list[Any]:
    """Cases that are not tuned to the end."""
    done = {(r["kernel"], r["case"]) for r in tuning.document["rows"] if r["done"]}
    return [case for case in cases if (case.kernel, case.name) not in done]


def fill(tuning: Tuning, cases: Sequence[Any]) -> str:
    """Tune what is left; "" or the case at which the time was over."""
    for case in open_cases(tuning, cases):
        name = f"{case.kernel} {case.name}"
        if time.monotonic() > tuning.until_s - LEAST_S:
            return name
        tuning.reporter.stage(name)
        cut = tune_case(tuning, case)
        tuning.save()
        if cut:
            return f"{name} ({cut})"
        row = row_of(tuning, case)
        share = row.get("share_of_rule")
        told = row.get("error") or (
            "the rule's" if share in (None, 1.0) else f"{share:.2f} of rule"
        )
        tuning.reporter.say(f"{name:<60}{told}")
        tuning.reporter.step()
    return ""


def row_of(tuning: Tuning, case: Any) -> dict[str, Any]:
    """The case's row, made where it is missing."""
    from chipmark.kernel_bench.tile_document import key_of
    from chipmark_kernels.tiles import bucketed

    rows: list[dict[str, Any]] = tuning.document["rows"]
    for row in rows:
        if (row["kernel"], row["case"]) == (case.kernel, case.name):
            return row
    row = {
        "kernel": case.kernel, "case": case.name, "shape": bucketed(case.tile_shape),
        "code": tuning.codes[key_of(case.kernel, case.name)], "trials": {}, "done": False,
    }  # fmt: skip
    rows.append(row)
    return row


def tune_case(tuning: Tuning, case: Any) -> str:
    """Try every tile of one case, then the fastest once more next to the rule's; "" or the step
    that the end of the call's time cut."""
    from chipmark.kernel_bench.tile_bench import AGAIN
    from chipmark.kernel_bench.tiling import candidates, fastest, name_of

    row = row_of(tuning, case)
    tried = candidates(case, tuning.device)
    named, rule = {name_of(tile): tile for tile in tried}, name_of(tried[0])
    if cut := _ask(tuning, case, row, tried, again=False):
        return cut
    best = fastest({name: row["trials"].get(name, {}) for name in named})
    bad = row["trials"].get(rule, {})
    if best is None or "median_s" not in bad:
        row["error"] = (
            row.get("error") or f"the rule's tile: {bad.get('error') or bad.get('differs')}"
        )
        row["done"] = True
        return ""
    both = [tried[0], named[best]]
    if best != rule and (cut := _ask(tuning, case, row, both, again=True)):
        return cut
    first, second = (row["trials"].get(AGAIN + n, {}).get("median_s") for n in (rule, best))
    # A tile that failed the second time is not taken.
    share = second / first if best != rule and first and second else 1.0
    row["share_of_rule"] = min(share, 1.0)
    row["tile"] = dataclasses.asdict(named[best] if share < 1.0 else tried[0])
    row["done"] = True
    return ""


def _ask(
    tuning: Tuning, case: Any, row: dict[str, Any], tiles: Sequence[Any], *, again: bool
) -> str:
    """Until each tile has a time or a reason; one that takes the process with it costs itself."""
    while True:
        request = {
            "case": (case.kernel, case.name), "tiles": [dataclasses.asdict(t) for t in tiles],
            "have": list(row["trials"]), "again": again,
        }  # fmt: skip
        answer = tuning.worker.ask(request, tuning.step_s, tuning.until_s)
        failed = answer.parts.get("inputs", {}).get("error", "")
        row["trials"] |= {name: part for name, part in answer.parts.items() if name != "inputs"}
        if answer.ended == "budget":
            return answer.step or "start"
        if answer.ended == "done" and not failed:
            return ""
        if failed or answer.step in ("", "inputs"):
            row["error"] = failed or answer.reason
            return ""
        if "error" not in answer.parts.get(answer.step, {}):
            row["trials"][answer.step] = {"error": answer.reason}


def _tell(
    options: argparse.Namespace, document: dict[str, Any], out: Path, table: Path, left: int
) -> int:
    rows = document["rows"]
    errors = [row for row in rows if "error" in row]
    code = 3 if left else 1 if errors else 0
    better = [row for row in rows if row.get("share_of_rule", 1.0) < 1.0]
    if options.format == "json":
        emit_json({
            "file": str(out), "table": str(table), "identity": document["identity"], "left": left,
            "exit_code": code,
            "rows": [{k: v for k, v in row.items() if k != "trials"} for row in rows],
        })  # fmt: skip
        return code
    console = PlainConsole(highlight=False, width=None if sys.stdout.isatty() else 180)
    for row in errors:
        console.print(f"{row['kernel']} {row['case']}: {row['error']}", markup=False)
    console.print(f"{len(rows)} shapes: in {len(better)} a tile is faster than the rule's; {table}",
                  markup=False)  # fmt: skip
    return code

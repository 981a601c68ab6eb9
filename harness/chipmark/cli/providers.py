"""`chipmark providers` and `chipmark providers probe`: what a provider is, and what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from chipmark.cli.own_files import PROVIDERS_FILE

if TYPE_CHECKING:
    from chipmark.cell.provider_probe import Attempt, ProviderProbe

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)

_STYLES = {r"(?m)^yes\b": "green", r"(?m)^no\b": "yellow"}
_AGAIN = "May be given more than once."
_PYTHON = typer.Option("", help="Interpreter of the processes that look, a vendor's own.")
_FORMAT = typer.Option("rich", "--format", help="rich or json.")


@app.callback(invoke_without_command=True)
def providers(
    context: typer.Context,
    own: Path | None = PROVIDERS_FILE,
    python: str = _PYTHON,
    format_: str = _FORMAT,
) -> None:
    """List every provider of ONNX Runtime, torch device and other backend: here or missing, how to
    get it, whether it was ever tried on its hardware, what it computes and by which graph.

    Each is looked up in a process of its own, so that one that crashes costs its own line.

    Examples:

      chipmark providers

      chipmark providers --providers mine.toml --python /opt/vendor/bin/python --format json

      chipmark providers probe ort:cpu -m smollm2-135m
    """
    if context.invoked_subcommand is not None:
        return
    from chipmark.cell.provider_matrix import matrix
    from chipmark.table.listing import name, show, words
    from chipmark.terminal.console import check_format, emit_json, reporting, stdout
    from chipmark.user_files import using

    check_format(format_, ("rich", "json"))
    with using(providers=own), reporting() as reporter:
        found = matrix(reporter, python)
    if format_ == "json":
        emit_json([device.to_dict() for device in found])
        return
    rows = [
        [
            "yes" if device.here else "no",
            device.backend,
            "yes" if device.tried else "no",
            device.graph,
            " ".join(device.precisions),
            device.text,
            device.remedy,
            device.origin,
        ]
        for device in found
    ]
    columns = [name("here"), name("backend"), name("tried on\nhardware"), name("graph")]
    columns += [words("computes"), words("what"), words("how to get it"), words("from")]
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    show(
        stdout(),
        [columns[i] for i in shown],
        [[row[i] for i in shown] for row in rows],
        lead=2,
        styles=_STYLES,
    )


@app.command("probe")
def probe_provider(
    backend: str = typer.Argument(..., metavar="NAME", help="KIND:DEVICE, as ort:openvino."),
    model: str = typer.Option("smollm2-135m", "-m", "--model", help="As of `chipmark run`."),
    precision: str = typer.Option("fp32", help="What is to be computed."),
    option: list[str] = typer.Option(
        [],
        "--option",
        metavar="[KIND:]KEY=VALUE",
        help=f"An option of the backend: provider.KEY=VALUE, static=true. {_AGAIN}",
    ),
    context: int = typer.Option(2048, min=64, help="Tokens of the longest sequence."),
    concurrency: int = typer.Option(1, min=1, max=64, help="Sequences at once."),
    parity: bool = typer.Option(True, help="Compare a small run with the oracle."),
    python: str = _PYTHON,
    threads: int = typer.Option(0, min=0, help="Threads of a CPU backend; 0 is its own choice."),
    limit_s: float = typer.Option(
        600.0, "--limit-s", min=1.0, help="Seconds for each load and for parity."
    ),
    own: Path | None = PROVIDERS_FILE,
    format_: str = _FORMAT,
) -> None:
    """Load a model on one provider as a cell loads it, and show what it takes: its device and
    library, the levels of the ONNX graph, the operators left to the CPU at the model's own shapes,
    how KV is bound, the compile time of each bucket, weights and KV in bytes, and parity.

    Every load is in a process of its own. Exit code 4 where the provider fails, with its own
    words, 1 where parity does, 2 for a name that does not exist.

    Examples:

      chipmark providers probe ort:cpu -m smollm2-135m

      chipmark providers probe ort:/opt/mychip/libmychip_ep.so --option ort:provider.device_id=1

      chipmark providers probe torch:cpu -m tiny@synthetic --precision bf16 --format json
    """
    from chipmark.cell.given import check_kinds, options_for, read_option
    from chipmark.cell.provider_probe import ProbeRequest, probe
    from chipmark.cell.settings import Limits, RunOptions
    from chipmark.errors import CellFailedError
    from chipmark.registry import split_backend
    from chipmark.terminal.console import check_format, emit_json, reporting, warn
    from chipmark.user_files import using

    check_format(format_, ("rich", "json"))
    kind = split_backend(backend)[0]
    given = [read_option(text) for text in option]
    check_kinds(given, [kind])
    settings = RunOptions(python=python, threads=threads, limits=Limits().each(limit_s))
    request = ProbeRequest(
        backend=backend,
        model=model,
        precision=precision,
        options=options_for(kind, given),
        context=context,
        sequences=concurrency,
        parity=parity,
        settings=settings,
    )
    with using(providers=own), reporting() as reporter:
        found = probe(request, reporter)
    if format_ == "json":
        emit_json(_document(found))
    else:
        _show(found)
    if found.own.failure:
        for line in found.own.log:
            warn(f"  {line}")
        raise CellFailedError(f"{backend}: {found.own.failure}")
    if found.parity.verdict == "fail":
        warn(f"{backend}: parity fail: {found.parity.reason}")
        raise typer.Exit(1)


def _document(found: ProviderProbe) -> dict[str, Any]:
    """The one JSON object of a probe."""
    from dataclasses import asdict

    request, answer = found.request, found.own.answer
    document: dict[str, Any] = {
        "backend": request.backend,
        "model": request.model,
        "precision": request.precision,
        "options": dict(request.options),
        "failure": found.own.failure or None,
        "log": list(found.own.log),
    }
    document["load"] = None if answer is None else asdict(answer)
    document["parity"] = found.parity.model_dump()
    document["levels"] = [
        {
            "graph": level.graph,
            "taken": level.taken,
            "words": level.failure or _notes(level),
            "ep_coverage": None if level.answer is None else level.answer.ep_coverage,
            "host_operators": []
            if level.answer is None
            else [asdict(left) for left in level.answer.host_operators],
            "load_s": None if level.answer is None else level.answer.load_s,
            "compile_s": None if level.answer is None else level.answer.compile_s,
        }
        for level in found.levels
    ]
    return document


def _words(level: Attempt, own: Attempt) -> str:
    if level is not own and level.failure and level.failure == own.failure:
        return "as above"
    return level.failure or _notes(level)


def _notes(level: Attempt) -> str:
    if level.answer is None:
        return ""
    return "; ".join(note.text for note in level.answer.notes if note.code == "ep_coverage")


def _show(found: ProviderProbe) -> None:
    from chipmark.table.listing import name, number, show, words
    from chipmark.terminal.console import stdout

    console = stdout()
    show(console, [name("of"), words(found.request.backend)], _facts(found))
    if found.levels:
        console.print()
        rows = [
            [level.graph, level.taken, *_times(level), _words(level, found.own)]
            for level in found.levels
        ]
        columns = [name("graph"), name("taken"), number("cover"), number("load s")]
        show(console, [*columns, number("compile s"), words("in its own words")], rows)
    answer = found.own.answer
    if answer is None:
        return
    if answer.host_operators:
        console.print()
        operators = [
            [left.name, str(left.count), f"{left.flops_share:.2%}", f"{left.bytes_share:.2%}"]
            for left in answer.host_operators
        ]
        heads = [name("left to the CPU"), number("nodes"), number("of FLOPs"), number("of bytes")]
        show(console, heads, operators)
    if buckets := _buckets(answer.details.get("compile")):
        console.print()
        heads = [number("batch"), number("chunk"), number("context"), number("compile s")]
        show(console, heads, buckets)


def _facts(found: ProviderProbe) -> list[list[str]]:
    """What the provider is and what loading took, as (name, text)."""
    request, answer, parity = found.request, found.own.answer, found.parity
    asked = f"{request.model}, {request.precision}, {request.sequences} at once"
    rows = [["asked", f"{asked}, up to {request.context:,} tokens"]]
    if answer is None:
        return [*rows, ["failed", found.own.failure]]
    details, computed = answer.details, answer.precision
    notes = [f"{note.code}: {note.text}" for note in answer.notes]
    rms = "" if parity.rms_rel is None else f", rms {parity.rms_rel:.1e}"
    limit = parity.tolerance_rms_rel
    rms += "" if limit is None else f" of {limit:.0e} allowed"
    why = f" ({parity.reason})" if parity.reason else ""
    coverage = answer.ep_coverage
    left = ", ".join(f"{o.name} x{o.count}" for o in answer.host_operators)
    if not left:
        left = {None: "unknown", 1.0: "nothing"}.get(coverage, "not told by name")
    facts = {
        "device": answer.device,
        "provider": details.get("ep_name", ""),
        "library": details.get("library", ""),
        "emulated": answer.emulated,
        "computes": f"weights {computed.weights}, products {computed.activation}, "
        f"KV {computed.kv}, sums {computed.accumulate}",
        "graph": answer.graph,
        "on the device": "unknown" if coverage is None else f"{coverage:.2%} of the work",
        "left to the CPU": left,
        "KV is bound": details.get("binding", ""),
        "load": f"{answer.load_s:.2f} s",
        "compile, warm": f"{answer.compile_s:.2f} s",
        "weights": f"{answer.weight_bytes:,} bytes",
        "KV": f"{answer.kv_bytes:,} bytes",
        "parity": f"{parity.verdict}{rms}{why}",
        "failed": found.own.failure,
    }
    rows += [[key, str(text)] for key, text in facts.items() if text]
    return rows + [["note", text] for text in notes]


def _times(level: Attempt) -> list[str]:
    answer = level.answer
    if answer is None:
        return ["-", "-", "-"]
    coverage = "unknown" if answer.ep_coverage is None else f"{answer.ep_coverage:.2%}"
    return [coverage, f"{answer.load_s:.2f}", f"{answer.compile_s:.2f}"]


def _buckets(told: Any) -> list[list[str]]:
    """Compile times of each bucket, as far as the backend says them."""
    rows = []
    for bucket in told if isinstance(told, list) else []:
        if isinstance(bucket, dict) and isinstance(bucket.get("seconds"), (int, float)):
            sizes = [bucket.get(key) for key in ("batch", "chunk", "context")]
            shown = ["any" if size is None else str(size) for size in sizes]
            rows.append([*shown, f"{bucket['seconds']:.2f}"])
    return rows

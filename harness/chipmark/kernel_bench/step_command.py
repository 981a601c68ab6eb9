"""`chipmark kernels step`: whole decode steps of a model, by each design of this card.

Weights are synthetic and made on the card, keys and values random. Each contestant's logits are
checked against the step in float32, then all are timed in turn in captured launches. Prints tokens
a second, shares of bandwidth, launches, and a sentence on each target. Resumes an earlier call
of the same code on the same card.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from chipmark.errors import BadInputError, ChipmarkError, UsageError
from chipmark.kernel_bench.document import DOCUMENT_BYTES, code_hash
from chipmark.kernel_bench.presence import missing_device
from chipmark.kernel_bench.step_figures import GPT_FAST, StepVerdict, judge_steps
from chipmark.terminal.console import PlainConsole, emit_json, reporting, show_error, stderr
from chipmark_models.files import whole_file
from chipmark_models.foreign_file import read_json

FORMAT = 1
LEAST_S = 5.0
"""A part is not begun with less time left."""

Document = dict[str, Any]

_EPILOG = """examples:
  chipmark kernels step                                    qwen3-8b, one row of 1k, all designs
  chipmark kernels step -m qwen3-8b,qwen3-0.6b --rows 1,8,64 --context 1024,16384
  chipmark kernels step --names portable,gpt-fast          our step next to torch.compile's
  chipmark kernels step --precision bf16,w4 --prefill 8192,512@16896
  chipmark kernels step --device cpu -m tiny --names torch,gpt-fast-eager --precision fp32
  chipmark kernels step --show runs/gpu-steps.json         tables and verdicts of a file, anywhere

exit codes: 0 all measured, every target met or not measured; 1 a contestant failed or a target was
missed; 2 wrong usage or a broken file; 3 no GPU, or parts are left: call again; 130 interrupted."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chipmark kernels step", description=__doc__, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("-m", "--model", default="qwen3-8b", help="presets; default: %(default)s")
    add("--rows", default="1", help="sequences of a step, as 1,8,64; default: %(default)s")
    add("--context", default="1024", help="tokens of each, as 1024,16384; default: %(default)s")
    add("--precision", default="bf16", help="as bf16,w4; default: %(default)s")
    add("--names", default="", metavar="NAME,...",
        help="designs, torch, reference, or peers (gpt-fast, gpt-fast-max-autotune); default: the"
        " designs that run here")  # fmt: skip
    add("--prefill", default="", metavar="NEW[@CONTEXT],...",
        help="prompts too: tokens, and the context with them, as 8192,512@16896")  # fmt: skip
    add("--rounds", type=int, default=21, help="samples of each contestant; default: %(default)s")
    add("--device", default="cuda", help="cuda, cuda:N or cpu; default: %(default)s")
    add("-o", "--out", type=Path, default=Path("runs/gpu-steps.json"), help="default: %(default)s")
    add("--budget-s", type=float, default=520.0, help="begin no part after this; "
        "default: %(default)s")  # fmt: skip
    add("--retry", action="store_true", help="try again the parts that raised")
    add("--show", type=Path, metavar="FILE", help="of an earlier call; measures nothing")
    add("--format", choices=("rich", "json"), default="rich", help="of what goes to stdout")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """As the epilog of `--help` says."""
    options = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.show:
            return _tell(_read(options.show), 0, options)
        if options.device != "cpu" and (missing := missing_device()):
            stderr().print(missing)
            return 3
        return _measure(options)
    except ChipmarkError as error:
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        stderr().print("interrupted; what was measured stands")
        return 130


def _measure(options: argparse.Namespace) -> int:
    import torch

    from chipmark.backends.torch_device.devices import answers, open_device
    from chipmark.kernel_bench.step_bench import step_parts
    from chipmark.kernel_bench.worker import error_text

    until = time.monotonic() + options.budget_s
    requests = _requests(options)
    device = open_device(options.device)
    document = _opened(options.out, _identity(device, torch.__version__))
    left = 0
    with reporting() as reporter:
        for key, request in requests.items():
            parts = document["steps"].setdefault(key, {})
            for name in [n for n, p in parts.items() if options.retry and "error" in p]:
                del parts[name]
            for name, call in step_parts(request, device, frozenset(parts)):
                if time.monotonic() > until - LEAST_S:
                    left += 1
                    continue
                reporter.stage(f"{request.model}: {name}")
                try:
                    found = call()
                except Exception as error:  # a part that raises costs itself
                    found = {"error": error_text(error)}
                    if not answers(device):
                        raise UsageError(
                            f"{request.model}: {name} lost the device: {found['error']}",
                            "call again: what was measured before stands",
                        ) from error
                    reporter.say(f"{request.model}: {name}: {found['error']}")
                if found is not None and name != "verdicts":
                    parts[name] = found
                    _save(options.out, document)
    if left:
        stderr().print(f"gpu: time was over; {left} parts are left: call again")
    return _tell(document, left, options)


def _requests(options: argparse.Namespace) -> dict[str, Any]:
    """What is asked of each model, by a key that tells one request from another."""
    from chipmark.kernel_bench.step_bench import StepRequest

    found = {}
    for model in _words(options.model):
        request = StepRequest(
            model,
            _numbers("--rows", options.rows),
            _numbers("--context", options.context),
            _words(options.precision),
            _words(options.names),
            tuple(_prompt(word) for word in _words(options.prefill)),
            rounds=options.rounds,
        )
        found[f"{model} {options.names or 'designs'}"] = request
    return found


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    words = _words(text)
    if not words or not all(word.isdigit() and int(word) > 0 for word in words):
        raise UsageError(f"{option}: {text!r} is not a list of numbers of at least 1", "as 1,8,64")
    return tuple(int(word) for word in words)


def _prompt(word: str) -> tuple[int, int]:
    new, _, context = word.partition("@")
    pair = _numbers("--prefill", f"{new},{context or new}")
    if len(pair) != 2 or pair[0] > pair[1]:
        raise UsageError(f"--prefill: {word!r}", "NEW tokens, or NEW@CONTEXT with CONTEXT >= NEW")
    return pair


def _identity(device: Any, torch_version: str) -> dict[str, Any]:
    from chipmark.backends.torch_device.devices import device_name, hardware

    here = Path(__file__).parent
    models = here.parents[2] / "models" / "chipmark_models" / "decoder"
    return {
        "device": device_name(device),
        "uuid": hardware(device).get("uuid", ""),
        "torch": torch_version,
        "code": code_hash([here.parents[2] / "kernels" / "chipmark_kernels", models, here]),
    }


def _read(path: Path) -> Document:
    document = read_json(path, DOCUMENT_BYTES)
    if not isinstance(document, dict) or document.get("steps_format") != FORMAT:
        raise BadInputError(path, f"not a result of `chipmark kernels step` in format {FORMAT}")
    return document


def _opened(path: Path, identity: Mapping[str, Any]) -> Document:
    """What an earlier call of the same code left on this card, else a new document."""
    if path.exists():
        document = _read(path)
        if document["identity"] == identity:
            return document
        aside = path.with_suffix(f".{document['identity'].get('code', 'other')}.json")
        path.rename(aside)
        stderr().print(f"gpu: {path} is of other code or another card: kept as {aside}")
    return {"steps_format": FORMAT, "identity": dict(identity), "steps": {}}


def _save(path: Path, document: Document) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def measured_of(document: Document) -> list[dict[str, Any]]:
    """The parts of a document that hold times."""
    return [p for parts in document["steps"].values() for p in parts.values() if "time" in p]


def _failures(document: Document) -> list[str]:
    found = []
    for key, parts in document["steps"].items():
        for name, part in parts.items():
            if "error" in part:
                found.append(f"{key}: {name}: {part['error']}")
            for who, row in (part.get("time") or {}).items():
                if "error" in row:
                    found.append(f"{key}: {name}: {who}: {row['error']}")
            if name.startswith("oracle") and not part.get("ok", True):
                found.append(f"{key}: {name}: rms {part['rms_rel']:.1e} from the oracle")
    return found


def exit_code(failed: Sequence[str], verdicts: Sequence[StepVerdict], left: int) -> int:
    """As the epilog says."""
    if failed or any(v.state == "missed" for v in verdicts):
        return 1
    return 3 if left else 0


def _tell(document: Document, left: int, options: argparse.Namespace) -> int:
    verdicts, failed = judge_steps(measured_of(document)), _failures(document)
    code = exit_code(failed, verdicts, left)
    if options.format == "json":
        emit_json({
            "file": str(options.show or options.out), "identity": document["identity"],
            "left": left, "exit_code": code, "failures": failed,
            "steps": document["steps"], "verdicts": [v.as_json() for v in verdicts],
        })  # fmt: skip
        return code
    console = PlainConsole(highlight=False, width=None if sys.stdout.isatty() else 180)
    console.print(step_table(measured_of(document)))
    for text in (*failed, *(v.sentence for v in verdicts)):
        console.print(text, soft_wrap=True)
    return code


def step_table(parts: Sequence[Mapping[str, Any]]) -> Table:
    """A row a contestant and point."""
    table = Table(box=None, pad_edge=False)
    for name in ("step", "by"):
        table.add_column(name, no_wrap=True, overflow="fold")
    for name in ("us", "tok/s", "mbu nameplate", "mbu", "TFLOP/s", "launches", f"x {GPT_FAST}"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in parts:
        kind = f"new={part['new']} " if part["part"] == "prefill" else f"rows={part['rows']} "
        title = (
            f"{part['model']} {part['precision']} {part['part']} {kind}context={part['context']}"
        )
        for by, row in part["time"].items():
            if "error" in row:
                table.add_row(title, by, "failed")
                continue
            ratio = part.get("ratios", {}).get(f"{GPT_FAST}/{by}", {}).get("median")
            table.add_row(
                title, by, f"{row['median_s'] * 1e6:,.1f}", f"{row['tok_s']:,.0f}",
                _percent(row.get("mbu_nameplate")), _percent(row.get("mbu")),
                "" if "tflops" not in row else f"{row['tflops']:,.1f}",
                str((row.get("launches") or {}).get("kernels") or ""),
                "" if ratio is None else f"{ratio:.3f}",
            )  # fmt: skip
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"

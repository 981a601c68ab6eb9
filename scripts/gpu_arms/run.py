"""`scripts/gpu`: parity, then time, of every kernel; goes on where an earlier call stopped."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from chipmark_kernels.parity import Parity, compare
from gpu_arms.cases import Case, Inputs, cases
from gpu_arms.peers import installed, optional_peers
from gpu_arms.timing import COLD_FACTOR, Device, Timed, measure, n_copies


def _wide(value: Any) -> Any:
    is_float = torch.is_tensor(value) and value.dtype in (torch.bfloat16, torch.float16)
    return value.double() if is_float else value


def _clones(inputs: Inputs) -> Inputs:
    return tuple(v.clone() if torch.is_tensor(v) else v for v in inputs)


def _results(value: Any) -> list[torch.Tensor]:
    return [value] if torch.is_tensor(value) else list(value)


def check(case: Case, inputs: Inputs) -> list[Parity]:
    """Parity of each result: low-precision inputs once, float64 derived from them."""
    oracle = _results((case.oracle or case.reference)(*map(_wide, _clones(inputs))))
    torchs = _results(case.reference(*_clones(inputs)))
    got = _results(case.ours(*_clones(inputs)))
    return [
        compare(a, b, c if not c.is_floating_point() else c.double())
        for a, b, c in zip(got, torchs, oracle, strict=True)
    ]


def input_bytes(inputs: Inputs) -> int:
    """Bytes of all tensors of a call."""
    return sum(t.numel() * t.element_size() for t in inputs if torch.is_tensor(t))


def _timed(device: Device, call: Callable[..., Any], copies: Sequence[Inputs]) -> dict[str, Any]:
    timed: Timed = measure(device, call, copies)
    return {"median_s": timed.median_s, "copies": timed.copies, "samples_s": timed.samples_s}


def time_case(
    case: Case, inputs: Inputs, device: Device, roofs: Mapping[str, Any], *, compiled: bool
) -> dict[str, Any]:
    """Ours and every peer, with the fractions of the roof and of the best peer."""
    from gpu_arms.attention_cases import prepare_sdpa

    n = n_copies(case.bytes, input_bytes(inputs), device.l2_bytes)
    copies = [inputs] + [_clones(inputs) for _ in range(n - 1)]
    row: dict[str, Any] = {"ours": _timed(device, case.ours, copies), "peers": {}}
    row["cold_l2"] = n * case.bytes >= COLD_FACTOR * device.l2_bytes
    if case.kernel in ("decode_attention", "prefill_attention"):
        copies = [prepare_sdpa(c) for c in copies]
    for name, peer in (dict(case.peers) | optional_peers(case.kernel)).items():
        if name == "torch.compile" and not compiled:
            continue
        call = torch.compile(peer) if name == "torch.compile" else peer
        try:
            row["peers"][name] = _timed(device, call, copies)
        except Exception as error:  # Other people's code: shown, and not counted.
            row["peers"][name] = {"error": f"{type(error).__name__}: {error}"[:300]}
    seconds = row["ours"]["median_s"]
    row["bytes_per_s"], row["flops"] = case.bytes / seconds, case.flops / seconds
    if case.bound == "memory":
        row["fraction_of_roof"] = row["bytes_per_s"] / roofs["copy_bytes_per_s"]
    elif case.bound == "matrix" and case.kernel != "fp8_gemm":
        row["fraction_of_roof"] = row["flops"] / roofs["bf16_flops"]
    peers = [p["median_s"] for p in row["peers"].values() if "median_s" in p]
    row["speed_against_best_peer"] = min(peers) / seconds if peers else None
    return row


def measure_case(
    case: Case, where: torch.device, device: Device, roofs: Mapping[str, Any], *, compiled: bool
) -> dict[str, Any]:
    """One case; a kernel that fails parity is named and not timed."""
    row: dict[str, Any] = {"kernel": case.kernel, "case": case.name, "bound": case.bound}
    rng = torch.Generator(where).manual_seed(20_261)
    inputs = case.make(rng, where, torch.bfloat16)
    try:
        found = check(case, inputs)
    except Exception as error:  # A kernel that does not compile here is a result like another.
        return row | {"error": f"{type(error).__name__}: {error}"[:500]}
    row["parity"] = [asdict(p) | {"ok": p.ok} for p in found]
    if not all(p.ok for p in found):
        return row | {"not_timed": "parity fails"}
    return row | time_case(case, inputs, device, roofs, compiled=compiled)


def code_hash(folders: Sequence[Path]) -> str:
    """Hash of the sources: results of other code are not gone on with."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def load(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier call left at `path` with the same device and code, else a new document."""
    if path.exists():
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document.get("identity") == identity:
            return document
    return {"identity": dict(identity), "roofs": None, "rows": [], "watch": []}


def save(path: Path, document: Mapping[str, Any]) -> None:
    """Write the document whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1), encoding="utf-8")
    os.replace(part, path)


def pending(document: Mapping[str, Any], wanted: Sequence[Case]) -> list[Case]:
    """Cases that have no row yet."""
    done = {(row["kernel"], row["case"]) for row in document["rows"]}
    return [case for case in wanted if (case.kernel, case.name) not in done]


def _identity(where: torch.device) -> dict[str, Any]:
    import triton

    properties = torch.cuda.get_device_properties(where)
    here = Path(__file__).parent
    packages = here.parents[1] / "kernels" / "chipmark_kernels"
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "code": code_hash([packages, here]),
        "installed_peers": installed(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/gpu", description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/gpu-kernels.json"))
    parser.add_argument("--kernels", default="", help="comma-separated; all by default")
    parser.add_argument(
        "--budget-s", type=float, default=520.0, help="stop before this; call again"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 done; 1 a kernel failed; 2 wrong usage; 3 no GPU, or cases are left for another call."""
    started = time.monotonic()
    options = _parser().parse_args(argv)
    wanted = cases()
    names = [n for n in options.kernels.split(",") if n]
    known = sorted({case.kernel for case in wanted})
    for name in names:
        if name not in known:
            print(f"error: no kernel {name!r}; there are {', '.join(known)}", file=sys.stderr)
            return 2
    if not torch.cuda.is_available():
        print(
            "gpu: no CUDA device here (torch.cuda.is_available() is false): nothing was measured."
            " Run this on a machine with a GPU; `chipmark doctor` says what is missing.",
            file=sys.stderr,
        )
        return 3
    from gpu_arms.roofs import measured_roofs
    from gpu_arms.timing import CudaDevice
    from gpu_arms.watch import Watch

    where, device = torch.device("cuda", torch.cuda.current_device()), CudaDevice()
    document = load(options.out, _identity(where))
    wanted = [case for case in wanted if not names or case.kernel in names]
    with Watch(where.index) as watch, torch.inference_mode():
        document["watch_missing"] = watch.missing
        document["roofs"] = document["roofs"] or measured_roofs(device, where)
        for case in pending(document, wanted):
            if time.monotonic() - started > options.budget_s:
                break
            begun = time.monotonic()
            row = measure_case(
                case, where, device, document["roofs"], compiled=not options.no_compile
            )
            row["watch"] = watch.between(begun, time.monotonic())
            row["throttled"] = sorted({r for s in row["watch"] for r in s["throttle"]})
            document["rows"].append(row)
            save(options.out, document)
            state = row.get("error") or row.get("not_timed") or f"{row['ours']['median_s']:.3e} s"
            print(f"{case.kernel:<22}{case.name:<40}{state}", file=sys.stderr, flush=True)
            torch.cuda.empty_cache()
    left = len(pending(document, wanted))
    bad = [r for r in document["rows"] if "error" in r or "not_timed" in r]
    print(json.dumps({"out": str(options.out), "left": left, "failed": len(bad)}))
    return 1 if bad else 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())

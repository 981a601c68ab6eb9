"""Whole steps of one model, measured: contestants interleaved, parity before any time.

`step_parts` gives them as the parts of a step of `stages.contract`: a part a point, so that what is
cut costs that point alone. A contestant that fails costs itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from chipmark.backends.torch_device import roofs
from chipmark.backends.torch_device.devices import device_name, hardware, synchronize
from chipmark.backends.triton_cuda.streams import CudaStream
from chipmark.errors import UnknownNameError, UsageError
from chipmark.kernel_bench.stages.contract import Part
from chipmark.kernel_bench.step_figures import (
    card_facts,
    decode_figures,
    judge_steps,
    paired_ratio,
    prefill_figures,
    step_bytes,
)
from chipmark.kernel_bench.step_parity import oracle_parity, reference_of, step_parity
from chipmark.kernel_bench.step_prefill import prefill
from chipmark.kernel_bench.whole_step import (
    StepModel,
    WholeStep,
    check_runs,
    contestants,
    step_model,
)
from chipmark.kernel_bench.whole_step_peer import PEERS, peer_step
from chipmark.kernel_bench.worker import error_text
from chipmark_models.costs import causal_context_sum, prefill_flops
from chipmark_models.decoder.paged.designs import DESIGNS
from chipmark_models.precision import precision_named
from chipmark_models.presets import preset

ALL_DESIGNS = "designs"
ROOF_BYTES = 4_000_000_000
HEAD_START_CYCLES = 4_000_000
"""About 2 ms of a card's clock, in which the host queues the steps of a sample."""

SAMPLE_S = 0.01
"""Seconds of steps that one sample holds, at least one step."""


@dataclass(frozen=True, slots=True)
class StepRequest:
    """What to measure of a model; as JSON the parameters of a step of a stage."""

    model: str
    rows: tuple[int, ...] = (1,)
    contexts: tuple[int, ...] = (1_024,)
    precisions: tuple[str, ...] = ("bf16",)
    names: tuple[str, ...] = ()
    """Contestants: designs, plain implementations and peers; ALL_DESIGNS stands for those that the
    device runs, and () is the same."""

    prefill: tuple[tuple[int, int], ...] = ()
    """(new tokens, context with them) of a row."""

    chunk: int = 2_048
    """Tokens of a prefill launch."""

    rounds: int = 21
    """Samples of each contestant, one a round."""

    roofs: bool = True
    """Whether the read and matrix rates are measured, too."""

    launches: bool = True
    """Whether a step's launches are counted, by a profiler."""

    def __post_init__(self) -> None:
        known = (ALL_DESIGNS, *contestants(), *PEERS)
        for name in self.names:
            if name not in known:
                raise UnknownNameError("contestant", name, known)
        preset(self.model)
        for precision in self.precisions:
            precision_named(precision)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> StepRequest:
        """Out of JSON."""
        tuples = {k: tuple(v) for k, v in data.items() if isinstance(v, (list, tuple))}
        if "prefill" in data:
            tuples["prefill"] = tuple((int(n), int(c)) for n, c in data["prefill"])
        return StepRequest(**{**data, **tuples})


@dataclass(slots=True)
class _Run:
    """What the parts of a request share."""

    request: StepRequest
    device: torch.device
    models: dict[str, StepModel] = field(default_factory=dict)
    measured: list[dict[str, Any]] = field(default_factory=list)
    _rates: dict[str, float | None] | None = None

    @property
    def rates(self) -> Mapping[str, float | None]:
        """The device's read and matrix rates, measured once where they are asked for: also by a
        call that resumes what an earlier one left."""
        if self._rates is None:
            self._rates = {}
            if self.request.roofs and self.device.type != "cpu":
                wanted = roofs.largest_probe(self.device, ROOF_BYTES)
                read = None if wanted is None else roofs.read_bandwidth(self.device, wanted)
                product = roofs.matmul_rate(self.device, "bf16")
                self._rates = {"read_bytes_s": read, "bf16_flops": product}
        return self._rates

    @property
    def card(self) -> dict[str, Any]:
        """The device's facts."""
        cache = hardware(self.device).get("l2_cache_bytes")
        return card_facts(device_name(self.device), cache)

    @property
    def names(self) -> tuple[str, ...]:
        """The contestants."""
        found: list[str] = []
        for name in self.request.names or (ALL_DESIGNS,):
            mine = [n for n in DESIGNS if _runs(n, self.device)] if name == ALL_DESIGNS else [name]
            found += mine
        return tuple(dict.fromkeys(found))

    def model(self, precision: str) -> StepModel:
        """The model in a precision, loaded once."""
        if precision not in self.models:
            r = self.request
            tokens = max((n * c for n in r.rows for c in r.contexts), default=0)
            longest = max((*r.contexts, *(c for _, c in r.prefill)))
            rows = -(-max(tokens, longest) // longest)
            self.models[precision] = step_model(
                r.model, self.device, rows=rows, context=longest, precision=precision
            )
        return self.models[precision]


def _runs(name: str, device: torch.device) -> bool:
    try:
        check_runs(name, device)
    except UsageError:
        return False
    return True


def step_parts(
    request: StepRequest, device: torch.device, have: frozenset[str] = frozenset()
) -> Iterator[Part]:
    """The parts of a request that `have` does not name: weights, roofs, oracle, a part a point,
    prefill, and the verdicts of what this very call measured."""
    run = _Run(request, device)

    def part(name: str, call: Callable[[], dict[str, Any] | None]) -> Iterator[Part]:
        if name not in have:
            yield name, call

    for precision in request.precisions:
        yield from part(f"weights {precision}", lambda p=precision: _weights(run, p))  # type: ignore[misc]
    if request.roofs and device.type != "cpu":
        yield from part("roofs", lambda: dict(run.rates))
    for precision in request.precisions:
        for name in [n for n in run.names if n not in PEERS]:
            yield from part(
                f"oracle {precision} {name}",
                lambda p=precision, n=name: oracle_parity(run.model(p), n),  # type: ignore[misc]
            )
    for rows in request.rows:
        for context in request.contexts:
            for precision in request.precisions:
                yield from part(
                    f"decode {precision} rows={rows} context={context}",
                    lambda p=precision, r=rows, c=context: _decode(run, p, r, c),  # type: ignore[misc]
                )
    for new, context in request.prefill:
        for precision in request.precisions:
            yield from part(
                f"prefill {precision} new={new} context={context}",
                lambda p=precision, n=new, c=context: _prefill(run, p, n, c),  # type: ignore[misc]
            )
    yield from part("verdicts", lambda: _verdicts(run))


def _verdicts(run: _Run) -> dict[str, Any] | None:
    """Of what this very call measured; None where that is nothing that a target speaks of."""
    told = [v.as_json() for v in judge_steps(run.measured) if v.state != "not measured"]
    return {"verdicts": told} if told else None


def _weights(run: _Run, precision: str) -> dict[str, Any]:
    begin = time.perf_counter()
    model = run.model(precision)
    synchronize(run.device)
    return {
        "seconds": time.perf_counter() - begin,
        "bytes": model.decoder.weights.n_bytes,
        "kv_bytes": model.decoder.kv.n_bytes,
        "source_hash": model.weights.source_hash,
        "made_by_the_host": model.host_made,
        "card": run.card,
        "torch": torch.__version__,
    }


def _decode(run: _Run, precision: str, rows: int, context: int) -> dict[str, Any]:
    model = run.model(precision)
    reference = reference_of(model, rows, context)
    parity: dict[str, Any] = {}
    times: dict[str, Any] = {}
    ready: list[WholeStep] = []
    for name in run.names:
        try:
            step = _captured(model, name, rows, context)
            parity[name] = step_parity(model, step, reference)
        except Exception as error:  # a compiler, a capture or a full device: it costs this one
            times[name] = {"error": error_text(error)}
            continue
        if parity[name]["ok"]:
            ready.append(step)
        else:
            times[name] = {"error": "; ".join(parity[name]["problems"])}
    samples = interleaved(ready, run.request.rounds)
    n_bytes = step_bytes(model.decoder.config, precision, rows, context)
    for step in ready:
        times[step.name] = decode_figures(
            samples[step.name], n_bytes, rows, run.card, run.rates.get("read_bytes_s")
        )
        if run.request.launches:
            times[step.name]["launches"] = launches_of(step)
    found = _measured(run, "decode", precision, parity, times, rows=rows, context=context, new=1)
    found["ratios"] = {
        f"{a.name}/{b.name}": paired_ratio(samples[a.name], samples[b.name])
        for a in ready
        for b in ready
        if a.name != b.name
    }
    return found


def _measured(
    run: _Run, part: str, precision: str, parity: Any, times: Any, **point: int
) -> dict[str, Any]:
    found = {
        "part": part,
        "model": run.request.model,
        "precision": precision,
        **point,
        "card": run.card,
        "ours": [n for n in run.names if n in DESIGNS],
        "parity": parity,
        "time": times,
    }
    run.measured.append(found)
    return found


def _captured(model: StepModel, name: str, rows: int, context: int) -> WholeStep:
    if name in PEERS:
        return peer_step(model, rows, context, name)
    return model.step(rows, context, name)


def interleaved(steps: Sequence[WholeStep], rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each, a sample a round, the order turned from round to round.

    A sample is as many steps as fill SAMPLE_S, queued behind one another as an engine queues them.
    """
    samples: dict[str, list[float]] = {step.name: [] for step in steps}
    counts = {step.name: max(1, int(SAMPLE_S / _sample(step, 1))) for step in steps}
    for turn in range(rounds):
        shift = turn % max(1, len(steps))
        for step in (*steps[shift:], *steps[:shift]):
            samples[step.name].append(_sample(step, counts[step.name]))
    return samples


@torch.inference_mode()
def _sample(step: WholeStep, n: int) -> float:
    stream = step.stream
    step.play()  # what another contestant left in the caches is turned over
    if isinstance(stream, CudaStream):
        torch.cuda._sleep(HEAD_START_CYCLES)  # type: ignore[no-untyped-call]
    first = stream.mark()
    for _ in range(n):
        step.play()
    last = stream.mark()
    stream.wait(last)
    return stream.seconds(first, last) / n


def launches_of(step: WholeStep) -> dict[str, Any]:
    """Kernels, and copies or fills, that one step is on a card, by torch's profiler; `reason` where
    it cannot tell."""
    if not isinstance(step.stream, CudaStream):
        return {"kernels": None, "copies": None, "reason": "a CPU launches nothing"}
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            step.play()
            torch.cuda.synchronize()
    except Exception as error:  # CUPTI may be refused to this user
        return {"kernels": None, "copies": None, "reason": error_text(error)}
    return counted(profiler.events())


def counted(events: Any) -> dict[str, Any]:
    """Kernels and copies among a profiler's events of the device."""
    names = [e.name for e in events if str(e.device_type).endswith("CUDA")]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
    reason = "" if names else "the profiler saw nothing of the device"
    return {"kernels": len(names) - copies, "copies": copies, "reason": reason}


def _prefill(run: _Run, precision: str, new: int, context: int) -> dict[str, Any]:
    model, r = run.model(precision), run.request
    names = [n for n in run.names if n not in PEERS]
    done = prefill(model, names, new, context, r.chunk, max(3, r.rounds // 7))
    flops = prefill_flops(model.decoder.config, new, causal_context_sum(context - new, new), 1)
    times: dict[str, Any] = {name: {"error": text} for name, text in done.errors.items()}
    for name, samples in done.samples_s.items():
        times[name] = prefill_figures(samples, flops, new, run.card, run.rates.get("bf16_flops"))
    point = {"rows": 1, "context": context, "new": new}
    return _measured(run, "prefill", precision, done.parity, times, **point)

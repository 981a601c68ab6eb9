"""Which design of the decode step a load uses, by what is fastest here in the whole step.

Kernels that overlap cannot be timed one by one: a launch that begins early looks slow alone and
makes the step fast. So each design is checked, its products are chosen within it, and then its
decode step is captured at a few numbers of rows and all are timed in turn. Launches that wait for
each other are captured as programmatic edges; what cuBLAS launches has plain ones, which is safe.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from chipmark.backends.torch_device.devices import answers, release
from chipmark.backends.triton_cuda.devices import INTERPRETER
from chipmark.backends.triton_cuda.kernel_check import failures
from chipmark.backends.triton_cuda.product_choice import ByRows, choose_products
from chipmark.backends.triton_cuda.streams import Call, LaunchStream
from chipmark.backends.triton_cuda.trials import Choice, queued_seconds
from chipmark.codes import NoteCode
from chipmark.engine.contract import Rows
from chipmark.errors import CellFailedError, UsageError
from chipmark.log import logger_of
from chipmark_kernels.device import facts_of
from chipmark_models.decoder.paged.decoder import PagedDecoder
from chipmark_models.decoder.paged.designs import DESIGNS, PORTABLE, designs_for
from chipmark_models.decoder.paged.ops import FEW_ROWS, JOINED, PRODUCTS, TABLE
from chipmark_models.plain_text import one_line

_LOG = logger_of(__name__)

REPEATS = 7
TRIAL_ROWS = (1, 8, 64)
"""Numbers of rows at which a step is tried, where they are captured; and the most rows always."""

TRIAL_CONTEXT = 1024
"""Tokens of each row in a trial, or as many as the model holds."""

Products = Mapping[str, Mapping[int, Choice]]
"""What was tried for each operation that is a product, by rows."""


@dataclass(frozen=True, slots=True)
class Made:
    """One design on this device: the decoder that computes it, and its operations by name."""

    decoder: PagedDecoder
    operations: Mapping[str, str]
    products: Products


@dataclass(frozen=True, slots=True)
class DesignChoice:
    """The designs that are right here, and which of them is taken at how many rows."""

    made: Mapping[str, Made]
    trials: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Seconds of a step by rows and design; empty where there is one design only."""

    refused: Mapping[str, str] = field(default_factory=dict)
    """Why a design was dropped, by its name, or its name and rows."""

    def name(self, rows: int) -> str:
        """The design of a launch of so many rows: the fastest at the next number that was tried."""
        if not self.trials:
            return next(iter(self.made))
        tried = sorted(self.trials)
        seconds = self.trials[tried[min(bisect_left(tried, rows), len(tried) - 1)]]
        return min(seconds, key=lambda name: seconds[name])

    def decoder(self, rows: int) -> PagedDecoder:
        """What computes a decode launch of so many rows."""
        return self.made[self.name(rows)].decoder

    def details(self, buckets: Sequence[int]) -> dict[str, Any]:
        """For the record."""
        names = {rows: self.name(rows) for rows in sorted(buckets)}
        used = [name for name in self.made if name in names.values() and name != PORTABLE]
        return {
            "design": {str(rows): name for rows, name in names.items()},
            "design_trials_s": {
                str(rows): dict(seconds) for rows, seconds in sorted(self.trials.items())
            },
            "design_operations": {name: dict(self.made[name].operations) for name in used},
            "design_products": {
                name: {
                    operation: {str(rows): choice.name for rows, choice in by_rows.items()}
                    for operation, by_rows in self.made[name].products.items()
                }
                for name in used
            },
        }

    def notes(self, buckets: Sequence[int]) -> list[tuple[str, str]]:
        """What a row says: which design, where it is not the portable one, and what failed."""
        notes: list[tuple[str, str]] = [
            (NoteCode.BACKEND, f"design {name} was dropped ({reason})")
            for name, reason in self.refused.items()
        ]
        rows_of: dict[str, list[str]] = {}
        for rows in sorted(buckets):
            rows_of.setdefault(self.name(rows), []).append(str(rows))
        notes += [
            (
                NoteCode.BACKEND,
                f"decode of {', '.join(rows)} rows by design {name}: {DESIGNS[name].about}",
            )
            for name, rows in rows_of.items()
            if name != PORTABLE
        ]
        return notes


@dataclass(frozen=True, slots=True)
class Trials:
    """What a choice is made with.

    step_of(decoder, rows): a decode launch of so many rows. fill(rows): puts them where it reads.
    """

    stream: LaunchStream
    step_of: Callable[[PagedDecoder, int], Call]
    fill: Callable[[Rows], object]


def designs_here(name: str, device: torch.device, wanted: str | None) -> tuple[str, ...]:
    """Names of the designs to try on `triton:NAME`: the one that is asked for, or all that run.

    Raises UsageError for one that does not run here.
    """
    # Of a CPU the facts are those that its tests assume, not what it computes.
    able = (PORTABLE,) if name == INTERPRETER else designs_for(facts_of(device))
    if wanted is None:
        return able
    if wanted not in able:
        raise UsageError(
            f"design {wanted} does not run on triton:{name}: this device or Triton lacks what its "
            "kernels use",
            f"here run {', '.join(able)}: --option triton:design={able[-1]}",
        )
    return (wanted,)


def choose_design(
    portable: Made,
    designs: Sequence[str],
    asked: Mapping[str, str],
    buckets: Sequence[int],
    trials: Trials,
) -> DesignChoice:
    """The designs that are right on this device, and their times in the whole step.

    portable: the portable design, checked, its products chosen. asked: implementations that the
    user named, which every design keeps. A design that fails a check or raises is dropped and said,
    and so is one that these leave nothing of its own; UsageError where it is the only one of
    `designs`, CellFailedError where the device is lost.
    """
    made, refused = {}, {}
    for name in designs:
        if name == PORTABLE:
            made[name] = portable
            continue
        own = _own(name, asked)
        if same := next((other for other in _before(name) if _own(other, asked) == own), ""):
            found, reason = None, f"with the operations that were asked for it is {same}"
        else:
            with torch.inference_mode():
                found, reason = _made(own, portable, buckets, trials.stream)
        if found is not None:
            made[name] = found
        elif len(designs) == 1:
            raise UsageError(
                f"design {name} cannot be taken: {reason}",
                "leave `design` out, and what is right and fastest here is taken",
            )
        else:
            _LOG.info("design %s dropped: %s", name, reason)
            refused[name] = reason
    if len(made) < 2:
        return DesignChoice(made, refused=refused)
    seconds: dict[int, dict[str, float]] = {}
    for rows in sorted({*(b for b in buckets if b in TRIAL_ROWS), max(buckets)}):
        trials.fill(_trial_rows(portable.decoder, rows))
        seconds[rows], dropped = _timed(made, rows, trials)
        refused |= {f"{name} at {rows} rows": reason for name, reason in dropped.items()}
    return DesignChoice(made, seconds, refused)


def few_rows(buckets: Sequence[int]) -> list[int]:
    """Rows at which a design's own operations are checked."""
    few = [b for b in buckets if b <= FEW_ROWS]
    return sorted({1, *few[len(few) // 2 :][:1], *few[-1:]})


def _before(name: str) -> list[str]:
    """Designs that stand before one."""
    names = list(DESIGNS)
    return names[: names.index(name)]


def _own(name: str, asked: Mapping[str, str]) -> dict[str, str]:
    """What sets a design apart from the portable one, without the operations asked for."""
    return {
        op: by
        for op, by in DESIGNS[name].operations.items()
        if asked.get(op, by) == by and asked.keys().isdisjoint(JOINED.get(op, ()))
    }


def _made(
    own: Mapping[str, str], portable: Made, buckets: Sequence[int], stream: LaunchStream
) -> tuple[Made | None, str]:
    """The design of these operations, its products chosen; or None, and what is wrong with it."""
    base = portable.decoder
    functions = {op: TABLE.find(op, by) for op, by in own.items()}
    checked = few_rows(buckets)
    wrong = failures(base, functions, checked, checked[-1])
    if wrong:
        return None, "; ".join(f"{op}: {reason}" for op, reason in wrong.items())
    decoder = base.with_ops(replace(base.ops, **functions))
    candidates, known = {}, {}
    for op in PRODUCTS:
        others = portable.products.get(op)
        if op in own and others:
            known[op] = {rows: choice.seconds for rows, choice in others.items()}
            rest = dict.fromkeys(by for choice in others.values() for by in choice.seconds)
            candidates[op] = [own[op], *(by for by in rest if by not in ("triton", "hopper"))]
    tried = sorted({rows for by_rows in known.values() for rows in by_rows if rows <= FEW_ROWS})
    products: Products = {}
    if tried:
        products = choose_products(decoder, candidates, tried, stream, known)
    # Beyond few rows a product is bound by arithmetic, and a design has nothing of its own.
    many = {
        op: ByRows((FEW_ROWS,), (getattr(decoder.ops, op), getattr(base.ops, op)))
        for op in PRODUCTS
        if op in own
    }
    decoder.ops = replace(decoder.ops, **many)
    return Made(decoder, {**portable.operations, **own}, products), ""


def _timed(
    made: Mapping[str, Made], rows: int, trials: Trials
) -> tuple[dict[str, float], dict[str, str]]:
    """Median seconds of a step of each design, played in turn; and why one was dropped."""
    stream = trials.stream
    plays: dict[str, Call] = {}
    refused: dict[str, str] = {}
    device = made[PORTABLE].decoder.device
    for name, design in made.items():
        try:
            plays[name] = stream.capture(trials.step_of(design.decoder, rows), kept=False)
            plays[name]()
            stream.wait(stream.mark())
        except Exception as error:  # a launch or a capture that the driver refuses
            plays.pop(name, None)
            refused[name] = one_line(f"{type(error).__name__}: {error}", 200)
            if not answers(device):
                raise CellFailedError(
                    f"the decode step of {rows} rows by design {name} lost the device: "
                    f"{refused[name]}",
                    f"load again with another: --option triton:design={PORTABLE}",
                ) from error
            release(device)
    if not plays:
        told = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise CellFailedError(f"no design computes a decode step of {rows} rows: {told}")
    seconds: dict[str, list[float]] = {name: [] for name in plays}
    for repeat in range(REPEATS):
        order = list(plays) if repeat % 2 == 0 else list(reversed(plays))
        for name in order:
            seconds[name].append(queued_seconds(plays[name], stream))
    return {name: statistics.median(times) for name, times in seconds.items()}, refused


def _trial_rows(decoder: PagedDecoder, n_rows: int) -> Rows:
    """Decode rows of TRIAL_CONTEXT tokens, as many pages as there are spread over them."""
    size, n_pages = decoder.kv.page_tokens, len(decoder.kv.k[0])
    context = min(TRIAL_CONTEXT, decoder.max_context)
    width = -(-context // size)
    pages = np.arange(n_rows * width, dtype=np.int32) % n_pages
    return Rows(
        seq=np.arange(n_rows, dtype=np.int32),
        slot=np.full(n_rows, -1, np.int32),
        start=np.full(n_rows, context - 1, np.int32),
        length=np.ones(n_rows, np.int32),
        tokens=np.zeros(n_rows, np.int32),
        pages=pages.reshape(n_rows, width),
        sample=np.ones(n_rows, np.bool_),
    )

"""Greedy, Gumbel-max and top-p sampling over a vocabulary, with torch's own operators.

Ids must be the reference's, which draws the same noise in float64 from the same seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from chipmark.kernel_bench.case import Call, Case, Inputs, random
from chipmark_kernels.manifest import ModelShape
from chipmark_kernels.parity import Parity
from chipmark_kernels.reference.sampling import nucleus_cutoff_reference, sample_reference
from chipmark_kernels.sampling import sample
from chipmark_kernels.top_p import nucleus_cutoff

MASS_TOLERANCE = 1e-5
"""By which a nucleus may miss top_p: masses of a vocabulary are summed in fp32."""


def _logits(s: ModelShape, rows: int, rng: Any, device: Any, dtype: Any) -> torch.Tensor:
    return random(rng, device, dtype, rows, s.vocab, scale=3.0)


def _draw(rows: int, rng: torch.Generator, device: torch.device) -> Inputs:
    """Temperatures, the last of several rows greedy, and seeds of 63 bits."""
    temperatures = torch.linspace(0.7, 1.3, rows, device=device)
    if rows > 1:
        temperatures[-1] = 0.0
    seeds = torch.randint(2**62, (rows,), generator=rng, device=rng.device)
    return temperatures, seeds.to(device)


def gumbel(draw: Call) -> Call:
    """A draw a row from the whole vocabulary."""

    def call(logits: torch.Tensor, temperatures: Any, seeds: Any) -> torch.Tensor:
        ids: torch.Tensor = draw(logits, temperatures=temperatures, seeds=seeds)
        return ids

    return call


def top_p(cutoff: Call, draw: Call) -> Call:
    """A draw a row from its nucleus: the search of the cutoff, then the draw."""

    def call(logits: torch.Tensor, temperatures: Any, seeds: Any, top_ps: Any) -> torch.Tensor:
        cutoffs = cutoff(logits, temperatures, top_ps)
        ids: torch.Tensor = draw(logits, temperatures=temperatures, seeds=seeds, cutoffs=cutoffs)
        return ids

    return call


def nucleus_check(inputs: Inputs, got: Sequence[torch.Tensor]) -> list[Parity]:
    """What a cutoff must do, in float64: the logits from it on hold top_p of the mass, those above
    it do not. An equal cutoff is not asked for: at its edge fp32 sums may end a value earlier."""
    logits, temperatures, top_ps = inputs
    warm = torch.where(temperatures > 0, temperatures, torch.ones_like(temperatures))
    mass = (logits.double() / warm.double()[:, None]).softmax(-1)
    cutoff = got[0][:, None]
    kept = (mass * (logits.float() >= cutoff)).sum(-1)
    above = (mass * (logits.float() > cutoff)).sum(-1)
    short = (top_ps - kept).amax().item()
    over = (above - top_ps).amax().item()
    problems = []
    if not short <= MASS_TOLERANCE:
        problems.append(f"wrong cutoff: the nucleus is {short:.1e} short of top_p")
    if not over < MASS_TOLERANCE:
        problems.append(f"wrong cutoff: the mass above it is {over:.1e} over top_p")
    worst = max(short, over, 0.0)
    return [Parity(worst, worst, worst, 0.0, tuple(problems))]


def torch_nucleus(logits: torch.Tensor, temperatures: Any, top_ps: Any) -> torch.Tensor:
    """The cutoff by a sort of the vocabulary, as serving engines do."""
    warm = torch.where(temperatures > 0, temperatures, 1.0)
    ordered = logits.float().sort(-1, descending=True).values
    mass = (ordered / warm[:, None]).softmax(-1).cumsum(-1)
    count = (mass < top_ps[:, None]).sum(-1).clamp(max=logits.shape[1] - 1)
    return ordered.gather(1, count[:, None])[:, 0]


def sampling_cases(s: ModelShape, rows: int) -> Iterator[Case]:
    """The three ways, and the search of the cutoff by itself."""

    def make_greedy(rng: Any, device: Any, dtype: Any) -> Inputs:
        return (_logits(s, rows, rng, device, dtype),)

    def make_gumbel(rng: Any, device: Any, dtype: Any) -> Inputs:
        return _logits(s, rows, rng, device, dtype), *_draw(rows, rng, device)

    def make_top_p(rng: Any, device: Any, dtype: Any) -> Inputs:
        top_ps = torch.linspace(0.8, 0.95, rows, device=device)
        return _logits(s, rows, rng, device, dtype), *_draw(rows, rng, device), top_ps

    def make_nucleus(rng: Any, device: Any, dtype: Any) -> Inputs:
        logits, temperatures, _, top_ps = make_top_p(rng, device, dtype)
        return logits, temperatures, top_ps

    n_bytes = 2 * rows * s.vocab
    name = f"{s.name} rows={rows}"
    yield Case(
        "sample", f"{name} greedy", make_greedy, sample, sample_reference, n_bytes, 0, "latency",
        {"torch": lambda x: x.argmax(-1)},
    )  # fmt: skip
    yield Case(
        "sample", f"{name} gumbel", make_gumbel, gumbel(sample), gumbel(sample_reference), n_bytes,
        0, "latency",
    )  # fmt: skip
    yield Case(
        "sample", f"{name} top-p", make_top_p, top_p(nucleus_cutoff, sample),
        top_p(nucleus_cutoff_reference, sample_reference), n_bytes, 0, "latency",
    )  # fmt: skip
    yield Case(
        "nucleus_cutoff", name, make_nucleus, nucleus_cutoff, nucleus_cutoff_reference, n_bytes, 0,
        "latency", {"torch": torch_nucleus}, check=nucleus_check,
    )  # fmt: skip

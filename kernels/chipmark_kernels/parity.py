"""Whether a kernel computes what it should: held against float64 and against torch's own error."""

from __future__ import annotations

from dataclasses import dataclass

import torch

RMS_LIMIT, MAX_LIMIT = 4e-3, 2e-2
"""Largest rms-relative and single relative error in bf16 (the limits of triton_kernels' tests)."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Errors against float64. ok: no rule is broken; problems: the broken ones in words."""

    rms_relative: float
    max_relative: float
    max_error: float
    torch_max_error: float
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """No rule is broken."""
        return not self.problems


def compare(got: torch.Tensor, torchs: torch.Tensor, oracle: torch.Tensor) -> Parity:
    """got and torchs (the reference's result in got's dtype) against the float64 `oracle`.

    Rules: (a) rms-relative error <= RMS_LIMIT; (b) largest error, relative to the value or to the
    rms of all, <= MAX_LIMIT; (c) largest error <= 2 x torch's + 1 unit in the last place of the
    largest value. Whole numbers must be equal.
    """
    if got.shape != oracle.shape:
        return _far(f"shape {tuple(got.shape)}")
    if not got.is_floating_point():
        wrong = int((got.long() != oracle.long()).sum())
        return Parity(0.0, 0.0, 0.0, 0.0, (f"{wrong} wrong of {got.numel()}",) if wrong else ())
    if not torch.isfinite(got.float()).all():
        return _far("not finite")
    error = (got.double() - oracle).abs()
    rms = oracle.square().mean().sqrt().item() or 1.0
    rms_relative = error.square().mean().sqrt().item() / rms
    max_relative = (error / oracle.abs().clamp(min=rms)).max().item()
    torch_max = (torchs.double() - oracle).abs().max().item()
    allowed = 2 * torch_max + torch.finfo(got.dtype).eps * oracle.abs().max().item()
    problems = []
    if rms_relative > RMS_LIMIT:
        problems.append(f"(a) rms-relative {rms_relative:.2e} over {RMS_LIMIT:g}")
    if max_relative > MAX_LIMIT:
        problems.append(f"(b) max-relative {max_relative:.2e} over {MAX_LIMIT:g}")
    if error.max().item() > allowed:
        problems.append(f"(c) error {error.max().item():.2e} over {allowed:.2e}")
    return Parity(rms_relative, max_relative, error.max().item(), torch_max, tuple(problems))


def _far(problem: str) -> Parity:
    far = float("inf")
    return Parity(far, far, far, far, (problem,))

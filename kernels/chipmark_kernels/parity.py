"""Whether a kernel computes what it should, by float64 and by torch's own error."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from chipmark_kernels.formats import E4M3_MAX

RMS_LIMIT, MAX_LIMIT = 4e-3, 2e-2
"""Largest rms-relative and single relative error in bf16 (the limits of triton_kernels' tests)."""

SCALE_LIMIT, STEP_SLACK = 1e-4, 1e-2
"""Relative error of a row's scale; by how much of half a step a code may miss the nearest one."""


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
    # Not `>`: a NaN of the oracle is over every limit, and would be under none.
    if not rms_relative <= RMS_LIMIT:
        problems.append(f"(a) rms-relative {rms_relative:.2e} over {RMS_LIMIT:g}")
    if not max_relative <= MAX_LIMIT:
        problems.append(f"(b) max-relative {max_relative:.2e} over {MAX_LIMIT:g}")
    if not error.max().item() <= allowed:
        problems.append(f"(c) error {error.max().item():.2e} over {allowed:.2e}")
    return Parity(rms_relative, max_relative, error.max().item(), torch_max, tuple(problems))


def compare_fp8_rows(values: torch.Tensor, scales: torch.Tensor, exact: torch.Tensor) -> Parity:
    """values (rows, cols) e4m3 and scales (rows,) against the float64 rows that they stand for.

    A scale may miss its row's largest value / 448 by SCALE_LIMIT, relatively; a code must be a
    nearest one of the scaled value: e4m3 has three bits below the first, and steps of 2**-9 under
    2**-6. Codes are not compared with another quantiser's: a rounding before it moves values over
    the middle between two codes, an eighth of themselves apart. The figures of the result are the
    error of the scale, and the distance of the worst code in half steps.
    """
    right = exact.abs().amax(-1) / E4M3_MAX
    missed = (scales.double() - right).abs() / right.clamp(min=1e-30)
    # A row of zeros may have any scale.
    scale_error = missed.where(right > 0, 0.0).amax().item()
    # Held against the kernel's own scale, for its error is judged above.
    target = (exact / scales.double()[:, None]).clamp(-E4M3_MAX, E4M3_MAX)
    step = 2.0 ** (target.abs().clamp(min=2.0**-6).log2().floor() - 3)
    distance = ((values.double() - target).abs() / (step / 2)).amax().item()
    problems = []
    if not scale_error <= SCALE_LIMIT:
        problems.append(f"wrong scale by {scale_error:.1e}")
    if not distance <= 1 + STEP_SLACK:
        problems.append(f"wrong code, {distance:.2f} half steps away")
    return Parity(scale_error, distance, distance, 1.0, tuple(problems))


def _far(problem: str) -> Parity:
    far = float("inf")
    return Parity(far, far, far, far, (problem,))

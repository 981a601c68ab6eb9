"""Whether a kernel computes what it should, by float64 and by torch's own error."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from chipmark_kernels.formats import E4M3_MAX

RMS_LIMIT, MAX_LIMIT = 4e-3, 2e-2
"""Largest rms-relative and single relative error in bf16 (the limits of triton_kernels' tests)."""

RAISED_AT_MOST = 3.0
"""Factor up to which torch's own error raises these limits. Of an operation that rounds in between,
as SwiGLU behind a product in bf16, every right result is further off: torch's by 1.3 times the
first limit and 1.7 times the second at the sizes of qwen3-0.6b."""

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


def _relative(error: torch.Tensor, oracle: torch.Tensor, rms: float) -> tuple[float, float]:
    """The rms of an error and its largest, relative to the oracle's."""
    largest = (error / oracle.abs().clamp(min=rms)).max().item()
    return error.square().mean().sqrt().item() / rms, largest


def compare(got: torch.Tensor, torchs: torch.Tensor, oracle: torch.Tensor) -> Parity:
    """got and torchs (the reference's result in got's dtype) against the float64 `oracle`.

    Rules: (a) rms-relative error <= RMS_LIMIT; (b) largest error, relative to the value or to the
    rms of all, <= MAX_LIMIT, where torch's own is over a limit no further off than torch
    (RAISED_AT_MOST); (c) largest error <= 2 x torch's + 1 unit in the last place of the largest
    value. Whole numbers must be equal.
    """
    if got.shape != oracle.shape:
        return _far(f"shape {tuple(got.shape)}")
    if not got.is_floating_point():
        wrong = int((got.long() != oracle.long()).sum())
        return Parity(0.0, 0.0, 0.0, 0.0, (f"{wrong} wrong of {got.numel()}",) if wrong else ())
    if not torch.isfinite(got.float()).all():
        return _far("not finite")
    error, torch_error = ((x.double() - oracle).abs() for x in (got, torchs))
    rms = oracle.square().mean().sqrt().item() or 1.0
    rms_relative, max_relative = _relative(error, oracle, rms)
    rms_limit, max_limit = (
        min(max(limit, own), RAISED_AT_MOST * limit)
        for limit, own in zip(
            (RMS_LIMIT, MAX_LIMIT), _relative(torch_error, oracle, rms), strict=True
        )
    )
    torch_max = torch_error.max().item()
    allowed = 2 * torch_max + torch.finfo(got.dtype).eps * oracle.abs().max().item()
    problems = []
    # Not `>`: a NaN of the oracle is over every limit, and would be under none.
    if not rms_relative <= rms_limit:
        problems.append(f"(a) rms-relative {rms_relative:.2e} over {rms_limit:.3g}")
    if not max_relative <= max_limit:
        problems.append(f"(b) max-relative {max_relative:.2e} over {max_limit:.3g}")
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

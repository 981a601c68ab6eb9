"""What a row says of a load: kernels that were replaced, and what is unverified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from chipmark.backends.torch_device.devices import device_name
from chipmark.backends.triton_cuda.attention_choice import Cold
from chipmark.backends.triton_cuda.devices import VERIFIED
from chipmark.backends.triton_cuda.prefill import Prefill
from chipmark.backends.triton_cuda.trials import Choice
from chipmark.codes import NoteCode
from chipmark_models.decoder.op_table import SEPARATE
from chipmark_models.decoder.paged import ops as paged_ops


def _replacement(operation: str) -> str:
    other = paged_ops.TABLE.fallback(operation)
    return "left to what it joins" if other == SEPARATE else f"computed by {other}"


def notes_of(
    interpreted: bool,
    device: torch.device,
    replaced: Mapping[str, str],
    choices: Mapping[str, Mapping[int, Choice]],
    of_design: Sequence[tuple[str, str]] = (),
    not_made: str = "",
) -> tuple[tuple[str, str], ...]:
    """Notes of a load as (code, text): kernels replaced by operation with the reason, trials of
    products, the design's own. not_made: why the host computed the weights, or "".
    """
    notes: list[tuple[str, str]] = [
        (
            NoteCode.KERNEL_REPLACED,
            f"{operation} is {_replacement(operation)}: the kernel fails here ({reason})",
        )
        for operation, reason in replaced.items()
    ]
    notes += [
        (NoteCode.KERNEL_REPLACED, f"{operation} at {rows} rows: {by} was dropped ({reason})")
        for operation, by_rows in choices.items()
        for rows, choice in by_rows.items()
        for by, reason in choice.refused.items()
    ]
    notes += of_design
    if not_made:
        text = f"weights are computed by the host: the kernel for them fails here ({not_made})"
        notes.append((NoteCode.KERNEL_REPLACED, text))
    if interpreted:
        text = "Triton's interpreter on the CPU: for tests of the path, its time means nothing"
        notes.append((NoteCode.EP_COVERAGE, text))
    elif device_name(device) not in VERIFIED:
        text = f"triton:cuda on {device_name(device)}: unverified on hardware"
        notes.append((NoteCode.UNVERIFIED_PROVIDER, text))
    return tuple(notes)


def prefill_notes(cold: Cold, prefill: Prefill) -> list[tuple[str, str]]:
    """Of prefill: what was tried for cold prompts and dropped, and a capture that failed."""
    notes: list[tuple[str, str]] = [
        (NoteCode.KERNEL_REPLACED, f"attention of cold prompts by {by} was dropped ({reason})")
        for by, reason in cold.dropped.items()
    ]
    if prefill.refused:
        text = f"prefill runs eager where a graph was not captured ({prefill.refused})"
        notes.append((NoteCode.KERNEL_REPLACED, text))
    return notes

"""What a load says with its record: kernels that were replaced, and what is unverified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from chipmark.backends.torch_device.devices import device_name
from chipmark.backends.triton_cuda.attention_choice import Cold
from chipmark.backends.triton_cuda.devices import INTERPRETER, VERIFIED
from chipmark.backends.triton_cuda.prefill import Prefill
from chipmark.backends.triton_cuda.trials import Choice
from chipmark.codes import NoteCode
from chipmark_models.decoder.op_table import SEPARATE
from chipmark_models.decoder.paged import ops as paged_ops


def _replacement(operation: str) -> str:
    other = paged_ops.TABLE.fallback(operation)
    return "left to what it joins" if other == SEPARATE else f"computed by {other}"


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


def made_note(reason: str) -> tuple[tuple[str, str], ...]:
    """Of weights that were not made on the device, for this reason; none for ""."""
    if not reason:
        return ()
    text = f"weights are computed by the host: the kernel that makes them fails here ({reason})"
    return ((NoteCode.KERNEL_REPLACED, text),)


def kernel_notes(
    name: str,
    device: torch.device,
    replaced: Mapping[str, str],
    choices: Mapping[str, Mapping[int, Choice]],
    of_design: Sequence[tuple[str, str]] = (),
) -> tuple[tuple[str, str], ...]:
    """Of kernels that were replaced or dropped, of the design, and of what is unverified."""
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
    if name == INTERPRETER:
        text = "Triton's interpreter on the CPU: for tests of the path, its time means nothing"
        notes.append((NoteCode.EP_COVERAGE, text))
    elif device_name(device) not in VERIFIED:
        text = f"triton:cuda on {device_name(device)}: unverified on hardware"
        notes.append((NoteCode.UNVERIFIED_PROVIDER, text))
    return tuple(notes)

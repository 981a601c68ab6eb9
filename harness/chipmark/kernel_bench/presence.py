"""Whether a GPU is here, and the message where there is none."""

from __future__ import annotations


def missing_device() -> str:
    """Why nothing can be measured here and what to do; "" where torch has a CUDA device."""
    import torch

    if torch.cuda.is_available():
        return ""
    return (
        "gpu: no CUDA device here (torch.cuda.is_available() is false): nothing was measured."
        " Run this on a machine with a GPU; `chipmark doctor` says what is missing."
    )

"""How much of a launch's work ran on the device, counted from the operators that were dispatched.

An operator all of whose tensors are the host's ran on the host. What a vendor's plug-in computes
on the host below the dispatcher (torch's `cpu_fallback`) cannot be seen from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

DEVICES_WITHOUT_FALLBACK = ("cuda",)
"""Device types whose kernels never fall back to the host: a missing one raises. ROCm's and the
vendors' builds of torch that call their device `cuda` are built the same way."""


class DispatchedWork(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up FLOPs and bytes of tensors of every operator that computes, by where it ran.

    Views and what makes a tensor out of none compute nothing and are not counted. FLOPs are those
    of `torch.utils.flop_counter`: matrix products and attention.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.host = [0.0, 0.0]
        self.all = [0.0, 0.0]
        """FLOPs and bytes."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        result = func(*args, **given)
        read = [x for x in tree_leaves((args, given)) if isinstance(x, torch.Tensor)]
        if read and not func.is_view:
            tensors = read + [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
            count = flop_registry.get(func.overloadpacket)
            flops = float(count(*args, **given, out_val=result)) if count is not None else 0.0
            n_bytes = float(sum(x.numel() * x.element_size() for x in tensors))
            on_host = all(x.device.type == "cpu" for x in tensors)
            for totals in (self.all, self.host) if on_host else (self.all,):
                totals[0] += flops
                totals[1] += n_bytes
        return result

    @property
    def device_share(self) -> float | None:
        """The smaller of the shares of FLOPs and of bytes that ran on the device; None where
        nothing was dispatched."""
        shares = [1.0 - h / n for h, n in zip(self.host, self.all, strict=True) if n > 0]
        return min(shares) if shares else None


def coverage(device: torch.device, launches: Sequence[Callable[[], object]]) -> float | None:
    """Share of the work of these launches that ran on `device`: 1.0 for the host itself; None
    (unknown) where it cannot be found out, as of a device whose plug-in may fall back unseen."""
    if device.type == "cpu":
        return 1.0
    with DispatchedWork() as counted:
        for launch in launches:
            launch()
    share: float | None = counted.device_share
    if share is None or (device.type not in DEVICES_WITHOUT_FALLBACK and share >= 1.0):
        return None
    return share

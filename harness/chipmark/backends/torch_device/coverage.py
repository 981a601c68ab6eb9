"""How much of a launch's work ran on the device, and which operators ran on the host instead.

Two things are seen. An operator all of whose tensors are the host's, by what the dispatcher was
given. And an operator of the device within which a tensor went to the host, by torch's profiler:
so do plug-ins of the `PrivateUse1` kind compute what they have no kernel for
(`at::native::cpu_fallback`, which says nothing by itself). Whether the profiler sees copies of this
device at all is tried with the count; where it does not, what fell back is unknown. A plug-in
that fetches a tensor by its driver alone, below the dispatcher, is not seen by this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from chipmark.backends.torch_device.devices import hardware
from chipmark.backends.torch_device.lookalikes import POSED_AS, poses
from chipmark.engine.contract import HostOperator
from chipmark.log import logger_of

_LOG = logger_of(__name__)

SURELY_LOW = 0.99
"""Below it (DEFINITIONS: not ranked) a bound from above is given where nothing exact is known."""

_LABEL = "chipmark:"
_CONTROL = f"{_LABEL}control"
_TO_HOST = "aten::_to_cpu"
_COPIES = {"aten::copy_": (1, 0), "aten::_copy_from": (0, 1), "aten::_copy_from_and_resize": (0, 1)}
"""Operators that copy -> which of their tensors is read, which written."""

_TRANSFERS = frozenset({_TO_HOST, "aten::to", "aten::_to_copy", "aten::cpu", *_COPIES})
"""Operators that move a tensor and compute nothing: a caller that wants one on the host."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """share: the smaller of the shares of FLOPs and of bytes that ran on the device, None where it
    is not known. operators: what ran on the host, as far as it was seen, the largest first."""

    share: float | None
    operators: tuple[HostOperator, ...] = ()


@dataclass(slots=True)
class Call:
    """One operator that was dispatched and computes. host: the operator's name where it, or one
    within it, ran on the host, else ""."""

    flops: float
    n_bytes: float
    host: str


class DispatchedWork(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps FLOPs and bytes of tensors of every operator that computes, and where it ran.

    Views and what makes a tensor out of none compute nothing and are not counted. FLOPs are those
    of `torch.utils.flop_counter`: matrix products and attention. `labelled`: each call is named in
    the profiler that runs, by its place in `calls`.
    """

    def __init__(self, labelled: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self._labelled = labelled

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        read = [x for x in tree_leaves((args, given)) if isinstance(x, torch.Tensor)]
        if not read or func.is_view:
            return func(*args, **given)
        if self._labelled:
            with torch.profiler.record_function(f"{_LABEL}{len(self.calls)}"):
                result = func(*args, **given)
        else:
            result = func(*args, **given)
        tensors = read + [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        flops = _flops(func, args, given, result)
        n_bytes = float(sum(x.numel() * x.element_size() for x in tensors))
        on_host = all(x.device.type == "cpu" for x in tensors)
        name = func._schema.name if on_host else ""
        self.calls.append(Call(flops, n_bytes, name))
        return result

    @property
    def all(self) -> list[float]:
        """FLOPs and bytes of all calls."""
        return _sums(self.calls)

    @property
    def host(self) -> list[float]:
        """FLOPs and bytes of the calls that ran on the host."""
        return _sums([call for call in self.calls if call.host])

    @property
    def device_share(self) -> float | None:
        """The smaller of the shares of FLOPs and of bytes that ran on the device; None where
        nothing was dispatched."""
        shares = [1.0 - h / n for h, n in zip(self.host, self.all, strict=True) if n > 0]
        return min(shares) if shares else None

    @property
    def host_operators(self) -> tuple[HostOperator, ...]:
        """What ran on the host, by operator; the largest share first."""
        flops, n_bytes = self.all
        names = dict.fromkeys(call.host for call in self.calls if call.host)
        found = []
        for name in names:
            calls = [call for call in self.calls if call.host == name]
            own_flops, own_bytes = _sums(calls)
            shares = own_flops / flops if flops else 0.0, own_bytes / n_bytes if n_bytes else 0.0
            found.append(HostOperator(name, len(calls), *shares))
        return tuple(sorted(found, key=lambda o: -max(o.flops_share, o.bytes_share)))


def _flops(func: Any, args: Sequence[Any], given: Mapping[str, Any], result: object) -> float:
    """FLOPs of a call. In inference mode products and attention come whole to the mode, as what
    `torch.utils.flop_counter` would take apart."""
    packet = func.overloadpacket
    if (count := flop_registry.get(packet)) is not None:
        return float(count(*args, **given, out_val=result))
    if packet in (torch.ops.aten.linear, torch.ops.aten.matmul):
        columns = args[1].shape[0] if packet is torch.ops.aten.linear else args[1].shape[-1]
        return float(2 * args[0].numel() * columns)
    if packet is torch.ops.aten.scaled_dot_product_attention:
        shapes = [x.shape for x in args[:3]]
        return float(sdpa_flop_count(*shapes))  # type: ignore[no-untyped-call]
    return 0.0


def _sums(calls: Sequence[Call]) -> list[float]:
    return [sum(call.flops for call in calls), sum(call.n_bytes for call in calls)]


def coverage(device: torch.device, launches: Sequence[Callable[[], object]]) -> Coverage:
    """What of the work of these launches ran on `device`: all, for the host itself; unknown where
    it cannot be found out, as of a device whose copies the profiler does not see."""
    if device.type == "cpu":
        return Coverage(1.0)
    seen = True
    unseen = may_fall_back(device)
    counted = DispatchedWork(labelled=unseen)
    if unseen:
        seen = _profiled(device, counted, launches)
    else:
        with counted:
            for launch in launches:
                launch()
    share: float | None = counted.device_share
    if not seen and share is not None and share >= SURELY_LOW:
        share = None
    return Coverage(share, counted.host_operators)


def may_fall_back(device: torch.device) -> bool:
    """Whether kernels of the device may compute on the host below the dispatcher.

    Not those of NVIDIA's and AMD's cards, which torch itself is built for: there a missing kernel
    raises. Another vendor's chip that poses as `cuda` has a plug-in like every other type.
    """
    return device.type != POSED_AS or poses(lambda: hardware(device))


def _profiled(
    device: torch.device, counted: DispatchedWork, launches: Sequence[Callable[[], object]]
) -> bool:
    """Run the launches under the profiler and mark the calls of `counted` that fell back.

    Returns whether a copy of this device to the host, made after them, was seen.
    """
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True
    ) as profile:
        with counted:
            for launch in launches:
                launch()
        copied = True
        try:
            with torch.profiler.record_function(_CONTROL):
                torch.zeros(2, device=device).cpu()
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            _LOG.info("%s: no copy to the host could be tried: %s", device, error)
            copied = False
    try:
        events = list(_labelled(profile.profiler.kineto_results.experimental_event_tree()))
    except (AttributeError, RuntimeError) as error:
        _LOG.info("this torch's profiler does not tell its events: %s", error)
        return False
    seen = False
    for event in events:
        if event.name == _CONTROL:
            seen = copied and any(_leaves(inner, device) for inner in _below(event))
            continue
        call = counted.calls[int(event.name.removeprefix(_LABEL))]
        call.host = call.host or next(_fallen(event, device), "")
    return seen


def _labelled(events: Sequence[Any]) -> Iterator[Any]:
    """The outermost events that were labelled here."""
    for event in events:
        if event.name.startswith(_LABEL):
            yield event
        else:
            yield from _labelled(event.children)


def _below(event: Any) -> Iterator[Any]:
    for child in event.children:
        yield child
        yield from _below(child)


def _fallen(event: Any, device: torch.device, operator: str = "") -> Iterator[str]:
    """Names of the innermost operators below `event` within which a tensor left the device."""
    for child in event.children:
        if child.name in _TRANSFERS:
            if operator and (_leaves(child, device) or any(_fallen(child, device, operator))):
                yield operator
        else:
            yield from _fallen(child, device, child.name)


def _leaves(event: Any, device: torch.device) -> bool:
    """Whether an operator copies more than one number of the device to the host."""
    if event.name == _TO_HOST:
        return True
    if event.name not in _COPIES:
        return False
    inputs = getattr(event.typed[1], "inputs", ())
    source, target = (inputs[at] if at < len(inputs) else None for at in _COPIES[event.name])
    if _type_of(source) != device.type or _type_of(target) != "cpu":
        return False
    return bool(torch.Size(getattr(source, "sizes", ())).numel() > 1)


def _type_of(tensor: object) -> str:
    """The device type of a tensor that the profiler kept, "" for what is none."""
    return str(getattr(getattr(tensor, "device", None), "type", ""))

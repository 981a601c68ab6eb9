"""What a worker does with the kernels: their parity, their times next to peers, the roofs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from chipmark.kernel_bench.case import Call, Case, Inputs, Peer, PreparedPeer
from chipmark.kernel_bench.cases import cases
from chipmark.kernel_bench.measuring import (
    SEED,
    check,
    clones,
    oracle_of,
    parity_row,
    peer_problem,
    rotating,
    timed_row,
)
from chipmark.kernel_bench.peers import installed, optional_peers
from chipmark.kernel_bench.roofs import roof_steps
from chipmark.kernel_bench.selection import COMPILED, Peers
from chipmark.kernel_bench.timing import CudaDevice, Device
from chipmark.kernel_bench.worker import Step
from chipmark_kernels.device import facts_of
from chipmark_kernels.manifest import left_out


@dataclass(slots=True)
class _Prepared:
    """What the steps of a case share: inputs and oracle are made once, by the first that needs
    them."""

    rng: torch.Generator
    inputs: Inputs | None = None
    copies: list[Inputs] = field(default_factory=list)
    oracle: list[torch.Tensor] = field(default_factory=list)
    passed: bool = False
    timed: bool = False


class KernelBench:
    """The cases on one device, in one type."""

    def __init__(
        self,
        found: Sequence[Case],
        where: torch.device,
        device: Device,
        dtype: torch.dtype,
        *,
        roofs: Callable[[Device, torch.device], Iterator[Step]] = roof_steps,
    ) -> None:
        self._cases = {(case.kernel, case.name): case for case in found}
        self._where, self._device, self._dtype = where, device, dtype
        self._roofs = roofs

    def identity(self) -> Mapping[str, Any]:
        """Device and versions."""
        import triton

        return {
            "device": str(self._where),
            "dtype": str(self._dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "triton": triton.__version__,
            "peers": installed(),
        }

    def usable(self) -> bool:
        """Always, where there is no device to lose."""
        return True

    def steps(self, request: Mapping[str, Any]) -> Iterator[Step]:
        """`do`: roofs; or measure, of the `case` (kernel, name), with `peers` (`Peers`)."""
        self._free()
        for name, work in self._asked(request):
            yield name, without_gradients(work)

    def left_out(self, case: Case) -> str | None:
        """Why dispatch never picks this kernel on the device, or None."""
        # Rows are quantised for one product alone.
        family = "fp8_gemm" if case.kernel == "quantize_rows_fp8" else case.kernel
        return left_out(family, facts_of(self._where))

    def _asked(self, request: Mapping[str, Any]) -> Iterator[Step]:
        if request["do"] == "roofs":
            return self._roofs(self._device, self._where)
        case, have = self._cases[tuple(request["case"])], frozenset(request.get("have", ()))
        return self._measure(case, have, Peers(request["peers"]))

    def _measure(self, case: Case, have: frozenset[str], wanted: Peers) -> Iterator[Step]:
        """Parity; then the times of ours and of each peer, which is checked first."""
        if "parity" not in have and (reason := self.left_out(case)):
            yield "parity", lambda: {"left_out": reason}
            return
        peers = {step: named for step, named in _peers(case, wanted).items() if step not in have}
        if {"parity", "ours"} <= have and not peers:
            return
        state = _Prepared(torch.Generator(self._where).manual_seed(SEED))
        if "parity" not in have:
            yield "parity", lambda: self._parity(case, state)
            if not state.passed:
                return
        yield "inputs", lambda: self._copies(case, state)
        if not state.copies:
            return
        if "ours" not in have:
            yield "ours", lambda: self._ours(case, state)
            if not state.timed:
                return
        if peers and case.check is None and not state.oracle:
            yield "oracle", lambda: state.oracle.extend(oracle_of(case, state.inputs or ()))
            if not state.oracle:
                return
        for step, (name, peer) in peers.items():
            yield step, partial(self._peer, case, name, peer, state)

    def _inputs(self, case: Case, state: _Prepared) -> Inputs:
        if state.inputs is None:
            state.inputs = case.make(state.rng, self._where, self._dtype)
        return state.inputs

    def _parity(self, case: Case, state: _Prepared) -> dict[str, Any]:
        inputs = self._inputs(case, state)
        if case.check is None:
            state.oracle = oracle_of(case, inputs)
        row = parity_row(check(case, inputs, state.oracle))
        state.passed = row["ok"]
        return row

    def _copies(self, case: Case, state: _Prepared) -> dict[str, Any]:
        inputs = self._inputs(case, state)
        state.copies, cold = rotating(case, inputs, self._device, state.rng)
        return {"cold_l2": cold}

    def _ours(self, case: Case, state: _Prepared) -> dict[str, Any]:
        row = self._timed(case.ours, state.copies)
        state.timed = True
        return row

    def _timed(self, call: Call, copies: Sequence[Inputs]) -> dict[str, Any]:
        begun = time.monotonic()
        row = timed_row(self._device, call, copies)
        return row | {"from_s": begun, "to_s": time.monotonic()}

    def _peer(self, case: Case, name: str, peer: Peer, state: _Prepared) -> dict[str, Any]:
        prepare, call = (
            (peer.prepare, peer.call) if isinstance(peer, PreparedPeer) else (None, peer)
        )
        if name == COMPILED:
            # Functions of one source line share a cache of a few shapes, and after those run eager.
            torch._dynamo.reset()
            call = torch.compile(call, dynamic=False)
        assert state.inputs is not None
        ready: Callable[[Inputs], Inputs] = prepare or (lambda i: i)
        got = call(*ready(clones(state.inputs)))
        if problem := peer_problem(case, state.inputs, got, state.oracle):
            return {"differs": problem[:300]}
        del got
        return self._timed(call, [ready(c) for c in state.copies])

    def _free(self) -> None:
        """Memory of the case before goes back to the device."""


class CudaBench(KernelBench):
    """The presets' cases in bf16 on the current CUDA device."""

    def __init__(self) -> None:
        where = torch.device("cuda", torch.cuda.current_device())
        super().__init__(cases(), where, CudaDevice(), torch.bfloat16)

    def identity(self) -> Mapping[str, Any]:
        """As on any device, by the product's own name; `uuid` is that very card's."""
        properties: Any = torch.cuda.get_device_properties(self._where)
        return dict(super().identity()) | {
            "device": properties.name,
            "uuid": str(getattr(properties, "uuid", "")),
            "capability": f"{properties.major}.{properties.minor}",
            "l2_bytes": self._device.l2_bytes,
        }

    def usable(self) -> bool:
        """Whether the context survived the last step."""
        try:
            torch.cuda.synchronize()
        except RuntimeError:  # sticky: every later call fails too, and the worker is replaced
            return False
        return True

    def _free(self) -> None:
        torch.cuda.empty_cache()


def _peers(case: Case, wanted: Peers) -> dict[str, tuple[str, Peer]]:
    """Those that are wanted, by the step that times each: name and call."""
    if wanted is Peers.NONE:
        return {}
    found = dict(case.peers) | optional_peers(case)
    if wanted is not Peers.ALL:
        found.pop(COMPILED, None)
    return {f"peer {name}": (name, peer) for name, peer in found.items()}


def without_gradients(work: Callable[[], Any]) -> Callable[[], Any]:
    """A step's work in inference mode."""

    def run() -> Any:
        with torch.inference_mode():
            return work()

    return run

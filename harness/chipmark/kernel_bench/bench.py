"""What a worker does with the kernels: their parity, their times next to peers, the roofs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chipmark.kernel_bench.case import Call, Case, Inputs, Peer, PreparedPeer
from chipmark.kernel_bench.cases import cases
from chipmark.kernel_bench.document import code_hash
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
from chipmark.kernel_bench.timing import CudaDevice, Device
from chipmark.kernel_bench.worker import Step
from chipmark_kernels.device import facts_of
from chipmark_kernels.manifest import left_out


@dataclass(slots=True)
class _Prepared:
    """Inputs of a case in the worker; None until the step that makes them."""

    inputs: Inputs | None = None
    copies: list[Inputs] = field(default_factory=list)
    oracle: list[torch.Tensor] = field(default_factory=list)
    ours: bool = False


class KernelBench:
    """The cases on one device, in one type."""

    def __init__(
        self,
        found: Sequence[Case],
        where: torch.device,
        device: Device,
        dtype: torch.dtype,
        *,
        compiled: bool = True,
        roofs: Callable[[Device, torch.device], Iterator[Step]] = roof_steps,
    ) -> None:
        self._cases = {(case.kernel, case.name): case for case in found}
        self._where, self._device, self._dtype = where, device, dtype
        self._compiled, self._roofs = compiled, roofs

    def identity(self) -> Mapping[str, Any]:
        """Device, versions and a hash of the code."""
        import triton

        here = Path(__file__).parent
        return {
            "device": str(self._where),
            "dtype": str(self._dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "triton": triton.__version__,
            "code": code_hash([here.parents[1] / "kernels" / "chipmark_kernels", here]),
            "peers": installed(),
        }

    def usable(self) -> bool:
        """Always, where there is no device to lose."""
        return True

    def steps(self, request: Mapping[str, Any]) -> Iterator[Step]:
        """`do`: roofs; or parity or time of the `case` (kernel, name)."""
        self._free()
        for name, work in self._asked(request):
            yield name, _without_gradients(work)

    def left_out(self, case: Case) -> str | None:
        """Why dispatch never picks this kernel on the device, or None."""
        # Rows are quantised for one product alone.
        family = "fp8_gemm" if case.kernel == "quantize_rows_fp8" else case.kernel
        return left_out(family, facts_of(self._where))

    def _asked(self, request: Mapping[str, Any]) -> Iterator[Step]:
        if request["do"] == "roofs":
            return self._roofs(self._device, self._where)
        case = self._cases[tuple(request["case"])]
        if request["do"] == "parity":
            return self._parity(case)
        return self._times(case, frozenset(request.get("have", ())))

    def _made(self, case: Case, rng: torch.Generator) -> Inputs:
        return case.make(rng, self._where, self._dtype)

    def _rng(self) -> torch.Generator:
        return torch.Generator(self._where).manual_seed(SEED)

    def _parity(self, case: Case) -> Iterator[Step]:
        if reason := self.left_out(case):
            yield "parity", lambda: {"left_out": reason}
            return
        yield "parity", lambda: parity_row(check(case, self._made(case, self._rng())))

    def _times(self, case: Case, have: frozenset[str]) -> Iterator[Step]:
        """ours, then each peer: checked first, then timed."""
        state = _Prepared()

        def make() -> dict[str, Any] | None:
            rng = self._rng()
            inputs = self._made(case, rng)
            state.copies, cold = rotating(case, inputs, self._device, rng)
            state.inputs = inputs
            return {"cold_l2": cold}

        yield "inputs", make
        if state.inputs is None:
            return
        if "ours" not in have:
            yield "ours", lambda: self._ours(case, state)
            if not state.ours:
                return
        peers = {
            f"peer {name}": (name, peer)
            for name, peer in (dict(case.peers) | optional_peers(case)).items()
            if f"peer {name}" not in have and (self._compiled or name != "torch.compile")
        }
        if peers and case.check is None:
            yield "oracle", lambda: state.oracle.extend(oracle_of(case, state.inputs or ()))
            if not state.oracle:
                return
        for step, (name, peer) in peers.items():
            yield step, partial(self._peer, case, name, peer, state)

    def _ours(self, case: Case, state: _Prepared) -> dict[str, Any]:
        row = self._timed(case.ours, state.copies)
        state.ours = True
        return row

    def _timed(self, call: Call, copies: Sequence[Inputs]) -> dict[str, Any]:
        begun = time.monotonic()
        row = timed_row(self._device, call, copies)
        return row | {"from_s": begun, "to_s": time.monotonic()}

    def _peer(self, case: Case, name: str, peer: Peer, state: _Prepared) -> dict[str, Any]:
        prepare, call = (
            (peer.prepare, peer.call) if isinstance(peer, PreparedPeer) else (None, peer)
        )
        if name == "torch.compile":
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

    def __init__(self, *, compiled: bool = True) -> None:
        where = torch.device("cuda", torch.cuda.current_device())
        super().__init__(cases(), where, CudaDevice(), torch.bfloat16, compiled=compiled)

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


def _without_gradients(work: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.inference_mode():
            return work()

    return run

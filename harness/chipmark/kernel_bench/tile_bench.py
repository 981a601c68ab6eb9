"""What the measuring process does to tune tiles: each tile checked, then timed as in use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from chipmark.kernel_bench.bench import without_gradients
from chipmark.kernel_bench.case import Case, Inputs
from chipmark.kernel_bench.measuring import SEED, check, oracle_of, parity_row, rotating
from chipmark.kernel_bench.tiling import name_of, tunable_cases
from chipmark.kernel_bench.timing import CudaDevice, Device, measure
from chipmark.kernel_bench.worker import Step
from chipmark_kernels.device import facts_of
from chipmark_kernels.manifest import MODEL_SHAPES
from chipmark_kernels.tiles import Tile

TRIAL_REPEATS, AGAIN_REPEATS = 7, 20
AGAIN = "again "
"""What a step begins with that times a tile once more, with more repeats."""


@dataclasses.dataclass(slots=True)
class _Made:
    """Of one case, made once for all its tiles."""

    inputs: Inputs = ()
    oracle: list[torch.Tensor] = dataclasses.field(default_factory=list)
    copies: list[Inputs] = dataclasses.field(default_factory=list)


class TileBench:
    """Tiles of cases on one device, in one type."""

    def __init__(
        self, found: Sequence[Case], where: torch.device, device: Device, dtype: torch.dtype
    ) -> None:
        self._cases = {(case.kernel, case.name): case for case in found}
        self._where, self._device, self._dtype = where, device, dtype

    def identity(self) -> Mapping[str, Any]:
        """Device and versions; its name, target and product as tables have them."""
        import triton

        facts = facts_of(self._where)
        return {
            "device": str(self._where),
            "facts": dataclasses.asdict(facts),
            "torch": torch.__version__,
            "triton": triton.__version__,
        }

    def usable(self) -> bool:
        """Always, where there is no device to lose."""
        return True

    def steps(self, request: Mapping[str, Any]) -> Iterator[Step]:
        """`case` (kernel, name) by each of `tiles` (fields of `Tile`) that `have` does not name;
        with `again` true with more repeats."""
        case = self._cases[tuple(request["case"])]
        again = bool(request.get("again"))
        have = frozenset(request.get("have", ()))
        named = {(AGAIN if again else "") + name_of(t): t for t in map(_tile, request["tiles"])}
        left = {step: tile for step, tile in named.items() if step not in have}
        made = _Made()
        if left:
            yield "inputs", without_gradients(partial(self._make, case, made))
            if not made.copies:
                return
        repeats = AGAIN_REPEATS if again else TRIAL_REPEATS
        for step, tile in left.items():
            yield step, without_gradients(partial(self._trial, case, made, tile, repeats))

    def _make(self, case: Case, made: _Made) -> None:
        rng = torch.Generator(self._where).manual_seed(SEED)
        made.inputs = case.make(rng, self._where, self._dtype)
        made.oracle = oracle_of(case, made.inputs)
        made.copies, _ = rotating(case, made.inputs, self._device, rng)

    def _trial(self, case: Case, made: _Made, tile: Tile, repeats: int) -> dict[str, Any]:
        assert case.tiled is not None
        call = case.tiled(tile)
        parity = parity_row(check(dataclasses.replace(case, ours=call), made.inputs, made.oracle))
        if not parity["ok"]:
            problems = [p for r in parity["results"] for p in r["problems"]]
            return {"differs": "; ".join(problems)[:300]}
        timed = measure(self._device, call, made.copies, repeats=repeats)
        return {"median_s": timed.median_s, "samples_s": timed.samples_s}


class CudaTileBench(TileBench):
    """On the current CUDA device, in bf16; models, rows and kernels say which cases."""

    def __init__(
        self, *, models: Sequence[str], rows: Sequence[int], kernels: Sequence[str]
    ) -> None:
        where = torch.device("cuda", torch.cuda.current_device())
        shapes = [s for s in MODEL_SHAPES if s.name in models]
        super().__init__(tunable_cases(shapes, rows, kernels), where, CudaDevice(), torch.bfloat16)

    def identity(self) -> Mapping[str, Any]:
        """As on any device, by the product's own name."""
        return dict(super().identity()) | {"device": torch.cuda.get_device_name(self._where)}

    def usable(self) -> bool:
        """Whether the context survived the last step."""
        try:
            torch.cuda.synchronize()
        except RuntimeError:  # sticky: every later call fails too, and the worker is replaced
            return False
        return True

    def steps(self, request: Mapping[str, Any]) -> Iterator[Step]:
        """As on any device; memory of the case before goes back first."""
        torch.cuda.empty_cache()
        yield from super().steps(request)


def _tile(fields: Mapping[str, int]) -> Tile:
    return Tile(**fields)

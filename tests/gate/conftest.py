"""Files of pytest-benchmark with samples of a wanted size."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAMES = ("t.py::test_decode", "t.py::test_prefill")

Write = Callable[..., Path]


def entry(name: str, data: Sequence[float], rounds: list[list[int]] | None) -> dict[str, Any]:
    stats = {
        "min": min(data), "max": max(data), "mean": statistics.fmean(data), "stddev": 0.0,
        "median": statistics.median(data), "rounds": len(data), "iterations": 1,
        "data": list(data),
    }  # fmt: skip
    extra: dict[str, Any] = {} if rounds is None else {"chipmark": {"rounds": rounds}}
    return {
        "name": name.partition("::")[2], "fullname": name, "group": None, "param": None,
        "params": None, "extra_info": extra, "options": {}, "stats": stats,
    }  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(name, factor, names=, cpu=, n=, ab=(run, arm), rounds=): a file of samples of
    10 ms times `factor`, with 0.5 % of noise of its own."""

    def make(
        name: str,
        factor: float = 1.0,
        *,
        names: Sequence[str] = NAMES,
        cpu: str = "a chip",
        node: str = "here",
        n: int = 12,
        ab: tuple[str, str] | None = None,
        rounds: list[list[int]] | None = None,
    ) -> Path:
        generator = np.random.default_rng(sum(map(ord, name)))
        count = n if rounds is None else len(rounds)
        entries = [
            entry(t, (0.01 * factor * np.exp(generator.normal(0, 0.005, count))).tolist(), rounds)
            for t in names
        ]
        document: dict[str, Any] = {
            "version": "5.2.3",
            "datetime": "2026-11-25T07:00:00",
            "machine_info": {
                "node": node, "machine": "x86_64", "system": "Linux",
                "cpu": {"brand_raw": cpu, "count": 2},
            },
            "commit_info": {},
            "benchmarks": entries,
        }  # fmt: skip
        if ab is not None:
            document["chipmark"] = {"interleaved": {"run": ab[0], "arm": ab[1]}}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return path

    return make

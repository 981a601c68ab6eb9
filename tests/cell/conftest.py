from __future__ import annotations

import os
from pathlib import Path

import pytest

from chipmark.cell.protocol import ChildSpec, LoadAnswer, LoadedCaps, Words
from chipmark.engine.contract import LoadSpec

FAULTS = Path(__file__).with_name("faults")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children know `sim:faulty-FAULT` (see faults/sitecustomize.py)."""
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAULTS), *([before] if before else [])]))


@pytest.fixture
def sim_spec(tmp_path: Path) -> ChildSpec:
    return ChildSpec(
        backend="sim:golden",
        load=LoadSpec(
            model={"vocab_size": 512},
            precision="fp32",
            n_seqs=3,
            max_context=400,
            kv_tokens=1200,
            max_chunk=64,
            scratch=str(tmp_path),
        ),
        feedback="forced",
    )


@pytest.fixture
def load_answer() -> LoadAnswer:
    """What a backend that computes in fp32 answers to `load`."""
    return LoadAnswer(
        caps=LoadedCaps("slots", "copy", 10, 4, 64, n_slots=5),
        load_s=1.0,
        compile_s=1.0,
        weight_bytes=1000,
        kv_bytes=500,
        precision=Words("fp32", "fp32", "fp32", "fp32"),
        graph="none",
        ep_coverage=1.0,
        device="x",
        details={},
        notes=(),
        describe={},
        plugin={},
        refused_plugins=(),
        wall_s=2.0,
        python="3.12",
        numpy="2.0",
        packages={},
        peak_rss_bytes=1,
    )

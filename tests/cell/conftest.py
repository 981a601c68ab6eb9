from __future__ import annotations

import os
from pathlib import Path

import pytest

from chipmark.cell.protocol import ChildSpec
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

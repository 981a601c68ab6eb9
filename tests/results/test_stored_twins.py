"""What is a dataclass in the harness and a checked model in a file has the same fields in both."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import pytest
from pydantic import BaseModel

from chipmark.chips.contract import ChipIdentity
from chipmark.engine.contract import HostOperator, Loaded
from chipmark.meters.contract import MeterInfo
from chipmark.metrics.derive import Derived
from chipmark.metrics.rawcell import Roofs, RunTiming, SloLimits
from chipmark.results.manifest import (
    ChipId,
    HostOperatorId,
    LoadResult,
    MeterId,
    Probes,
    Slo,
    Timing,
)
from chipmark.results.raw import from_stored
from chipmark.results.record import Metrics

IN_OTHER_PLACES = dict.fromkeys(("precision", "notes", "sampling", "clock", "bind_is_snapshot"), "")
PAIRS: list[tuple[type[Any], type[BaseModel], set[str], dict[str, str]]] = [
    (ChipIdentity, ChipId, set(), {}),
    (MeterInfo, MeterId, set(), {}),
    (SloLimits, Slo, {"name"}, {}),
    # What other clocks are aligned by is for what reads their logs.
    (RunTiming, Timing, {"unix_s"}, {}),
    # Who probed and when is for people; `llc_bytes` and the rates are what metrics take.
    (Roofs, Probes, {"start_s", "end_s", "by"}, {}),
    (Derived, Metrics, set(), {"metrics": "values", "schema": "schema_"}),
    # Precision and notes have places of their own in the manifest, the rest is kept in `caps`.
    (Loaded, LoadResult, {"peak_rss_bytes", "peak_device_bytes"}, IN_OTHER_PLACES),
    (HostOperator, HostOperatorId, set(), {}),
]
"""(dataclass, model, fields of the model alone, other names in the model; "" is elsewhere)."""


def kept(kind: type[Any], names: dict[str, str]) -> dict[str, Any]:
    """Fields of a dataclass by their name in the model."""
    named = {names.get(field.name, field.name): field for field in fields(kind)}
    named.pop("", None)
    return named


@pytest.mark.parametrize(("kind", "model", "alone", "names"), PAIRS)
def test_fields_agree(kind, model, alone, names):
    assert set(kept(kind, names)) == set(model.model_fields) - alone


@pytest.mark.parametrize(("kind", "model", "alone", "names"), PAIRS)
def test_defaults_agree_where_both_have_one(kind, model, alone, names):
    for name, field in kept(kind, names).items():
        stored = model.model_fields[name]
        if field.default is not MISSING and not stored.is_required() and name != "schema_":
            assert stored.get_default() == field.default, name


def test_a_stored_part_becomes_what_metrics_take():
    slo = Slo(name="mine", ttft_append_s=1.0, ttft_cold_s=3.0, tpot_s=0.1, share=0.9)
    assert from_stored(SloLimits, slo) == SloLimits(1.0, 3.0, 0.1, 0.9)

"""`cell.json` of a measured or failed cell, from what was asked and what was answered."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from chipmark import __version__
from chipmark.cell.environment import recorded_environment
from chipmark.cell.folder import KEY
from chipmark.cell.measure import MeasuredCell
from chipmark.cell.plugins import backend_plugin, chip_plugin, meter_plugin
from chipmark.cell.provenance import own_commit
from chipmark.cell.unit_notes import foreign_code, meter_notes, unit_notes
from chipmark.cell.workloads import workload_id
from chipmark.chips.contract import ChipIdentity
from chipmark.codes import NoteCode
from chipmark.engine.computed import linear_input_of
from chipmark.engine.plan import CACHE_POLICY
from chipmark.results.manifest import (
    ChipId,
    LoadResult,
    Manifest,
    MeterId,
    Note,
    PluginId,
    PrecisionId,
)
from chipmark.results.stored_bytes import too_few_kv_bytes, too_few_weight_bytes
from chipmark_models.config import ModelConfig
from chipmark_models.precision import precision_class, precision_named


def assemble(cell: MeasuredCell, chip: ChipIdentity, key: str, options: dict[str, Any]) -> Manifest:
    """The manifest of a cell that has ended. `options` are the choices that it was run with."""
    inputs, plan, loaded = cell.inputs, cell.inputs.plan, cell.loaded
    meter = inputs.meter
    done = cell.failure is None
    plugins = _plugins(cell, chip)
    return Manifest.model_validate(
        {
            "schema": "chipmark.cell/2",
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "chipmark_version": __version__,
            "chipmark_commit": own_commit(),
            "status": "done" if done else "failed",
            "failure": cell.failure,
            "backend": plan.backend,
            "chip": ChipId.model_validate(dataclasses.asdict(chip)),
            "workload": workload_id(inputs.trace),
            "model": inputs.model,
            "precision": _precision(plan.precision, loaded.get("precision")),
            "scenario": plan.scenario,
            "concurrency": cell.concurrency,
            "feedback": inputs.feedback,
            "cache_policy": dict(CACHE_POLICY),
            "slo": inputs.slo,
            "load": _load(cell) if loaded else None,
            "parity": cell.parity,
            "audit": cell.audit,
            "plugins": plugins,
            "meter": None if meter is None else MeterId(**dataclasses.asdict(meter.info)),
            "repeats": cell.repeats_done if done else 0,
            "limits": dataclasses.asdict(inputs.limits),
            "capacity": cell.capacity,
            "sweep": tuple(cell.sweep),
            "environment": recorded_environment(loaded),
            "options": {KEY: key, **options},
            "notes": tuple(_notes(cell, chip) + foreign_code(plugins)),
        }
    )


def _plugins(cell: MeasuredCell, chip: ChipIdentity) -> dict[str, PluginId]:
    backend = cell.inputs.plan.backend
    found = {
        "backend": backend_plugin(backend, cell.loaded)[0],
        "meter": None if cell.simulated else meter_plugin(cell.inputs.meter),
        "chip": None if cell.simulated else chip_plugin(backend, chip),
    }
    return {role: plugin for role, plugin in found.items() if plugin is not None}


def _precision(requested: str, told: dict[str, str] | None) -> PrecisionId:
    told = told or {}
    named = precision_named(requested)
    weights = told.get("weights", requested)
    activation = told.get("activation", named.activation)
    kv = told.get("kv", named.kv)
    return PrecisionId(
        requested=requested,
        weights=weights,
        activation=activation,
        kv=kv,
        accumulate=told.get("accumulate", "unknown"),
        class_name=precision_class(weights, linear_input_of(activation), kv),
    )


def _load(cell: MeasuredCell) -> LoadResult:
    loaded = cell.loaded
    return LoadResult(
        load_s=loaded["load_s"],
        compile_s=loaded["compile_s"],
        weight_bytes=loaded["weight_bytes"],
        kv_bytes=loaded["kv_bytes"],
        graph=loaded["graph"],
        execution=loaded["caps"]["execution"],
        ep_coverage=loaded["ep_coverage"],
        device=loaded["device"],
        caps=loaded["caps"],
        details=loaded["details"] | {"wall_s": loaded["wall_s"]} | _quantised(cell),
        peak_rss_bytes=cell.peak_rss_bytes or None,
    )


def _quantised(cell: MeasuredCell) -> dict[str, Any]:
    in_use = cell.inputs.in_use
    return {"quantised": in_use.quantised} if in_use and in_use.quantised else {}


def _too_few_bytes(cell: MeasuredCell) -> list[Note]:
    """What shows that weights or KV are stored in less than their precision needs."""
    if not cell.inputs.model.config:
        return []
    config = ModelConfig.from_dict(cell.inputs.model.config)
    computed = _precision(cell.inputs.plan.precision, cell.loaded["precision"])
    on_host = cell.inputs.plan.backend.endswith(":cpu")
    peak = (cell.peak_rss_bytes or None) if on_host else None
    told = int(cell.loaded["weight_bytes"])
    found = {
        NoteCode.WEIGHT_BYTES: too_few_weight_bytes(config, computed.weights, told, peak),
        NoteCode.KV_BYTES: too_few_kv_bytes(
            config, computed.kv, int(cell.loaded["kv_bytes"]), cell.loaded["caps"]
        ),
    }
    return [Note(code=code, text=text) for code, text in found.items() if text]


def _notes(cell: MeasuredCell, chip: ChipIdentity) -> list[Note]:
    notes = []
    for told in cell.loaded.get("notes", ()):
        code = told.get("code", NoteCode.BACKEND)
        known = NoteCode.known(code) or NoteCode.BACKEND
        notes.append(Note(code=known, text=told.get("text", code)))
    notes += cell.notes
    if cell.loaded:
        if wrong := backend_plugin(cell.inputs.plan.backend, cell.loaded)[1]:
            notes.append(Note(code=NoteCode.PLUGIN, text=wrong))
        notes += _too_few_bytes(cell)
    if not chip.verified:
        notes.append(
            Note(code=NoteCode.UNVERIFIED_CHIP, text=f"{chip.name}: {'; '.join(chip.evidence)}")
        )
    notes += unit_notes(chip)
    if cell.inputs.meter is not None:
        notes += meter_notes(cell.inputs.meter.info)
    if cell.inputs.model.source_kind == "synthetic":
        notes.append(
            Note(code=NoteCode.WEIGHTS_SYNTHETIC, text="seeded weights of the model's shape")
        )
    if kept := _quantised(cell).get("quantised", {}).get("kept_matrices"):
        text = f"{len(kept)} matrices stay bf16, as no group divides their rows: {kept[0]} first"
        notes.append(Note(code=NoteCode.PRECISION_NOTE, text=text))
    if cell.inputs.feedback == "sampled":
        notes.append(Note(code=NoteCode.FEEDBACK_SAMPLED, text="contexts differ between backends"))
    unique = {(note.code, note.text): note for note in notes}
    return list(unique.values())

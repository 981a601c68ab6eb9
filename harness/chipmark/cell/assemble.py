"""`cell.json` of a measured or failed cell, from what was asked and what was answered."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from chipmark import __version__
from chipmark.cell.environment import recorded_environment
from chipmark.cell.folder import KEY
from chipmark.cell.outcome import CellOutcome
from chipmark.cell.plugins import backend_plugin, chip_plugin, meter_plugin
from chipmark.cell.protocol import LoadAnswer, Words
from chipmark.cell.provenance import own_commit
from chipmark.cell.unit_notes import device_notes, foreign_code, meter_notes, unit_notes
from chipmark.cell.workloads import workload_id
from chipmark.codes import NoteCode
from chipmark.engine.computed import class_of
from chipmark.engine.plan import CACHE_POLICY
from chipmark.meters.contract import Meter
from chipmark.registry import is_simulated
from chipmark.results.manifest import (
    ChipId,
    HostOperatorId,
    LoadResult,
    Manifest,
    Note,
    PluginId,
    PrecisionId,
)
from chipmark.results.meter_id import MeterId
from chipmark.results.stored_bytes import too_few_kv_bytes, too_few_weight_bytes
from chipmark_models.config import ModelConfig
from chipmark_models.precision import precision_named


def assemble(cell: CellOutcome, key: str, options: dict[str, Any]) -> Manifest:
    """The manifest of a cell. `options` are the choices that it was run with."""
    inputs, plan, loaded, chip = cell.inputs, cell.inputs.plan, cell.loaded, cell.inputs.chip
    meters = inputs.meters
    done = cell.failure is None
    plugins = _plugins(cell)
    beside = _beside_plugins(cell)
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
            "precision": _precision(plan.precision, loaded.precision if loaded else None),
            "scenario": plan.scenario,
            "concurrency": cell.concurrency,
            "replicas": cell.replicas,
            "feedback": inputs.settings.feedback,
            "cache_policy": dict(CACHE_POLICY),
            "slo": inputs.settings.slo,
            "load": None if loaded is None else _load(cell, loaded),
            "parity": cell.parity,
            "audit": cell.audit,
            "quality": cell.quality,
            "plugins": plugins,
            "beside_plugins": beside,
            "meter": None if meters.meter is None else _meter_id(meters.meter),
            "beside": tuple(map(_meter_id, meters.beside)),
            "repeats": cell.repeats_done if done else 0,
            "limits": dataclasses.asdict(inputs.settings.limits),
            "capacity": cell.capacity,
            "sweep": cell.sweep,
            "environment": recorded_environment(loaded),
            "options": {KEY: key, **options},
            "notes": tuple(_notes(cell) + foreign_code(plugins, beside)),
        }
    )


def _meter_id(meter: Meter) -> MeterId:
    return MeterId(**dataclasses.asdict(meter.info))


def _beside_plugins(cell: CellOutcome) -> dict[str, PluginId]:
    if is_simulated(cell.inputs.plan.backend):
        return {}
    return {meter.info.name: meter_plugin(meter) for meter in cell.inputs.meters.beside}


def _plugins(cell: CellOutcome) -> dict[str, PluginId]:
    backend, meter = cell.inputs.plan.backend, cell.inputs.meters.meter
    simulated = is_simulated(backend)
    found = {
        "backend": backend_plugin(backend, cell.loaded)[0],
        "meter": None if simulated or meter is None else meter_plugin(meter),
        "chip": None if simulated else chip_plugin(backend, cell.inputs.chip),
    }
    return {role: plugin for role, plugin in found.items() if plugin is not None}


def _precision(requested: str, words: Words | None) -> PrecisionId:
    named = precision_named(requested)
    told = words or Words(requested, named.activation, named.kv, "unknown")
    return PrecisionId(
        requested=requested,
        weights=told.weights,
        activation=told.activation,
        kv=told.kv,
        accumulate=told.accumulate,
        class_name=class_of(told.weights, told.activation, told.kv),
    )


def _load(cell: CellOutcome, loaded: LoadAnswer) -> LoadResult:
    return LoadResult(
        load_s=loaded.load_s,
        compile_s=loaded.compile_s,
        weight_bytes=loaded.weight_bytes,
        kv_bytes=loaded.kv_bytes,
        graph=loaded.graph,
        execution=loaded.caps.execution,
        ep_coverage=loaded.ep_coverage,
        device=loaded.device,
        caps=dataclasses.asdict(loaded.caps),
        details={
            **loaded.details,
            "wall_s": loaded.wall_s,
            **_quantised(cell),
            **({"launches": dict(cell.launches)} if cell.launches else {}),
        },
        peak_rss_bytes=cell.peak_rss_bytes or None,
        peak_device_bytes=cell.peak_device_bytes,
        host_operators=tuple(
            HostOperatorId(**dataclasses.asdict(left)) for left in loaded.host_operators
        ),
        emulated=loaded.emulated,
    )


def _quantised(cell: CellOutcome) -> dict[str, Any]:
    in_use = cell.inputs.in_use
    return {"quantised": in_use.quantised} if in_use and in_use.quantised else {}


def _too_few_bytes(cell: CellOutcome, loaded: LoadAnswer) -> list[Note]:
    """What shows that weights or KV are stored in less than their precision needs."""
    if not cell.inputs.model.config:
        return []
    config = ModelConfig.from_dict(cell.inputs.model.config)
    computed = _precision(cell.inputs.plan.precision, loaded.precision)
    on_host = cell.inputs.plan.backend.endswith(":cpu")
    peak = (cell.peak_rss_bytes or None) if on_host else None
    found = {
        NoteCode.WEIGHT_BYTES: too_few_weight_bytes(
            config, computed.weights, loaded.weight_bytes, peak
        ),
        NoteCode.KV_BYTES: too_few_kv_bytes(
            config, computed.kv, loaded.kv_bytes, dataclasses.asdict(loaded.caps)
        ),
    }
    return [Note(code=code, text=text) for code, text in found.items() if text]


def _notes(cell: CellOutcome) -> list[Note]:
    notes, chip, loaded = [], cell.inputs.chip, cell.loaded
    for told in loaded.notes if loaded else ():
        known = NoteCode.known(told.code) or NoteCode.BACKEND
        notes.append(Note(code=known, text=told.text))
    notes += cell.notes
    if loaded is not None:
        if wrong := backend_plugin(cell.inputs.plan.backend, loaded)[1]:
            notes.append(Note(code=NoteCode.PLUGIN, text=wrong))
        notes += [*device_notes(loaded), *_too_few_bytes(cell, loaded)]
    if not chip.verified:
        notes.append(
            Note(code=NoteCode.UNVERIFIED_CHIP, text=f"{chip.name}: {'; '.join(chip.evidence)}")
        )
    notes += unit_notes(chip)
    for meter in (cell.inputs.meters.meter, *cell.inputs.meters.beside):
        if meter is not None:
            notes += meter_notes(meter.info)
    if cell.inputs.model.source_kind == "synthetic":
        notes.append(
            Note(code=NoteCode.WEIGHTS_SYNTHETIC, text="seeded weights of the model's shape")
        )
    if kept := _quantised(cell).get("quantised", {}).get("kept_matrices"):
        text = f"{len(kept)} matrices stay bf16, as no group divides their rows: {kept[0]} first"
        notes.append(Note(code=NoteCode.PRECISION_NOTE, text=text))
    if cell.inputs.settings.feedback == "sampled":
        notes.append(Note(code=NoteCode.FEEDBACK_SAMPLED, text="contexts differ between backends"))
    unique = {(note.code, note.text): note for note in notes}
    return list(unique.values())

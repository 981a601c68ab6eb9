"""Cells before their children start: traces, weights, chips and meters, each made once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from chipmark.cell.folder import cell_key
from chipmark.cell.inputs import CellInputs
from chipmark.cell.names import check_backend
from chipmark.cell.replicas import check_replicas
from chipmark.cell.reporter import Reporter
from chipmark.cell.settings import RunOptions
from chipmark.cell.settle import PickMeters, is_open, remarks_of
from chipmark.cell.suite import CellPlan
from chipmark.cell.workloads import (
    ModelInUse,
    check_source,
    find_model,
    prepare_model,
    sim_config,
    sim_model,
    trace_of,
)
from chipmark.chips.catalogue import catalogue, catalogue_name
from chipmark.chips.contract import ChipIdentity
from chipmark.chips.detect import chip_of
from chipmark.chips.nameplate import nameplate, unit_nameplate_w
from chipmark.codes import NoteCode
from chipmark.engine.lanes import check_closed_loop
from chipmark.engine.plugins import needs_weights_file
from chipmark.meters.contract import Scope
from chipmark.meters.pick import Picked, check_names, pick_meters
from chipmark.meters.replay import SIM_COUNTER_INFO, ReplayMeter, sim_info
from chipmark.meters.request import AssumedPower, MeterRequest
from chipmark.registry import is_simulated, split_backend
from chipmark.results.manifest import Note
from chipmark.workload.trace import Trace
from chipmark_models.weights.open import source_hash
from chipmark_models.weights.source import WeightRef


@dataclass(frozen=True, slots=True)
class PreparedCell:
    """A cell that is ready to be measured."""

    inputs: CellInputs
    key: str
    """What makes it the same measurement as a stored one: see `resume_key`."""


class Preparation:
    """Traces, weights, chips and meters of cells, each made once."""

    def __init__(self, options: RunOptions, reporter: Reporter) -> None:
        self._options, self._reporter = options, reporter
        self._refs: dict[str, WeightRef] = {}
        self._models: dict[tuple[str, str, bool], ModelInUse] = {}
        self._traces: dict[tuple[object, ...], Trace] = {}

    def cell(self, plan: CellPlan, repeats: int) -> PreparedCell:
        """Everything a cell needs before its child starts."""
        chip = chip_of(plan.backend)
        check_replicas(plan, chip)
        trace = self.trace(plan)
        in_use = self._model_in_use(plan)
        identity = sim_model(plan.model) if in_use is None else in_use.identity
        pick = self._picker(plan)
        meters = self._meters(plan, chip, pick)
        inputs = CellInputs(
            plan=plan,
            trace=trace,
            model=identity,
            in_use=in_use,
            chip=chip,
            meters=meters,
            repeats=repeats,
            settings=self._options,
            notes=(*remarks_of(meters), *chip_notes(chip), *option_notes(plan)),
            pick=pick,
        )
        return PreparedCell(inputs, resume_key(inputs))

    def key(self, plan: CellPlan, repeats: int) -> str:
        """`PreparedCell.key` of a cell whose weights are not prepared yet."""
        ref = self._ref_of(plan)
        if is_simulated(plan.backend) or ref is None:
            source = sim_model(plan.model).source_hash
        else:
            source = source_hash(ref)
        return key_of(
            plan, chip_of(plan.backend), self._options, source, self.trace(plan).hash, repeats
        )

    def check(self, plans: Sequence[CellPlan]) -> None:
        """Look at all that a run of these cells reads, weights not prepared: what is wrong with a
        model's files, a workload, a replica or a meter is raised before the first child starts."""
        self.check_meters(plans)
        for plan in plans:
            check_replicas(plan, chip_of(plan.backend))
            trace = self.trace(plan)
            if plan.scenario == "capacity":
                check_closed_loop(trace)

    def check_meters(self, plans: Sequence[CellPlan]) -> None:
        """Raise UnknownNameError or UsageError where meters that the user named do not exist, or
        cannot be read for one of these cells. Those of a card that only its loaded process can
        name are looked for then."""
        choices = self._options.meters
        check_names(choices, self._options.power_w)
        by_backend = {plan.backend: plan for plan in plans if not is_simulated(plan.backend)}
        for plan in by_backend.values() if choices else ():
            chip = chip_of(plan.backend)
            if not is_open(chip):
                self._picker(plan)(chip)

    def _picker(self, plan: CellPlan) -> PickMeters:
        device, options = split_backend(plan.backend)[1], self._options

        def pick(chip: ChipIdentity) -> Picked:
            request = meter_request(chip, device, options.power_w)
            return pick_meters(replace(request, choices=options.meters))

        return pick

    def _meters(self, plan: CellPlan, chip: ChipIdentity, pick: PickMeters) -> Picked:
        """The meters of a cell, with remarks on them. A card that is not known yet is metered as
        soon as the loaded process reports it."""
        if is_simulated(plan.backend):
            unused = {"--meter": self._options.meters, "--power-w": self._options.power_w}
            given = [option for option, value in unused.items() if value]
            return sim_meters(split_backend(plan.backend)[1], given)
        return Picked() if is_open(chip) else pick(chip)

    def trace(self, plan: CellPlan) -> Trace:
        """The trace of a cell, for which weights are looked at but not prepared."""
        key = (plan.kind, plan.workload, plan.scale, plan.sessions, plan.model)
        if key not in self._traces:
            ref = self._ref_of(plan)
            config = check_source(ref) if ref else sim_config(plan.model)
            self._traces[key] = trace_of(plan, ref, config, self._options.seed)
        return self._traces[key]

    def _ref_of(self, plan: CellPlan) -> WeightRef | None:
        simulated = is_simulated(plan.backend)
        return None if simulated and plan.kind != "transcript" else self._ref(plan.model)

    def _ref(self, name: str) -> WeightRef:
        if name not in self._refs:
            self._refs[name] = find_model(name, self._options.seed, self._reporter.stage)
        return self._refs[name]

    def _model_in_use(self, plan: CellPlan) -> ModelInUse | None:
        """The weights of a cell, prepared once; None for a simulated device."""
        ref = self._ref_of(plan)
        if is_simulated(plan.backend) or ref is None:
            return None
        key = (plan.model, plan.precision, needs_weights_file(plan.backend))
        if key not in self._models:
            self._models[key] = prepare_model(
                ref, plan.precision, plan.backend, self._reporter.stage
            )
        return self._models[key]


_RUN_S = 3600.0
"""What a repeat's limit was in the keys of records so far. How long one may take does not make
another measurement of it, so the limit of this run is not asked; `stored_cells` looks for repeats
that were cut."""


def resume_key(inputs: CellInputs) -> str:
    """What makes two cells the same measurement: a record with this key is not measured again."""
    return key_of(
        inputs.plan,
        inputs.chip,
        inputs.settings,
        inputs.model.source_hash,
        inputs.trace.hash,
        inputs.repeats,
    )


def key_of(
    plan: CellPlan,
    chip: ChipIdentity,
    settings: RunOptions,
    source: str,
    trace: str,
    repeats: int,
) -> str:
    """`resume_key` of a cell by the hashes of its model's source and of its trace."""
    return cell_key(
        {
            "backend": plan.backend,
            "model": source,
            "precision": plan.precision,
            "trace": trace,
            "scenario": plan.scenario,
            "concurrency": plan.concurrency,
            "repeats": repeats,
            "chip": [chip.name, chip.device_name, chip.identity],
            "slo": settings.slo.model_dump(),
            "run_s": _RUN_S,
            **({"replicas": plan.replicas} if plan.replicas else {}),
            **settings.kept(plan.options),
            **_own_data(plan, settings),
        }
    )


def _own_data(plan: CellPlan, settings: RunOptions) -> dict[str, str]:
    """What the backend's name stands for, where a file of the user's defines it: another entry
    is another measurement."""
    found = check_backend(plan.backend, plan.options, settings.python)
    return {"own_data": found} if found else {}


def chip_notes(chip: ChipIdentity) -> list[Note]:
    """What a row says of a chip that is known by its family alone."""
    entry = catalogue().cpus.get(catalogue_name(chip.name))
    if entry is None or not entry.assumed:
        return []
    return [Note(code=NoteCode.CHIP_BY_ASSUMPTION, text="; ".join(chip.evidence))]


def option_notes(plan: CellPlan) -> list[Note]:
    """What a row says of options that were given to its backend."""
    if not plan.options:
        return []
    text = json.dumps(plan.options, sort_keys=True)
    return [Note(code=NoteCode.BACKEND_OPTIONS, text=f"given to {plan.backend}: {text}")]


def sim_meters(device: str, given: Sequence[str]) -> Picked:
    """What a simulated device tells of its power; where that is polled, with an exact
    counter as well. given: options of power that the user gave, which have no place on its
    virtual clock."""
    info = sim_info(device)
    beside = (ReplayMeter(SIM_COUNTER_INFO),) if info.source == "polled" else ()
    own = "is not used: a simulated device has a meter of its own"
    return Picked(ReplayMeter(info), beside, tuple(f"{option} {own}" for option in given))


def meter_request(chip: ChipIdentity, device: str, power_w: float | None) -> MeterRequest:
    """What a meter of this chip is asked for, with what its nameplate allows."""
    plate = nameplate(chip)
    assumed = None
    if plate is not None:
        scope: Scope = "cpu-share" if chip.unit == "cpu-share" else "package"
        covers = f"{chip.used} vCPUs" if chip.unit == "cpu-share" else f"{chip.used} packages"
        assumed = AssumedPower(plate.power_w, scope, covers, plate.method)
    return MeterRequest(
        chip.vendor,
        chip.unit,
        device,
        power_w,
        assumed,
        nameplate_w=unit_nameplate_w(chip),
        key=chip.key,
    )

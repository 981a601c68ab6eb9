"""An A/B run from its arms to its findings, in a scratch folder that is gone afterwards."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from chipmark import __version__
from chipmark.ab.canary import LIMIT
from chipmark.ab.journal import JournalledRunner, arm_document, is_resumable, journal
from chipmark.ab.looks import Outcome, run_sequence
from chipmark.ab.readings import Command, Reading
from chipmark.ab.resolve_arms import ArmPlan, Request, planned
from chipmark.ab.run_folder import check_new, write_run
from chipmark.ab.schedule import ARMS, ArmName
from chipmark.ab.series import Key, Series, readings_of
from chipmark.ab.session import ProcessRunner, Runner
from chipmark.cell.reporter import Reporter
from chipmark.gate.findings import GateFindings, GateRow
from chipmark.gate.machine_bounds import fingerprint, load_bound
from chipmark.gate.thresholds import Thresholds, load_thresholds
from chipmark.gate.verdict import LOOKS, Verdict
from chipmark.processes import undisturbed
from chipmark_models.scratch import Scratch


@dataclass(frozen=True, slots=True)
class Options:
    """looks: rounds after which is looked; more at the end for a noisy machine."""

    metrics: tuple[str, ...] = ()
    seed: int = 0
    looks: tuple[int, ...] = LOOKS
    canary_limit: float = LIMIT
    limit_s: float = 900.0
    thresholds: Path | None = None


def compare(
    request: Request, options: Options, out: Path | None, reporter: Reporter
) -> GateFindings:
    """Run both arms to their verdicts; with `out`, keep everything there. Raises ChipmarkError."""
    if out is not None and not is_resumable(out):
        check_new(out)
    rules = load_thresholds(options.thresholds, request.cwd)
    run = uuid.uuid4().hex[:12]
    with scratch() as folder, planned(request, folder) as plan:
        for text in plan.says:
            reporter.say(text)
        runner = runner_of(plan, options, folder)

        def judged(runs: Runner) -> tuple[Outcome, GateFindings]:
            outcome = run_sequence(
                runs,
                lambda key: rules.margins(*key).widened(machine_bound(runner)),
                options.seed,
                reporter,
                looks=options.looks,
                canary_limit=options.canary_limit,
            )
            return outcome, findings_of(plan, outcome, rules, runner)

        if out is None:
            return judged(runner)[1]
        with journal(out, plan_document(plan, options, rules)) as kept:
            if kept.attempt:
                reporter.say(f"rounds kept in {out}: {kept.rounds}; going on from there")
            try:
                outcome, findings = judged(JournalledRunner(runner, kept))
            except KeyboardInterrupt:
                if kept.rounds:
                    reporter.say(f"rounds kept in {out}: {kept.rounds}; the same command resumes")
                raise
            write_run(out, run, options.seed, runner, outcome, findings, machine_of(runner))
    return findings


def plan_document(plan: ArmPlan, options: Options, rules: Thresholds) -> dict[str, Any]:
    """What must be equal to resume an interrupted run: everything that the verdict depends on."""
    return {
        "version": __version__,
        "kind": plan.kind,
        "project": str(plan.project),
        "A": arm_document(plan.a, plan.project),
        "B": arm_document(plan.b, plan.project),
        "metrics": list(options.metrics),
        "seed": options.seed,
        "looks": list(options.looks),
        "canary_limit": options.canary_limit,
        "thresholds": rules.model_dump(mode="json"),
        "machine": host_identity(),
    }


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for worktrees, caches and results of single processes."""
    folder = Scratch("chipmark-ab-")
    try:
        yield folder.path
    finally:
        with undisturbed():
            folder.remove()


def runner_of(plan: ArmPlan, options: Options, folder: Path) -> ProcessRunner:
    """The runner of a plan's arms; UnknownNameError for a metric that does not exist."""
    arms = {"A": plan.a, "B": plan.b}
    return ProcessRunner(
        kind=plan.kind,
        arms={name: arms[name] for name in ARMS},
        commands={
            name: replace(
                Command.of(arms[name].argv, options.metrics), by_work=plan.kind == "backends"
            )
            for name in ARMS
        },
        scratch=folder,
        project=plan.project,
        limit_s=options.limit_s,
    )


def machine_of(runner: ProcessRunner) -> dict[str, Any]:
    """What identifies this machine: as the results say, else its CPU."""
    return runner.identity or host_identity()


def host_identity() -> dict[str, Any]:
    """The host's CPU, for commands whose results name no machine."""
    from chipmark.chips.detect import chip_of

    chip = chip_of("torch:cpu")
    return {"chip": chip.name, "unit": chip.unit, "used": chip.used, **chip.identity}


def machine_bound(runner: ProcessRunner) -> float:
    """The A/A bound inside a session of this machine, ln; 0 where it was not measured."""
    bounds = [
        load_bound(fingerprint(identity)) for identity in (machine_of(runner), host_identity())
    ]
    return max((bound.within for bound in bounds if bound is not None), default=0.0)


def findings_of(
    plan: ArmPlan, outcome: Outcome, rules: Thresholds, runner: ProcessRunner
) -> GateFindings:
    """The rows of a run, with notes on the canary, the margin and what was left out."""
    first = outcome.series(0)
    arms = {arm: readings_of(outcome.measured, arm) for arm in ARMS}
    rows = tuple(
        _row(key, arms, first.get(key), outcome, rules) for key in sorted(outcome.judgements)
    )
    notes = list(plan.says)
    canary = outcome.canary
    if canary is not None:
        notes += canary.faults + canary.notices
        notes.append(
            f"canary: {canary.readings} readings, {1e3 * canary.median_s:.2f} ms, "
            f"noise {canary.noise:.1%}, drift {math.expm1(canary.drift):+.1%}"
        )
    bound = machine_bound(runner)
    if bound:
        notes.append(f"this machine's A/A supports a margin of {bound:.1%}")
    else:
        notes.append(
            "this machine has no measured A/A margin; the thresholds alone hold; "
            "`chipmark aa` measures it"
        )
    notes += outcome.left_out
    details: dict[str, Any] = {
        "kind": plan.kind,
        "rounds": {f"{k[0]} ({k[1]})": len(s.a) for k, s in first.items()},
        "slots": len(outcome.measured),
        "canary_noise": canary.noise if canary else None,
    }
    return GateFindings(plan.a.title, plan.b.title, rows, tuple(notes), details)


def _row(
    key: Key,
    arms: Mapping[ArmName, Mapping[Key, Sequence[Reading]]],
    series: Series | None,
    outcome: Outcome,
    rules: Thresholds,
) -> GateRow:
    """A row; both values are of the rounds that were paired, of what was lost those of arm A."""
    judgement, of_a = outcome.judgements[key], arms["A"][key]
    base, new = [r.value for r in of_a], [r.value for r in arms["B"].get(key, ())]
    if series is not None and judgement.estimate is not None:
        base, new = list(series.a), list(series.b)
    return GateRow(
        benchmark=key[0],
        metric=key[1],
        unit=of_a[0].unit,
        direction=of_a[0].direction,
        base=median(base),
        new=median(new) if new and judgement.verdict is not Verdict.MISSING else None,
        judgement=judgement,
        not_gated=rules.not_gated(*key),
    )


def looks_of(rounds: int | None) -> Sequence[int]:
    """LOOKS, with one more at the end for more rounds than they have."""
    if rounds is None or rounds <= LOOKS[-1]:
        return LOOKS
    return (*LOOKS, rounds)

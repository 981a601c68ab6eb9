"""An A/A run: one command in both arms, by the rounds of `ab`, and what it says of the machine.

The rounds, the canary and the check of the arms' code are those of `ab`; nothing is judged on the
way, so that every benchmark has all rounds. The figures are made by `gate.aa_statistics`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from chipmark.ab.compare import Options, machine_of, runner_of, scratch
from chipmark.ab.looks import Outcome, run_sequence, title
from chipmark.ab.modules import SameCodeError, code_hash
from chipmark.ab.resolve_arms import Request, planned
from chipmark.ab.run_folder import check_new, write_run
from chipmark.ab.series import Key, Series
from chipmark.ab.session import ProcessRunner
from chipmark.cell.runner import Reporter
from chipmark.errors import NothingToJudgeError
from chipmark.gate.aa_statistics import (
    MIN_PAIRS,
    FalseReds,
    PairNoise,
    detectable,
    effect_bound,
    false_reds,
    pair_noise,
)
from chipmark.gate.findings import finite
from chipmark.gate.machine_bounds import Bound, fingerprint, load_bound, store_bound
from chipmark.gate.thresholds import Thresholds, load_thresholds
from chipmark.gate.verdict import Margins

WORKLOAD = ("python", "-m", "chipmark.ab.decode_step")
"""What is measured where no command is given."""

DOCUMENT = "aa.json"

# Nothing is beyond or inside such margins: every series runs to its last round.
_MEASURE_ALL = Margins(delta_red=100.0, delta_eq=0.0)


@dataclass(frozen=True, slots=True)
class MetricReport:
    """Of one benchmark and metric. median: over both arms, in `unit`. within: bound of A/A
    effects, ln; detectable: the smallest slowdown that the gate finds, ln, None where +100 % is
    not found. Both are None where fewer than MIN_PAIRS pairs were measured, or the machine was
    unfit. delta_red: the margin that the gate has with `within`."""

    key: Key
    unit: str
    median: float
    noise: PairNoise
    within: float | None = None
    detectable: float | None = None
    delta_red: float | None = None


@dataclass(frozen=True, slots=True)
class MachineReport:
    """What an A/A run came to. faults: why the machine was unfit. stored: where its bound went."""

    command: str
    fingerprint: str
    rounds: int
    metrics: tuple[MetricReport, ...]
    reds: FalseReds | None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = ""
    stored: Path | None = None

    @property
    def within(self) -> float | None:
        """The machine's bound of A/A effects inside a session: the widest of its metrics."""
        found = [m.within for m in self.metrics if m.within is not None]
        return max(found) if found and not self.faults else None

    @property
    def exit_code(self) -> int:
        """3 where nothing can be concluded, 1 where there are more false reds than promised."""
        if self.faults or self.reds is None:
            return 3
        return 0 if self.reds.kept else 1

    def to_dict(self) -> dict[str, Any]:
        """The document of `--format json`."""
        return {
            "schema": "chipmark.aa-report/1",
            "command": self.command,
            "fingerprint": self.fingerprint,
            "created": self.created,
            "exit_code": self.exit_code,
            "rounds": self.rounds,
            "within": self.within,
            "false_reds": None if self.reds is None else _reds(self.reds),
            "metrics": [_metric(m) for m in self.metrics],
            "faults": list(self.faults),
            "notes": list(self.notes),
            "stored": None if self.stored is None else str(self.stored),
        }


def measure(
    request: Request,
    rounds: int,
    options: Options,
    out: Path | None,
    reporter: Reporter,
    *,
    store: bool = True,
) -> MachineReport:
    """Run the command against itself; with `out`, keep every reading there; with `store`, keep
    the bound for `ab` and `gate` where the machine was fit and the pairs suffice.

    Raises ChipmarkError, SameCodeError where the arms did not run the same code.
    """
    if out is not None:
        check_new(out)
    rules = load_thresholds(options.thresholds, request.cwd)
    with scratch() as folder, planned(request, folder) as plan:
        runner = runner_of(plan, options, folder)
        outcome = run_sequence(
            runner, lambda key: _MEASURE_ALL, options.seed, _Stages(reporter),
            looks=(rounds,), canary_limit=options.canary_limit,
        )  # fmt: skip
        check_same(runner)
        reporter.stage("resampling the pairs")
        report = report_of(
            outcome, rules, options.seed, command=plan.a.title, machine=machine_of(runner)
        )
        if out is not None:
            run = uuid.uuid4().hex[:12]
            write_run(out, run, options.seed, runner, outcome, report, machine_of(runner), DOCUMENT)
    return keep(report) if store else report


def check_same(runner: ProcessRunner) -> None:
    """SameCodeError where the arms of an A/A ran different code, so that it is none."""
    a, b = (code_hash(runner.modules[arm]) for arm in ("A", "B"))
    if a != b:
        raise SameCodeError(
            "the arms did not run the same code, so this is not an A/A run",
            "the command imports other modules from one process to the next",
        )


def report_of(
    outcome: Outcome, rules: Thresholds, seed: int, *, command: str, machine: Mapping[str, Any]
) -> MachineReport:
    """The figures of a run that has been measured; none is made where the machine was unfit."""
    faults = outcome.faults
    lost = {k: j for k, j in outcome.judgements.items() if j.estimate is None}
    found = {key: series for key, series in outcome.series(0).items() if key not in lost}
    if not found:
        raise NothingToJudgeError(
            "no benchmark gave a value in every round",
            "; ".join(f"{title(key)}: {judged.reasons[0]}" for key, judged in lost.items()),
        )
    rounds = min(len(s.a) for s in found.values())
    notes = [f"left out: {title(key)}: {judged.reasons[0]}" for key, judged in lost.items()]
    notes += outcome.left_out
    if outcome.canary is not None:
        notes += outcome.canary.notices
    enough = not faults and rounds >= MIN_PAIRS
    metrics = tuple(
        _report(series, rules.margins(*key), seed, enough=enough)
        for key, series in sorted(found.items())
    )
    for m in metrics:
        if m.noise.effect.low > 0 or m.noise.effect.high < 0:
            notes.append(
                f"{title(m.key)}: the arms differ though they are the same; by chance that "
                "happens in 5 % of benchmarks"
            )
    reds = None
    if enough:
        margins = {m.key: rules.margins(*m.key).widened(m.delta_red or 0.0) for m in metrics}
        reds = false_reds({key: s.d for key, s in found.items()}, margins, seed)
    elif not faults:
        notes.append(
            f"{rounds} pairs: a rate of false reds and a margin need at least "
            f"{MIN_PAIRS}; nothing is stored"
        )
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return MachineReport(
        command, fingerprint(machine), rounds, metrics, reds, faults, tuple(notes), created
    )


def keep(report: MachineReport, folder: Path | None = None) -> MachineReport:
    """Store the bound of a report that has one, next to the margin across sessions kept."""
    from dataclasses import replace

    if report.within is None:
        return report
    before = load_bound(report.fingerprint, folder)
    across = before.across if before is not None else None
    bound = Bound(
        schema="chipmark.aa/1", fingerprint=report.fingerprint, within=report.within,
        across=across, pairs=report.rounds, created=report.created,
    )  # fmt: skip
    return replace(report, stored=store_bound(bound, folder))


def _report(series: Series, margins: Margins, seed: int, *, enough: bool) -> MetricReport:
    noise = pair_noise(series.a, series.b, lower_is_better=series.direction == "lower")
    typical = float(median((*series.a, *series.b)))
    if not enough:
        return MetricReport(series.key, series.unit, typical, noise)
    within = effect_bound(series.d, seed)
    wide = margins.widened(within)
    found = detectable(series.d, wide, seed)
    return MetricReport(series.key, series.unit, typical, noise, within, found, wide.delta_red)


def _metric(m: MetricReport) -> dict[str, Any]:
    noise = m.noise
    return {
        "benchmark": m.key[0],
        "metric": m.key[1],
        "unit": m.unit,
        "median": m.median,
        "pairs": noise.pairs,
        "noise": noise.noise,
        "effect": {
            "value": noise.effect.effect, "low": noise.effect.low, "high": noise.effect.high,
        },
        "drift": {
            "value": noise.drift.effect,
            "low": finite(noise.drift.low),
            "high": finite(noise.drift.high),
        },
        "within": m.within,
        "detectable": m.detectable,
        "delta_red": m.delta_red,
    }  # fmt: skip


def _reds(reds: FalseReds) -> dict[str, Any]:
    rates = {"benchmark": reds.benchmark, "suite_of_20": reds.suite}
    found: dict[str, Any] = {
        name: {"found": r.found, "of": r.trials, "share": r.share, "bound": r.bound}
        for name, r in rates.items()
    }
    found["by_benchmark"] = [
        {"benchmark": k[0], "metric": k[1], "found": r.found, "of": r.trials, "bound": r.bound}
        for k, r in sorted(reds.by_key.items())
    ]
    return found


class _Stages:
    """A reporter without the sentences on verdicts, which an A/A run has none of."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def say(self, text: str) -> None:
        """Nothing."""

    def stage(self, text: str) -> None:
        """As the reporter."""
        self._reporter.stage(text)

    def steps(self, total: int) -> None:
        """As the reporter."""
        self._reporter.steps(total)

    def step(self) -> None:
        """As the reporter."""
        self._reporter.step()

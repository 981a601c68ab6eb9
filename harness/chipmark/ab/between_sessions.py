"""Several runs of one machine, a session each: how far the same benchmarks move between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from chipmark.ab.aa_run import DOCUMENT
from chipmark.ab.series import Key
from chipmark.errors import BadInputError, NothingToJudgeError, UsageError
from chipmark.gate.machine_bounds import Bound, fingerprint, load_bound, store_bound
from chipmark.gate.session_margin import MIN_SESSIONS, Movement, movements
from chipmark.gate.stored_series import load_run
from chipmark_models.foreign_file import DATA_BYTES, read_json


@dataclass(frozen=True, slots=True)
class Session:
    """A run. run: its name. medians by benchmark and metric, in their units."""

    path: Path
    run: str
    fingerprint: str
    medians: dict[Key, float]


@dataclass(frozen=True, slots=True)
class AcrossReport:
    """What the sessions came to. stored: where the margin went."""

    fingerprint: str
    sessions: tuple[Path, ...]
    movements: tuple[Movement, ...]
    created: str
    stored: Path | None = None

    @property
    def across(self) -> float | None:
        """The machine's margin for stored baselines, ln: the widest of its benchmarks."""
        found = [m.margin for m in self.movements if m.margin is not None]
        return max(found) if found else None

    @property
    def exit_code(self) -> int:
        """3 where the sessions are too few for a margin."""
        return 0 if self.across is not None else 3

    @property
    def notes(self) -> tuple[str, ...]:
        """What holds for all."""
        if self.across is not None:
            return ()
        return (
            f"{len(self.sessions)} sessions: a margin needs at least {MIN_SESSIONS}; "
            "nothing is stored",
        )

    def to_dict(self) -> dict[str, Any]:
        """The document of `--format json`."""
        return {
            "schema": "chipmark.aa-across/1",
            "fingerprint": self.fingerprint,
            "created": self.created,
            "exit_code": self.exit_code,
            "sessions": [str(path) for path in self.sessions],
            "across": self.across,
            "metrics": [
                {
                    "benchmark": m.key[0], "metric": m.key[1], "sd": m.sd, "widest": m.widest,
                    "margin": m.margin,
                }
                for m in self.movements
            ],
            "notes": list(self.notes),
            "stored": None if self.stored is None else str(self.stored),
        }  # fmt: skip


def load_session(path: Path, metrics: Sequence[str] = ()) -> Session:
    """A folder of `chipmark aa -o`, or any stored run that `chipmark gate` reads.

    Raises BadInputError for a broken document or a machine that was unfit.
    """
    document = path / DOCUMENT
    if not document.is_file():
        run = load_run(path, metrics)
        medians = {key: value.value for key, value in run.values.items() if not value.unfit}
        return Session(path, run.fingerprint, fingerprint(run.identity), medians)
    try:
        found = read_json(document, DATA_BYTES)
        values: dict[Key, list[float]] = {}
        for slot in found["slots"]:
            for r in slot["readings"]:
                if not metrics or r["metric"] in metrics:
                    key = (str(r["benchmark"]), str(r["metric"]))
                    values.setdefault(key, []).append(float(r["value"]))
        run_id, identity, faults = found["run"], found["machine"], found["findings"]["faults"]
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BadInputError(document, f"not an A/A run: {error!r}") from error
    if not isinstance(identity, dict) or not isinstance(faults, list):
        raise BadInputError(document, "not an A/A run: machine or findings of another type")
    if faults:
        raise BadInputError(document, f"the machine was unfit: {faults[0]}", hint="leave it out")
    if any(value <= 0 for samples in values.values() for value in samples):
        raise BadInputError(document, "a reading is not above zero", field="slots")
    return Session(
        path, str(run_id), fingerprint(identity), {key: median(v) for key, v in values.items()}
    )


def compare_sessions(
    paths: Sequence[Path], metrics: Sequence[str] = (), *, store: bool = True
) -> AcrossReport:
    """The margin between the sessions, stored for the machine where there are enough of them.

    Raises UsageError for one session, for a run given twice, and for several machines;
    NothingToJudgeError where they have no benchmark in common.
    """
    if len(paths) < 2:
        raise UsageError("--across needs two runs or more", "as chipmark aa --across runs/aa-*")
    sessions = [load_session(path, metrics) for path in paths]
    seen: dict[str, Path] = {}
    for session in sessions:
        if session.run in seen:
            raise UsageError(f"{seen[session.run]} and {session.path} are the same run")
        seen[session.run] = session.path
        if session.fingerprint != sessions[0].fingerprint:
            raise UsageError(
                f"{sessions[0].path} and {session.path} are from different machines, "
                f"or of different kinds: {sessions[0].fingerprint} and {session.fingerprint}",
                "a margin is of one machine, and of one kind of result",
            )
    found = movements([s.medians for s in sessions])
    if not found:
        raise NothingToJudgeError("the runs have no benchmark and metric in common")
    created = datetime.now(UTC).isoformat(timespec="seconds")
    report = AcrossReport(sessions[0].fingerprint, tuple(paths), found, created)
    return _keep(report) if store else report


def _keep(report: AcrossReport) -> AcrossReport:
    if report.across is None:
        return report
    before = load_bound(report.fingerprint)
    bound = Bound(
        schema="chipmark.aa/1",
        fingerprint=report.fingerprint,
        within=before.within if before is not None else 0.0,
        across=report.across,
        pairs=before.pairs if before is not None else 0,
        created=report.created,
    )
    return replace(report, stored=store_bound(bound))

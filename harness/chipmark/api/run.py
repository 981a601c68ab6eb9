"""`run`: measure a suite or a workload, and get its records."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chipmark.api.records import PathLike, Records, load
from chipmark.api.suite import Suite, suite_and_workload
from chipmark.cell.available import candidates
from chipmark.cell.given import GivenOption, read_option, read_slo, replicas_given, slo_of
from chipmark.cell.names import check_plans, check_python
from chipmark.cell.reporter import Reporter
from chipmark.cell.settings import Limits, RunOptions
from chipmark.cell.suite import Overrides, load_suite
from chipmark.cell.suite_run import run_suite
from chipmark.errors import CellFailedError, CellsLeftError, UnknownNameError, UsageError
from chipmark.log import logger_of
from chipmark.meters.choice import parse_choice
from chipmark.metrics.ranking import MIN_REPEATS
from chipmark.registry import GROUPS, refused_plugins
from chipmark.user_files import using

if TYPE_CHECKING:
    from chipmark.cell.suite import Suite as PlannedSuite
    from chipmark.results.manifest import Slo

_LOG = logger_of(__name__)
FEEDBACK = ("forced", "sampled")


class LogReporter:
    """The reporter of `run` where none is given: the logger `chipmark.api.run`, silent until the
    caller configures logging. Facts that stay are INFO, what is being done now is DEBUG."""

    def say(self, text: str) -> None:
        """Log a fact that stays."""
        _LOG.info("%s", text)

    def stage(self, text: str) -> None:
        """Log what is being done now."""
        _LOG.debug("%s", text)

    def steps(self, total: int) -> None:
        """Take note of nothing: a log has no progress bar."""

    def step(self) -> None:
        """Take note of nothing: a log has no progress bar."""


def run(
    what: Suite | str | os.PathLike[str],
    backends: str | Iterable[str] = (),
    *,
    models: str | Iterable[str] = (),
    workloads: str | Iterable[str] = (),
    precision: str | Iterable[str] = (),
    concurrency: int | Iterable[int] = (),
    scale: str = "",
    sessions: int | None = None,
    repeats: int | None = None,
    budget_s: float | None = None,
    scenario: str = "",
    transcript: PathLike | None = None,
    trace: PathLike | None = None,
    block_tokens: int | None = None,
    out: PathLike = "runs/latest",
    seed: int = 0,
    feedback: str = "forced",
    threads: int = 0,
    power_w: float | None = None,
    meters: str | Iterable[str] = (),
    python: str = "",
    fresh: bool = False,
    max_chunk: int = 256,
    limit_s: float | None = None,
    audit_s: float = 120.0,
    options: Mapping[str, Any] | str | Iterable[str] = (),
    slo: Mapping[str, Any] | str = "",
    idle_s: float | None = None,
    replicas: int | str = "",
    references: PathLike | Iterable[PathLike] = (),
    oracle_device: str = "",
    providers: PathLike | None = None,
    chips: PathLike | None = None,
    reporter: Reporter | None = None,
    check: bool = True,
) -> Records:
    """Measure every cell of a suite, each in a process of its own, repeats in turns.

        records = chipmark.run("quick", ["torch:cpu", "ort:cpu"], out="runs/quick")
        records = chipmark.run("agent-code-32k", "sim:golden", sessions=2, repeats=1)
        print(records.render("md"))

    It is what `chipmark run` calls. Nothing is printed; a run into the same folder resumes.

    Args:
        what: a suite (quick, standard, full, a TOML file, a `Suite`), or a workload (a profile's
            name or its TOML file), which takes the rest from the suite `quick`.
        backends: KIND:DEVICE, as torch:cpu; none takes the suite's, or all that are found here.
        models: presets, PRESET@synthetic, folders of safetensors, or GGUF files.
        workloads: profiles or TOML files in place of the suite's, next to `what` if that is one.
        precision: fp32, bf16, fp16; w8, w4, fp8 where a backend computes them.
        concurrency: sessions at once; in the capacity scenario, where the sweep ends.
        scale: quick, standard, full, or "context,output,tool time".
        sessions: sessions of the workload.
        repeats: timed repeats of each cell; fewer than 3 rank nothing.
        budget_s: seconds of the run within which repeats are added; 0 adds none.
        scenario: equal_n or capacity.
        transcript: instead of a workload, recorded conversations (JSONL of OpenAI messages).
        trace: instead of a workload, a Mooncake .jsonl or an Azure .csv file of requests.
        block_tokens: prompt tokens of one hash id in `trace`; None is 512, as Mooncake publishes.
        out: the folder of the records.
        seed: seed of the workload and of synthetic weights.
        feedback: forced (the trace's tokens) or sampled.
        threads: threads of a CPU backend; 0 is its own choice.
        power_w: the unit's power in watts, declared: taken before any meter's, never ranked.
        meters: exactly these, as "NAME[:TARGET][,KEY=VALUE]"; the first gives the row's joules, the
            others are in `power_beside`. None takes the best that is here for the row, and what
            meters the host and the node next to it.
        python: the interpreter of the measured processes, a vendor's own.
        fresh: a fresh process for every repeat.
        max_chunk: most prompt tokens of one launch.
        limit_s: seconds for each of loading, parity, a repeat and a computation of the oracle,
            after which it is ended; None takes the suite's (quick: 600).
        audit_s: seconds for the audit of a group of cells; what needs more is pending.
        options: of the backends, {"graph": "plain"}, or texts "[KIND:]KEY=VALUE".
        slo: the objective, {"tpot_s": 0.03}, or text "FIELD=VALUE,..." out of ttft_append_s,
            ttft_cold_s, tpot_s, share and name.
        idle_s: seconds of idle power before and after, where there is a meter; at least 30.
        replicas: engines that share the sessions, each on a device of the unit; "unit" is one on
            each device, "" the suite's ("unit").
        references: files of reference logits computed elsewhere, where torch is not installed.
        oracle_device: torch's name of an accelerator (cuda) on which the oracle computes what is
            too much for the CPU, in fp32 without TF32, once it agreed with the CPU's.
        providers: a file of providers of ONNX Runtime of your own (`providers.toml`), added to the
            built-in list; None takes what CHIPMARK_PROVIDERS or the folder of your files has.
        chips: a file of chips of your own (`chips.toml`), likewise.
        reporter: who hears how the run goes, an object with `say(text)`, `stage(text)`,
            `steps(total)` and `step()`; None logs to `chipmark.api.run`.
        check: raise where a cell failed, after the others are measured; False returns all.

    Returns:
        Every record under `out`, of earlier runs too; those of failed cells are `Records.failed`.

    Raises:
        UsageError: what is asked for does not fit together.
        UnknownNameError: a suite, workload, backend, precision, scenario or meter does not exist.
        BadInputError: a file cannot be read, or a field of it is wrong.
        ModelUnavailableError: weights cannot be found or fetched.
        CellFailedError: a cell failed (`check`); the records of all are in `out`.
        CellsLeftError: cells would not have ended within `budget_s` by the suite's estimates, and
            were not begun (`check`).
    """
    source, workload = suite_and_workload(what)
    overrides = Overrides(
        backends=_texts(backends),
        models=_texts(models),
        workloads=(*_texts(workload), *_texts(workloads)),
        precisions=_texts(precision),
        concurrency=(concurrency,) if isinstance(concurrency, int) else tuple(concurrency),
        scale=scale,
        sessions=sessions,
        scenario=scenario,
        repeats=repeats,
        budget_s=budget_s,
        transcript=os.fspath(transcript or ""),
        trace=os.fspath(trace or ""),
        block_tokens=block_tokens,
        options=_options(options),
        slo=_slo(slo),
        idle_s=idle_s,
        replicas=None if replicas == "" else replicas_given(replicas),
    )
    _check(feedback, power_w, python)
    _check_numbers(threads=threads, max_chunk=max_chunk, audit_s=audit_s)
    if limit_s is not None:
        _check_numbers(limit_s=limit_s)
    settings = RunOptions(
        seed=seed,
        feedback="sampled" if feedback == "sampled" else "forced",
        threads=threads,
        power_w=power_w,
        meters=tuple(map(parse_choice, _texts(meters))),
        python=python,
        fresh=fresh,
        max_chunk=max_chunk,
        limits=Limits(audit_s=audit_s),
        limit_s=limit_s,
        references=_paths(references),
        oracle_device="" if oracle_device == "cpu" else oracle_device,
    )
    reporter = LogReporter() if reporter is None else reporter
    folder = Path(out)
    with using(providers=providers, chips=chips):
        suite = _planned(source, overrides, reporter, python=python)
        check_plans(suite.cells, python)
        report = run_suite(suite, folder, settings, reporter)
    if check and report.failed:
        raise CellFailedError(
            f"{len(report.failed)} of {len(suite.cells)} cells failed: {'; '.join(report.failed)}",
            f"{folder}/*/child.log holds what each printed; the same command measures them again",
        )
    if check and report.left:
        raise CellsLeftError(
            f"{len(report.left)} of {len(suite.cells)} cells were left: {'; '.join(report.left)}",
            "the same command again continues with them",
        )
    return load(folder, strict=False)


def _planned(source: str, overrides: Overrides, reporter: Reporter, *, python: str) -> PlannedSuite:
    """The suite's cells, with the backends found here where none is named; the reporter hears what
    is left out."""
    named = bool(overrides.backends)
    if python and not named:
        raise UsageError(
            "a Python of its own needs its backends named",
            "what is installed there is not known here: name them (-b)",
        )
    found = [] if named else candidates()
    suite = load_suite(source, overrides, [c.backend for c in found if not c.missing])
    used = {cell.backend for cell in suite.cells}
    for candidate in found:
        if candidate.missing and candidate.backend not in used:
            remedy = f" ({candidate.remedy})" if candidate.remedy else ""
            reporter.say(f"left out {candidate.backend}: {candidate.missing}{remedy}")
    for text in suite.left_out:
        reporter.say(f"left out {text}")
    for group in GROUPS:
        for text in refused_plugins(group):
            reporter.say(text)
    for text in suite.renamed:
        reporter.say(text)
    if suite.repeats < MIN_REPEATS:
        reporter.say(f"repeats: {suite.repeats}, fewer than {MIN_REPEATS}, so nothing is ranked")
    return suite


def _check(feedback: str, power_w: float | None, python: str) -> None:
    """What the settings object cannot know; raises UnknownNameError or UsageError."""
    if feedback not in FEEDBACK:
        raise UnknownNameError("feedback", feedback, FEEDBACK)
    if power_w is not None and not 0 < power_w < math.inf:
        raise UsageError(f"power_w is {power_w:g}: not a power", "give watts above 0")
    check_python(python)


def _check_numbers(**given: float) -> None:
    """UsageError for a number under the least of its kind, or that is endless."""
    least = {"threads": 0, "max_chunk": 1, "limit_s": 1, "audit_s": 0}
    for name, value in given.items():
        if not least[name] <= value < math.inf:
            raise UsageError(f"{name} is {value}", f"give a number of at least {least[name]}")


def _options(given: Mapping[str, Any] | str | Iterable[str]) -> tuple[GivenOption, ...]:
    """Options of every kind as a mapping, or texts of a command line."""
    if isinstance(given, Mapping):
        return (GivenOption(given),) if given else ()
    return tuple(map(read_option, _texts(given)))


def _slo(given: Mapping[str, Any] | str) -> Slo | None:
    """The objective of a mapping, or of a text of a command line; None where none is given."""
    if isinstance(given, str):
        return read_slo(given) if given else None
    if not isinstance(given, Mapping):
        raise UsageError(f"slo is {given!r}", 'give {"tpot_s": 0.03} or "tpot_s=0.03"')
    return slo_of(given)


def _paths(given: PathLike | Iterable[PathLike]) -> tuple[Path, ...]:
    """One path or several as several."""
    if isinstance(given, str | os.PathLike):
        return (Path(given),)
    return tuple(Path(path) for path in given)


def _texts(given: str | Iterable[str]) -> tuple[str, ...]:
    """One text or several as several; an empty one is none."""
    if isinstance(given, str):
        return (given,) if given else ()
    return tuple(given)

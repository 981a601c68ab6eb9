"""`cell.json`: everything about a measured cell that is not a number of the table.

The parent of a cell leaves a raw folder; `results.store` turns it into a record, and a record
keeps the folder's content, so that metrics can be computed again. Layout of a raw folder:

    cell.json                  this schema
    trace.npz                  the workload (workload.trace)
    repeat-K/events.npz        engine.events tables of repeat K
    repeat-K/power.npz         time_s, energy_j, power_w of the row's meter (absent: not measured)
    repeat-K/power-NAME.npz    the same of another meter (absent: it failed)
    repeat-K/probes.json       Probes
    repeat-K/timing.json       Timing: the parent's own clock around the repeat (absent: before
                               chipmark.cell/2)
    repeat-K/replica-R/        events.npz, probes.json and timing.json of replica R, from 1 on,
                               where several ran on the unit (those of replica 0 lie above)
    audit.npz                  what the audit looked at after the run (absent: not audited)
    idle-before.npz, idle-after.npz   power with the model loaded and no work (absent: not measured)
    idle-before-NAME.npz, idle-after-NAME.npz   the same of another meter
    child.log                  what the child and its libraries printed (cut to the last 256 KiB)
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from chipmark.chips.state import RepeatState
from chipmark.codes import NoteCode, NullReason
from chipmark.errors import BrokenRecordError
from chipmark.foreign_model import parse_model
from chipmark.metrics.rawcell import Scenario
from chipmark.results.meter_id import MeterId, MetersBeside
from chipmark.results.numbers import Amount, Count, Natural, Positive, Share, Whole
from chipmark.results.stored_part import StoredPart
from chipmark_models.foreign_file import MIB, read_text
from chipmark_models.precision import CLASS_PATTERN

MANIFEST_BYTES = 8 * MIB
"""Most bytes of a `cell.json`, see `record.RECORD_BYTES`."""

Factor = Annotated[str, StringConstraints(pattern=r"^\d{1,18}(/0*[1-9]\d{0,17})?$")]
ClassName = Annotated[str, StringConstraints(pattern=CLASS_PATTERN)]


class Note(StoredPart):
    """A remark in the row."""

    code: Annotated[NoteCode | str, Field(union_mode="left_to_right")]
    """A string only where a record of a newer or a foreign version has a code that this version
    does not know; `chipmark validate` warns of it."""
    text: str
    """The particulars."""


class WorkloadId(StoredPart):
    """The trace that was run. `scale` is (context, output, tool time) as exact fractions."""

    name: str
    hash: str
    scale: tuple[Factor, Factor, Factor]
    seed: Whole
    loop: Literal["closed", "open"]
    sessions: Count
    turns: Count
    n_new: Count
    n_cached: Count
    n_out: Count


class ModelId(StoredPart):
    """Weights by their hashes. `config` is ModelConfig.to_dict()."""

    name: str
    source_kind: Literal["synthetic", "safetensors", "gguf", "sim"]
    source_hash: str
    weights_hash: str
    config: dict[str, Any]


class PrecisionId(StoredPart):
    """What was computed. `class_name` is the parent's conclusion from weights, activation and KV
    (`chipmark_models.precision.precision_class`), never a backend's word."""

    requested: str
    weights: str
    activation: str
    kv: str
    accumulate: str
    class_name: ClassName


class ChipId(StoredPart):
    """chips.contract.ChipIdentity as stored."""

    name: str
    vendor: str
    device_name: str
    unit: str
    used: Natural
    of: Natural
    devices: tuple[str, ...] = ()
    identity: dict[str, Any] = Field(default_factory=dict)
    context: dict[str, Any] = Field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    verified: bool = True


class Slo(StoredPart):
    """A turn meets it when TTFT (append or cold) and TPOT are all within these seconds."""

    name: str = "agent-interactive"
    ttft_append_s: Positive = 2.0
    ttft_cold_s: Positive = 10.0
    tpot_s: Positive = 0.050
    share: Share = 0.95


class ReferenceId(StoredPart):
    """Where the oracle's logits came from."""

    sha256: str
    """Of the file that holds them."""
    origin: Literal["computed", "cache", "file"]
    """Computed in this run, found in the cache of this code's version, or given by the user."""
    oracle_code: str
    """Hash of the oracle's source code (`cell.reference`); "" where the file does not say."""
    device: str = "cpu"
    """Where the oracle computed: cpu, or torch's name of an accelerator."""
    device_rms_rel: Amount | None = None
    """How far an accelerator was from the CPU's oracle over the first `device_tokens` tokens of the
    longest session of the trace that it was first asked for."""
    device_tokens: Count = 0


class ParityResult(StoredPart):
    """Distance of the backend's logits from the oracle, through the timed path.

    rms_rel: rms of the difference over rms of the oracle's centred logits, worst position;
    max_rel: largest difference over the same. top1: share of positions where the oracle's first
    token is also the backend's, of those whose margin exceeds the tolerance. captured_*: always
    null since chipmark.cell/2, whose captured turn is in `AuditResult`.
    """

    verdict: Literal["pass", "fail", "unchecked"]
    reason: str = ""
    rms_rel: Amount | None = None
    max_rel: Amount | None = None
    kl: Amount | None = None
    top1: Amount | None = None
    positions: Count = 0
    tolerance_rms_rel: Amount | None = None
    oracle_weights_hash: str = ""
    captured_rms_rel: Amount | None = None
    captured_positions: Count = 0
    reference: ReferenceId | None = None


class QualityResult(StoredPart):
    """What quantising loses on the project's text (`chipmark_models.quality_text`), by the oracle.

    Raw sums: `results.quality_loss` makes perplexity from them.
    """

    reason: Annotated[NullReason | str | None, Field(union_mode="left_to_right")] = (
        NullReason.UNKNOWN
    )
    """Why there are no sums; None where there are."""
    text_sha256: str = ""
    tokens: Count = 0
    """Tokens that were predicted: all but the first of each part of the text."""
    nll: Amount | None = None
    """Negative log-likelihood, in nats and summed, under the quantised weights."""
    nll_source: Amount | None = None
    """The same under the source's weights in fp32."""
    rounded: str = ""
    """What the oracle rounded activations to for `nll` (`precision.ROUNDED`); "" for nothing."""
    cached: bool = False
    """A sum was found in the cache, where the oracle confirmed a part of it."""
    oracle_code: str = ""


class AuditResult(StoredPart):
    """What was checked after the timed run, at places that the backend could not know before.

    Counts are over all repeats. `pending`: it could not be afforded here (`reason` says why);
    `chipmark audit` finishes it elsewhere into a sidecar. `none`: nothing to audit (a failed
    cell, sampled feedback, a record from before chipmark.cell/2).
    """

    verdict: Literal["pass", "fail", "pending", "none"] = "none"
    reason: str = ""
    ids_checked: Count = 0
    """(session, turn, position) triples whose sampled id was compared with the oracle's."""
    ids_clear: Count = 0
    """Of them, those where the oracle's margin exceeds 4 x the tolerance."""
    ids_wrong: Count = 0
    """Clear ones whose id is not the oracle's."""
    logits_worst_rel: Amount | None = None
    """Largest difference of the two largest logits from the oracle's, over the rms of the
    oracle's centred logits."""
    longest_turn: tuple[Count, Count] | None = None
    """(session, turn) with the longest context, whose logits were captured in one repeat."""
    longest_rms_rel: Amount | None = None
    longest_positions: Count = 0
    captured_ids_equal: bool | None = None
    """Whether the captured turn's ids equal those of a repeat without capture."""
    tolerance_rms_rel: Amount | None = None
    reference: ReferenceId | None = None


class PluginId(StoredPart):
    """The code behind a backend, meter or chip identification."""

    module: str
    distribution: str
    """The installed distribution that owns the module; "" for a source path without metadata."""
    version: str
    sha256: str
    """Of the module's source file; "" where it has none."""
    built_in: bool


class CapacityResult(StoredPart):
    """How the sweep of the capacity scenario ended."""

    concurrency: Natural | None
    """The largest number of sessions that met the objective; None where not even one did."""
    cut: bool
    """The sweep ended at its own limit, so the capacity is a lower bound."""


class Timing(StoredPart):
    """A repeat by the parent's clock (CLOCK_MONOTONIC, as the engine's): when it sent the
    command, when the child said that the engine started and ended, and when the answer came."""

    sent_s: float
    started_s: float | None
    ended_s: float | None
    answered_s: float
    complete: bool
    """Every session of the plan ended before the time limit (the engine's word)."""
    captured: bool = False
    """Logits of the longest turn were captured in this repeat."""
    clock_before: tuple[float, float, float] | None = None
    """The child's clock just before the command: when it was asked, what it said, when the answer
    came, the first and last by the parent's clock."""
    clock_after: tuple[float, float, float] | None = None
    """The same just after the command was answered."""
    throttle: tuple[str, ...] | None = None
    """Throttle reasons seen during the repeat, by name; None where nothing could tell."""
    state: RepeatState | None = None
    """The device before, during and after; of the first replica's timing alone."""
    unix_s: float | None = None
    """Unix time minus this clock, after the repeat: what the log of another clock is aligned by.
    None in records from before it was kept."""


class HostOperatorId(StoredPart):
    """engine.contract.HostOperator as stored: operators that the host's CPU computed."""

    name: str
    count: Natural
    flops_share: Share
    bytes_share: Share


class LoadResult(StoredPart):
    """engine.contract.Loaded as stored; `caps` is its capabilities as a dictionary."""

    load_s: Amount
    compile_s: Amount
    weight_bytes: Count
    kv_bytes: Count
    graph: str
    execution: str
    ep_coverage: Amount | None
    """None where nothing can tell; such a row is not ranked."""
    device: str
    caps: dict[str, Any]
    details: dict[str, Any] = Field(default_factory=dict)
    peak_rss_bytes: Count | None = None
    peak_device_bytes: Count | None = None
    """Most of the device's own memory in use, after each repeat; None where nothing tells."""
    host_operators: tuple[HostOperatorId, ...] = ()
    emulated: str = ""
    """What computed in the hardware's place; such a row is not ranked."""


class Probes(StoredPart):
    """Roofs measured around a repeat: read bandwidth in bytes/s at a working set of `read_bytes`,
    matrix rate in FLOP/s."""

    read_bytes: Count
    """Working set of the probe: `wanted_bytes`, or what was free."""
    read_before: Amount | None
    read_after: Amount | None
    matmul_before: Amount | None
    matmul_after: Amount | None
    llc_bytes: Count | None = None
    """Last-level cache of the device itself; of a CPU, over the clusters its threads run on."""
    start_s: float = 0.0
    end_s: float = 0.0
    wanted_bytes: Count | None = None
    """Working set of a decode launch; None in records from before chipmark.cell/2."""
    by: Literal["backend", "harness"] = "backend"
    """Who measured: the harness by its own process where it can."""


class SweepPoint(StoredPart):
    """One N of the capacity scenario's sweep."""

    concurrency: Natural
    slo_attainment: Amount | None
    turns: Count
    sessions_per_hour: Amount | None
    power_w: Amount | None = None


class RecomputedFrom(StoredPart):
    """The record whose raw files these are: its metrics were derived anew from them."""

    id: str
    self_sha256: str
    measured_as: str
    """Schema of the `record.json` that was first made from the raw files: what they can hold."""
    metrics_schema: str


class Manifest(StoredPart):
    """A measured (or failed) cell. `cache_policy`: the engine's declared one."""

    schema_: Literal["chipmark.cell/2"] = Field("chipmark.cell/2", alias="schema")
    created: str
    chipmark_version: str
    chipmark_commit: str = ""
    """Commit of the source tree that measured, with "+dirty" where it was changed; "" where it is
    not a checkout."""
    status: Literal["done", "failed"]
    failure: Note | None = None
    backend: str
    chip: ChipId
    workload: WorkloadId
    model: ModelId
    precision: PrecisionId
    scenario: Scenario
    concurrency: Natural
    """Sessions at once, of all replicas together."""
    replicas: Natural = 1
    """Engines that ran at once, each on a device of the unit, with `concurrency / replicas`
    sessions and the whole trace each; `load` is that of the first."""
    feedback: Literal["forced", "sampled"] = "forced"
    cache_policy: dict[str, Any]
    slo: Slo
    load: LoadResult | None = None
    parity: ParityResult
    audit: AuditResult = AuditResult()
    quality: QualityResult = QualityResult()
    meter: MeterId | None = None
    """The row's."""
    beside: MetersBeside = ()
    """Meters whose readings are kept next to the row's: of the host, of the node, a second one."""
    plugins: dict[Literal["backend", "meter", "chip"], PluginId] = Field(default_factory=dict)
    beside_plugins: dict[str, PluginId] = Field(default_factory=dict)
    """The code of those meters, by name."""
    repeats: Count
    limits: dict[str, float] = Field(default_factory=dict)
    """Time limits of the cell's steps in seconds, by name."""
    capacity: CapacityResult | None = None
    sweep: tuple[SweepPoint, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    recomputed_from: RecomputedFrom | None = None


def load_manifest(path: Path) -> Manifest:
    """`cell.json`; BrokenRecordError names the field that is wrong."""
    text = read_text(path, MANIFEST_BYTES, error=BrokenRecordError)
    return parse_model(Manifest, text, path, error=BrokenRecordError)

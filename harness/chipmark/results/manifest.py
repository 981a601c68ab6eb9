"""`cell.json`: everything about a measured cell that is not a number of the table.

The parent of a cell leaves a raw folder; `results.store` turns it into a record, and a record
keeps the folder's content, so that metrics can be computed again. Layout of a raw folder:

    cell.json                  this schema
    trace.npz                  the workload (workload.trace)
    repeat-K/events.npz        engine.events tables of repeat K
    repeat-K/power.npz         time_s, energy_j, power_w of the meter (absent: not measured)
    repeat-K/probes.json       Probes
    idle-before.npz, idle-after.npz   power with the model loaded and no work (absent: not measured)
    child.log                  what the child and its libraries printed (cut to the last 256 KiB)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chipmark.errors import BrokenRecordError


class Part(BaseModel):
    """Frozen; unknown fields are an error, so that a misspelt one is not lost."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Note(Part):
    """A remark in the row; `code` is from `chipmark.table.columns.NOTE_CODES`."""

    code: str
    text: str


class WorkloadId(Part):
    """The trace that was run. `scale` is (context, output, tool time) as exact fractions."""

    name: str
    hash: str
    scale: tuple[str, str, str]
    seed: int
    loop: Literal["closed", "open"]
    sessions: int
    turns: int
    n_new: int
    n_cached: int
    n_out: int


class ModelId(Part):
    """Weights by their hashes. `config` is ModelConfig.to_dict()."""

    name: str
    source_kind: Literal["synthetic", "safetensors", "gguf", "sim"]
    source_hash: str
    weights_hash: str
    config: dict[str, Any]


class PrecisionId(Part):
    """What was computed; `class_name` is one of fp32, 16-bit, w8, w4."""

    requested: str
    weights: str
    activation: str
    kv: str
    accumulate: str
    class_name: Literal["fp32", "16-bit", "w8", "w4"]


class ChipId(Part):
    """chips.contract.ChipIdentity as stored."""

    name: str
    vendor: str
    device_name: str
    unit: str
    used: int
    of: int
    identity: dict[str, Any] = Field(default_factory=dict)
    context: dict[str, Any] = Field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    verified: bool = True


class Slo(Part):
    """A turn meets it when TTFT (append or cold) and TPOT are all within these seconds."""

    name: str = "agent-interactive"
    ttft_append_s: float = 2.0
    ttft_cold_s: float = 10.0
    tpot_s: float = 0.050
    share: float = 0.95


class MeterId(Part):
    """meters.contract.MeterInfo as stored."""

    name: str
    source: Literal["counter", "polled", "wall", "declared", "assumed"]
    scope: str
    method: str
    update_period_s: float
    averaging_s: float | None = None
    error_rel: float | None = None
    covers: str = ""
    verified: bool = True
    notes: tuple[str, ...] = ()


class ParityResult(Part):
    """Distance of the backend's logits from the oracle, through the timed path.

    rms_rel: rms of the difference over rms of the oracle's centred logits, worst position;
    max_rel: largest difference over the same. top1: share of positions where the oracle's first
    token is also the backend's, of those whose margin exceeds the tolerance. captured_*: the
    same for the turn captured in the timed run (null where none was).
    """

    verdict: Literal["pass", "fail", "unchecked"]
    reason: str = ""
    rms_rel: float | None = None
    max_rel: float | None = None
    kl: float | None = None
    top1: float | None = None
    positions: int = 0
    tolerance_rms_rel: float | None = None
    oracle_weights_hash: str = ""
    captured_rms_rel: float | None = None
    captured_positions: int = 0


class LoadResult(Part):
    """engine.contract.Loaded as stored; `caps` is its capabilities as a dictionary."""

    load_s: float
    compile_s: float
    weight_bytes: int
    kv_bytes: int
    graph: str
    execution: str
    ep_coverage: float
    device: str
    caps: dict[str, Any]
    details: dict[str, Any] = Field(default_factory=dict)
    peak_rss_bytes: int | None = None


class Probes(Part):
    """Roofs measured beside a repeat: read bandwidth in bytes/s by working set, matrix FLOP/s."""

    read_bytes: int
    read_before: float | None
    read_after: float | None
    matmul_before: float | None
    matmul_after: float | None
    llc_bytes: int | None = None
    start_s: float = 0.0
    end_s: float = 0.0


class SweepPoint(Part):
    """One N of the capacity lane's sweep."""

    concurrency: int
    slo_attainment: float | None
    turns: int
    sessions_per_hour: float | None
    power_w: float | None = None


class Manifest(Part):
    """A measured (or failed) cell. `cache_policy`: the engine's declared one."""

    schema_: Literal["chipmark.cell/1"] = Field("chipmark.cell/1", alias="schema")
    created: str
    chipmark_version: str
    status: Literal["done", "failed"]
    failure: Note | None = None
    backend: str
    chip: ChipId
    workload: WorkloadId
    model: ModelId
    precision: PrecisionId
    lane: Literal["equal_n", "capacity"]
    concurrency: int
    feedback: Literal["forced", "sampled"] = "forced"
    cache_policy: dict[str, Any]
    slo: Slo
    load: LoadResult | None = None
    parity: ParityResult
    meter: MeterId | None = None
    repeats: int
    sweep: tuple[SweepPoint, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def load_manifest(path: Path) -> Manifest:
    """`cell.json`; BrokenRecordError names the field that is wrong."""
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BrokenRecordError(path, "is missing") from None
    except (ValidationError, UnicodeDecodeError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise BrokenRecordError(path, first["msg"], field=field) from error
        raise BrokenRecordError(path, f"is not UTF-8 ({error})") from error

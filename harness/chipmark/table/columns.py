"""The columns of the results table: the one place for names, types, units and definitions.

Names are an API: `chipmark table --format json` gives objects with exactly these keys (and the
extras of `EXTRA_KEYS`). The definitions are those of the project's DEFINITIONS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from chipmark.codes import NullReason as Null

Kind = Literal["perf", "energy", "cost"]
Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column."""

    name: str
    """Its key in JSON and its head in CSV."""
    type: Literal["string", "integer", "number", "list"]
    """JSON type of a value that is known."""
    unit: str
    """SI unit, `1` for a ratio, `currency` for the price book's, "" where it has none."""
    direction: Direction
    """Which values are better."""
    kind: Kind | None
    """Which comparability a ranking by it needs; None where it is not ranked by."""
    title: str
    """Its head for people, short, in lines split by a line break."""
    definition: str
    """What it is, in a sentence."""
    null_reasons: tuple[Null, ...] = ()
    """Codes that a null may have."""


_NOTHING = (Null.CELL_FAILED, Null.REPEAT_INCOMPLETE, Null.NOT_IN_SCHEMA_1)
_RATE = (*_NOTHING, Null.NO_SAMPLES, Null.ZERO_DENOMINATOR)
_LATENCY = (*_NOTHING, Null.NO_SAMPLES)
_POWER = (
    *_NOTHING, Null.NOT_MEASURED, Null.POWER_TOO_FEW_UPDATES, Null.POWER_GAPS,
    Null.COUNTER_TOO_COARSE, Null.COUNTER_STUCK, Null.COUNTER_BACKWARDS, Null.UNIT_PARTLY_USED,
    Null.ZERO_DENOMINATOR, Null.W_TOO_SHORT,
)  # fmt: skip
_COST = (
    *_NOTHING, Null.NO_PRICE_BOOK, Null.NO_PRICE, Null.UNIT_PARTLY_USED, Null.TOOL_TIME_SCALED,
    Null.NO_SESSIONS, Null.ZERO_DENOMINATOR, Null.NOT_MEASURED, Null.POWER_TOO_FEW_UPDATES,
    Null.POWER_GAPS, Null.COUNTER_TOO_COARSE, Null.COUNTER_STUCK, Null.COUNTER_BACKWARDS,
    Null.HOST_POWER_MISSING, Null.SCOPE_WITHOUT_FACILITY, Null.NO_DEMAND, Null.SLO_NOT_MET,
    Null.NO_HOSTING_PRICE, Null.W_TOO_SHORT,
)  # fmt: skip


_QUALITY = (
    Null.CELL_FAILED, Null.NOT_QUANTISED, Null.SYNTHETIC_WEIGHTS, Null.NO_TOKENIZER, Null.NO_ORACLE,
    Null.UNKNOWN,
)  # fmt: skip


def _text(name: str, title: str, definition: str, *reasons: Null) -> Column:
    return Column(name, "string", "", "none", None, title, definition, reasons)


def _rate(
    name: str,
    unit: str,
    title: str,
    definition: str,
    *reasons: Null,
    direction: Direction = "higher",
    kind: Kind = "perf",
) -> Column:
    return Column(name, "number", unit, direction, kind, title, definition, reasons)


_LIST: tuple[Column, ...] = (
    _text("backend", "backend", "KIND:DEVICE that computed"),
    _text("chip", "chip", "what it ran on, by evidence, not by what the device calls itself"),
    _text("model", "model", "name of the model"),
    _text("workload", "workload", "name of the workload"),
    _text("currency", "currency", "currency of the price book", Null.NO_PRICE_BOOK),
    _text("unit", "unit", "what price and meter cover, with devices used of devices in it"),
    _text(
        "precision",
        "precision",
        "what was computed: weights, activation, KV, accumulate; and its class",
    ),
    _text("execution", "exec", "eager, compiled or graph", Null.UNKNOWN),
    _text("graph", "graph", "plain, standard, contrib or none", Null.UNKNOWN),
    _text("scale", "scale", "factors of context, output and tool time"),
    _text("scenario", "scenario", "equal_n (a fixed number of sessions) or capacity"),
    Column(
        "concurrency", "integer", "", "none", None, "N",
        "sessions that run at once on the unit, of all replicas together",
    ),
    Column(
        "replicas", "integer", "", "none", None, "replicas",
        "engines that ran at once, each on a device of the unit with its share of N and the whole "
        "trace",
    ),
    Column(
        "sessions", "integer", "", "none", None, "sessions",
        "sessions completed in W, over the complete repeats", _NOTHING,
    ),
    _rate(
        "decode_rows", "1", "decode\nrows", "mean rows of a decode launch",
        *_RATE, Null.NO_DECODE_LAUNCHES, direction="none",
    ),
    _rate(
        "prefill_tok_s", "1/s", "prefill\ntok/s",
        "n_new / seconds of prefill launches (cold, append, refill) and of copies of KV; summed "
        "over replicas",
        *_RATE, Null.NO_PREFILL_LAUNCHES,
    ),
    _rate(
        "decode_tok_s", "1/s", "decode\ntok/s",
        "output tokens that decode launches sampled / seconds of decode launches; a turn's first "
        "token is prefill's; null where under 90 % came from decode-only launches; summed over "
        "replicas",
        *_RATE, Null.NO_DECODE_LAUNCHES, Null.MIXED,
    ),
    _rate(
        "total_tok_s", "1/s", "total\ntok/s",
        "(n_new + n_out) / W; not ranked where the load sets it (note load_bound)", *_RATE,
    ),
    _rate(
        "ttft_p50_s", "s", "TTFT\np50 s",
        "append turns: first token visible to the host, from the intended send; median of "
        "distinct turns, each the median of its repeats and replicas",
        *_LATENCY, direction="lower",
    ),
    _rate(
        "ttft_p95_s", "s", "TTFT\np95 s", "the same, 95th percentile; null under 59 distinct turns",
        *_LATENCY, Null.N_TOO_SMALL, direction="lower",
    ),
    _rate(
        "ttft_cold_p50_s", "s", "TTFT\ncold s", "cold turns: the same, median",
        *_LATENCY, direction="lower",
    ),
    _rate(
        "tpot_p50_s", "s", "TPOT\np50 s",
        "(last token - first token) / (n_out - 1) of a turn, median; null for one token",
        *_LATENCY, Null.ONE_TOKEN_TURNS, direction="lower",
    ),
    _rate(
        "tpot_p95_s", "s", "TPOT\np95 s", "the same, 95th percentile; null under 59 distinct turns",
        *_LATENCY, Null.N_TOO_SMALL, Null.ONE_TOKEN_TURNS, direction="lower",
    ),
    _rate(
        "itl_p50_s", "s", "ITL\np50 s",
        "gaps between the tokens of a turn as the host sees them, all turns pooled; median",
        *_LATENCY, Null.ONE_TOKEN_TURNS, direction="lower",
    ),
    _rate(
        "itl_p95_s", "s", "ITL\np95 s", "the same, 95th percentile; null under 59 distinct gaps",
        *_LATENCY, Null.N_TOO_SMALL, Null.ONE_TOKEN_TURNS, direction="lower",
    ),
    _rate(
        "itl_p99_s", "s", "ITL\np99 s", "the same, 99th percentile; null under 299 distinct gaps",
        *_LATENCY, Null.N_TOO_SMALL, Null.ONE_TOKEN_TURNS, direction="lower",
    ),
    _rate(
        "session_p50_s", "s", "sess.\np50 s",
        "a whole session, from its first intended send to its last token, tool time included",
        *_LATENCY, direction="lower",
    ),
    _rate(
        "session_p95_s", "s", "sess.\np95 s",
        "the same, 95th percentile; null under 59 distinct sessions",
        *_LATENCY, Null.N_TOO_SMALL, direction="lower",
    ),
    _rate(
        "goodput_turns_s", "1/s", "good\nturns/s", "turns that met the SLO / W", *_RATE,
    ),
    _rate(
        "goodput_tok_s", "1/s", "good\ntok/s",
        "work tokens (n_new + n_out) of turns that met the SLO / W", *_RATE,
    ),
    _rate(
        "slo_attainment", "1", "SLO",
        "share of turns inside the SLO; failed and dropped turns are misses, and so are "
        "unfinished ones that are late already; incomplete repeats are in it", *_RATE,
    ),
    _rate(
        "sessions_per_hour", "1/h", "sessions\n/h",
        "completed sessions / W; in the capacity scenario the mean of three estimates (sessions, "
        "n_new, n_out, each over its mean a session), null where they differ by over 2 %; null "
        "where the tool-time scale is neither 0 nor 1",
        *_RATE, Null.TOOL_TIME_SCALED, Null.SLO_NOT_MET, Null.W_TOO_SHORT,
    ),
    _rate(
        "prefix_hit_ideal", "1", "hit\nideal",
        "sum of n_cached over sum of prompt tokens, with an endless cache at token grain",
        *_RATE, direction="none",
    ),
    _rate(
        "prefix_hit", "1", "hit",
        "prompt tokens not computed on first processing / sum of prompt tokens", *_RATE,
    ),
    Column(
        "recomputed_tokens", "integer", "", "lower", "perf", "recomp.",
        "tokens computed beyond n_new + n_out, over the complete repeats", _NOTHING,
    ),
    _rate(
        "pad_ratio", "1", "pad", "positions computed, padding included / useful ones",
        *_RATE, direction="lower",
    ),
    _rate(
        "mbu", "1", "MBU",
        "decode-only launches: necessary bytes / (device seconds x probed read bandwidth); null "
        "under 4 x the last-level cache, and over 1",
        *_RATE, Null.NO_DECODE_LAUNCHES, Null.NO_MODEL_CONFIG, Null.PRECISION_UNKNOWN,
        Null.NO_PROBE, Null.ROOF_UNSTEADY, Null.IN_CACHE, Null.OVER_ROOF,
    ),
    _rate(
        "mbu_nameplate", "1", "MBU\nplate",
        "the same bytes / (device seconds x the catalogue's bandwidth)",
        *_RATE, Null.NO_DECODE_LAUNCHES, Null.NO_MODEL_CONFIG, Null.PRECISION_UNKNOWN,
        Null.NO_NAMEPLATE, Null.IN_CACHE, Null.OVER_ROOF,
    ),
    _rate(
        "mfu", "1", "MFU",
        "prefill-only launches: necessary FLOPs / (device seconds x probed dense rate); null over "
        "1",
        *_RATE, Null.NO_PREFILL_LAUNCHES, Null.NO_MODEL_CONFIG, Null.NO_PROBE, Null.ROOF_UNSTEADY,
        Null.OVER_ROOF,
    ),
    _rate(
        "host_s_per_step", "s", "host\ns/step",
        "host time of engine and backend per step that the device did not hide",
        *_RATE, direction="lower",
    ),
    _rate(
        "idle_s_per_step", "s", "idle\ns/step",
        "what W holds beyond launches while a turn was outstanding, per step",
        *_RATE, direction="lower",
    ),
    Column(
        "bus_bytes_per_step", "number", "B", "lower", None, "bus\nB/step",
        "bytes to and from the device over the steps that decode only; KV that lies with the host "
        "crosses in each of them. Copies inside one memory are not counted",
        (*_RATE, Null.NO_DECODE_LAUNCHES, Null.NO_BUS),
    ),
    _rate(
        "power_w", "W", "W", "mean power: joules of the window / its seconds",
        *_POWER, direction="lower", kind="energy",
    ),
    _text(
        "energy_source", "source", "counter, polled, wall, declared or assumed", Null.NOT_MEASURED
    ),
    _text(
        "power_scope", "scope",
        "what the meter covers: die, package, memory, board, module, node_dc, wall, facility; "
        "cpu-share where the unit is a share of the host's CPUs",
        Null.NOT_MEASURED,
    ),
    _text(
        "power_beside", "beside",
        "mean power over the window by the meters next to the row's, each with its scope; their "
        "joules and bounds are in `details.energy.beside`",
        Null.NOT_MEASURED,
    ),
    _text(
        "meter", "meter", "name of the meter that the row's joules come from", Null.NOT_MEASURED
    ),
    Column(
        "energy_error_rel", "number", "1", "lower", None, "±E",
        "stated bound of the error of the window's joules, over them: the sensor's class and what "
        "it may not have seen; it is in the intervals of power, tok/J and J/session",
        (
            Null.NOT_MEASURED, Null.ERROR_NOT_STATED, Null.ERROR_WITHOUT_CAP, Null.ERROR_OVER_100,
            Null.ERROR_CLOCK_UNKNOWN,
        ),
    ),
    _rate(
        "tok_per_joule", "1/J", "tok/J",
        "(n_new + n_out) / joules of the window, idle power included (gross)",
        *_POWER, kind="energy",
    ),
    _rate(
        "joule_per_session", "J", "J/sess.",
        "joules of the window / sessions completed, idle power included (gross); null if one of a "
        "closed trace ran on",
        *_POWER, Null.SESSION_UNFINISHED, Null.NO_SESSIONS, direction="lower",
        kind="energy",
    ),
    _rate(
        "cost_per_session", "currency", "cost/\nsess.",
        "C / Y: cost of the unit and year over its sessions a year",
        *_COST, direction="lower", kind="cost",
    ),
    _rate(
        "cost_per_mtok", "currency", "cost/\nMtok", "10^6 C / (Y x work tokens per session)",
        *_COST, direction="lower", kind="cost",
    ),
    _rate(
        "daily_active_agents", "1/unit", "agents\n/unit",
        "sessions per hour x headroom / (sessions per agent-day x share of the peak hour)",
        Null.CELL_FAILED, Null.NOT_IN_SCHEMA_1, Null.NO_PRICE_BOOK, Null.NOT_CAPACITY_SCENARIO,
        Null.SCALE_NOT_1, Null.NO_DEMAND, Null.UNIT_PARTLY_USED, Null.NO_SESSIONS,
        Null.ZERO_DENOMINATOR, Null.SLO_NOT_MET, Null.W_TOO_SHORT,
        kind="cost",
    ),
    _text("parity", "parity", "pass, fail, unchecked or audit_pending"),
    _rate(
        "ep_coverage", "1", "cover",
        "the smaller of the shares of FLOPs and bytes that ran on the provider's own device",
        Null.CELL_FAILED, Null.UNKNOWN,
    ),
    Column(
        "load_s", "number", "s", "lower", None, "load\ns",
        "reading weights and making the graph, before the clock of the run",
        (Null.CELL_FAILED,),
    ),
    Column(
        "compile_s", "number", "s", "lower", None, "compile\ns",
        "compilation and warm-up of every bucket, apart from the clock of the run",
        (Null.CELL_FAILED,),
    ),
    Column(
        "peak_device_bytes", "integer", "B", "lower", None, "peak\nB",
        "most bytes of the device's own memory in use since it was opened, by the backend",
        (Null.CELL_FAILED, Null.HOST_MEMORY, Null.UNKNOWN),
    ),
    Column(
        "perplexity", "number", "1", "lower", None, "ppl",
        "exp of the mean negative log-likelihood of the project's text under the quantised "
        "weights, by the oracle, activations rounded as computed",
        _QUALITY,
    ),
    Column(
        "perplexity_source", "number", "1", "lower", None, "ppl\nsource",
        "the same under the source's weights, in fp32", _QUALITY,
    ),
    Column(
        "perplexity_ratio", "number", "1", "lower", None, "ppl\nratio",
        "perplexity / perplexity_source: what quantising loses; over 1.05 the row is not ranked "
        "(quality_lost)",
        _QUALITY,
    ),
    Column(
        "comparable", "list", "", "none", None, "comparable",
        "list out of perf, energy, cost against the baseline; empty is none",
    ),
    Column(
        "vs_baseline", "number", "1", "higher", None, "vs\nbase",
        "ratio of the ranked metric to the baseline's, turned so that over 1 is better; of a "
        "median of turns, the mean ratio turn by turn",
        (Null.NOT_COMPARABLE, Null.NO_BASELINE, Null.ZERO_DENOMINATOR, Null.CELL_FAILED),
    ),
    Column("notes", "list", "", "none", None, "notes", "list of {code, text}"),
)  # fmt: skip

COLUMNS: Mapping[str, Column] = {column.name: column for column in _LIST}
"""Every column by name, in the order of the table."""

EXTRA_KEYS: tuple[str, ...] = ("intervals", "rank", "null_reasons", "details")
"""What JSON has in addition to the columns. intervals: 95 %, [low, high] by column. rank: by
--rank-by among the comparable rows of its group, shared where intervals overlap. null_reasons: a
code for each null column. details: net and output tokens per joule, error bounds, cost by class,
break-even price, price inputs with their provenance, marks of doubt by column, intervals over
other work of this kind (never used for ranks), the device in each repeat (`state`), why rows are
not comparable (`not_comparable`, by kind) or have no rank (`not_ranked`), and the path of the
record."""

RANKABLE: tuple[str, ...] = tuple(
    c.name for c in _LIST if c.kind is not None and c.direction != "none"
)
"""Columns that `--rank-by` takes."""

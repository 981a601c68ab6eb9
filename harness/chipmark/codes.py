"""Why a number is missing, what a row must say beyond its numbers, what a record has wrong.

The enumerations are below every step that gives or reads a code, so that a backend and the table
use the same members; stdlib only. A code is an API: its value is never renamed, and its text may
be made clearer. A member is its value where it is stored or printed (`StrEnum`), and `text` says
what it means; its docstring is the same text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Code(StrEnum):
    """A closed set of codes, each declared as its value and its text."""

    text: str
    """What the code means, for people."""

    def __new__(cls, value: str, text: str = "") -> Self:
        """A member: `NAME = "value", "text"`."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.text = member.__doc__ = text
        return member

    @classmethod
    def known(cls, code: str) -> Self | None:
        """The member with this value; None where this version does not know it, as in a record
        of a newer or a foreign version."""
        try:
            return cls(code)
        except ValueError:
            return None


class NullReason(Code):
    """Why a number is null: exactly one for each null."""

    CELL_FAILED = "cell_failed", "the cell failed, so nothing was measured"
    NO_SAMPLES = "no_samples", "no sample of this kind was taken"
    N_TOO_SMALL = (
        "n_too_small",
        "too few distinct samples: the 95th percentile needs 59, the 99th 299",
    )
    ONE_TOKEN_TURNS = "one_token_turns", "no turn has a second token"
    NO_BUS = "no_bus", "the device is the host itself, so that nothing crosses to it"
    ZERO_DENOMINATOR = "zero_denominator", "the denominator is zero or negative"
    TOOL_TIME_SCALED = "tool_time_scaled", "the tool-time scale is neither 0 nor 1"
    SESSION_UNFINISHED = "session_unfinished", "a session of a closed trace did not end"
    NO_SESSIONS = "no_sessions", "no session was completed"
    REPEAT_INCOMPLETE = (
        "repeat_incomplete",
        "no repeat completed, and what did not complete is left out",
    )
    NO_MODEL_CONFIG = "no_model_config", "the model's shape is not in the record"
    PRECISION_UNKNOWN = "precision_unknown", "the bytes of this precision are not known"
    NO_DECODE_LAUNCHES = "no_decode_launches", "no launch was decode only"
    NO_PREFILL_LAUNCHES = "no_prefill_launches", "no launch was prefill only"
    NO_PROBE = "no_probe", "the roof was not probed around the repeat"
    ROOF_UNSTEADY = "roof_unsteady", "the roof's probes before and after differ by over 15 %"
    IN_CACHE = "in_cache", "the working set is under 4 x the last-level cache of the device"
    OVER_ROOF = "over_roof", "more than the measured roof allows, so the measurement is wrong"
    MIXED = "mixed", "under 90 % of the decoded tokens came from decode-only launches"
    W_TOO_SHORT = (
        "w_too_short",
        "three estimates of the capacity differ by over 2 %: the window is too short",
    )
    SLO_NOT_MET = "slo_not_met", "the measured repeats do not meet the objective"
    NO_NAMEPLATE = "no_nameplate", "the catalogue does not have this figure of the chip"
    NOT_IN_SCHEMA_1 = (
        "not_in_schema_1",
        "a record of before chipmark.record/2 does not hold what this needs",
    )
    NO_TOKENS = "no_tokens", "the benchmark does not say how many tokens a call is"
    MEAN_OF_CALLS = "mean_of_calls", "a sample is a mean of several calls, which has no tail"
    NOT_MEASURED = "not_measured", "no meter was read"
    POWER_TOO_FEW_UPDATES = (
        "power_too_few_updates",
        "polled power with fewer than 20 distinct updates in the window",
    )
    POWER_GAPS = "power_gaps", "gaps of over 20 % of the window between power samples"
    COUNTER_TOO_COARSE = (
        "counter_too_coarse",
        "the energy counter had fewer than 20 updates in the window",
    )
    COUNTER_STUCK = "counter_stuck", "the energy counter did not move over 20 of its periods"
    COUNTER_BACKWARDS = "counter_backwards", "the energy counter ran backwards"
    NEGATIVE_NET = (
        "negative_net",
        "idle power times the window is more than the energy of the window",
    )
    ERROR_NOT_STATED = "error_not_stated", "the error of the meter's sensor class is not known"
    ERROR_WITHOUT_CAP = (
        "error_without_cap",
        "what the meter did not see has no bound: the most that the unit can draw is not known",
    )
    ERROR_CLOCK_UNKNOWN = (
        "error_clock_unknown",
        "nothing bounds by how much the clock of the log differs from the run's",
    )
    ERROR_OVER_100 = (
        "error_over_100",
        "what the meter did not see may be more than all that it saw",
    )
    PHASES_TOO_FEW_WINDOWS = (
        "phases_too_few_windows",
        "fewer than 60 windows of twice the meter's period and averaging to regress phases on",
    )
    PHASES_ALIKE = (
        "phases_alike",
        "phases change together, so that a regression cannot tell them apart (condition over 30)",
    )
    PHASES_DO_NOT_SUM = (
        "phases_do_not_sum",
        "energies of phases, idle and harness differ from the window's by over 1 %",
    )
    SEVERAL_DEVICES = (
        "several_devices",
        "one meter cannot tell which of several devices drew what",
    )
    IDLE_MISSING = "idle_missing", "power at idle was not measured"
    IDLE_TOO_SHORT = "idle_too_short", "power at idle over less than 30 s or 20 updates"
    UNIT_PARTLY_USED = (
        "unit_partly_used",
        "only a part of the unit that meter and price cover was used",
    )
    NO_PRICE_BOOK = "no_price_book", "no price book was given"
    NO_PRICE = "no_price", "the price book has no entry for this chip and unit"
    HOST_POWER_MISSING = "host_power_missing", "the price book does not say the host's power"
    SCOPE_WITHOUT_FACILITY = (
        "scope_without_facility",
        "facility power is not defined for this power scope",
    )
    NOT_CAPACITY_SCENARIO = "not_capacity_scenario", "defined in the capacity scenario only"
    SCALE_NOT_1 = "scale_not_1", "defined at scale (1, 1, 1) only"
    NO_DEMAND = "no_demand", "the price book does not say the demand"
    NO_HOSTING_PRICE = (
        "no_hosting_price",
        "power is in hosting, whose price or kilowatts the price book does not say",
    )
    RENTED = "rented", "a rented unit has no chip price"
    NEVER_BREAKS_EVEN = (
        "never_breaks_even",
        "even a chip for nothing would cost more a session than the baseline",
    )
    NOT_COMPARABLE = "not_comparable", "not comparable with the baseline in this kind"
    NO_BASELINE = "no_baseline", "no row can serve as the baseline"
    HOST_MEMORY = "host_memory", "the device is the host's CPU and has no memory of its own"
    NOT_QUANTISED = "not_quantised", "the weights were not quantised here, so nothing is lost by it"
    SYNTHETIC_WEIGHTS = "synthetic_weights", "seeded synthetic weights have no quality to lose"
    NO_TOKENIZER = "no_tokenizer", "the model's tokenizer cannot be read, so no text can be scored"
    NO_ORACLE = "no_oracle", "the oracle could not score the text here; a note says why"
    UNKNOWN = "unknown", "not said by the record"


class NoteCode(Code):
    """What a row must say beyond its numbers: the general meaning; a note's own text says the
    particulars."""

    CELL_FAILED = "cell_failed", "the cell failed; the text says how"
    PARITY_FAILED = "parity_failed", "logits differ from the oracle's by more than the tolerance"
    PARITY_UNCHECKED = "parity_unchecked", "logits were not compared with the oracle's"
    EP_COVERAGE = "ep_coverage", "a part of the graph ran outside the provider's own device"
    EMULATED = "emulated", "an emulation computed in the hardware's place; not ranked"
    UNVERIFIED_PROVIDER = "unverified_provider", "this provider was never run on that hardware"
    DEVICE_MEMORY = (
        "device_memory",
        "what the device says of its memory is not believed; the text says why",
    )
    EXECUTION_EAGER = "execution_eager", "eager execution; ranked in a group of its own"
    BACKEND_OPTIONS = "backend_options", "options were given to the backend; the text has them"
    NOT_STEADY = "not_steady", "the repeats drift beyond their interval; the row is not ranked"
    REPEATS_ADDED = (
        "repeats_added",
        "repeats were added until the interval was narrow enough or time was spent",
    )
    REPEAT_INCOMPLETE = (
        "repeat_incomplete",
        "a repeat did not complete and is left out; the row is not ranked",
    )
    TURNS_LOST = "turns_lost", "a turn failed, was dropped or did not finish; the row is not ranked"
    LOAD_BOUND = (
        "load_bound",
        "the offered load, not the device, sets total_tok_s, which is not ranked",
    )
    CLOCK = (
        "clock",
        "times of the backend, the engine and the parent contradict each other; not ranked",
    )
    OVER_ROOF = "over_roof", "a share of a roof comes out above 1, so the measurement is wrong"
    FAR_OVER_ROOF = (
        "far_over_roof",
        "over 3 x a measured roof in a repeat, so not the work was timed; not ranked",
    )
    AUDIT_FAILED = "audit_failed", "ids or logits of the timed run are not the oracle's"
    AUDIT_PENDING = (
        "audit_pending",
        "the checks after the run could not be afforded here; not ranked",
    )
    SLO_NOT_MET = (
        "slo_not_met",
        "the measured repeats do not meet the objective; not priced in a ranking",
    )
    CAPACITY_CUT = (
        "capacity_cut",
        "the sweep ended at its own limit; the capacity is a lower bound, not ranked",
    )
    REPLICAS = "replicas", "several engines ran at once, one on each device of the unit"
    UNIT_PARTLY_USED = (
        "unit_partly_used",
        "only a part of the unit that meter and price cover was used",
    )
    SIMULATED = "simulated", "a simulated device; ranked among its kind only"
    PLUGIN = "plugin", "the code that ran is not the one that this name stands for; not ranked"
    WEIGHT_BYTES = (
        "weight_bytes",
        "the stored weights are smaller than the precision needs; not ranked",
    )
    KV_BYTES = (
        "kv_bytes",
        "the KV cache is smaller than its tokens need in that precision; not ranked",
    )
    KV_OVER_BUS = (
        "kv_over_bus",
        "KV lies with the host and crosses to the device in every step; the text says why",
    )
    LOGITS_OVER_BUS = (
        "logits_over_bus",
        "logits cross to the host in every step to be sampled there; the text says why",
    )
    THROTTLED_THERMAL = "throttled_thermal", "the device slowed down because of its temperature"
    THROTTLED_HARDWARE = (
        "throttled_hardware",
        "the device slowed down because of power or another hardware limit",
    )
    THROTTLE_UNKNOWN = "throttle_unknown", "whether the device throttled could not be read"
    CLOCK_BELOW_NOMINAL = (
        "clock_below_nominal",
        "the clock under load was over 5 % below the device's own nominal clock, and not because "
        "of its power limit; not ranked",
    )
    OTHER_PROCESSES = (
        "other_processes",
        "processes of others used the device, its clock and its watts; not ranked",
    )
    HOST_LOAD = (
        "host_load",
        "other processes used the host's CPUs, whose watts are in the joules; energy is not ranked",
    )
    ECC_ERRORS = (
        "ecc_errors",
        "the device counted more uncorrected memory errors while it was measured; not ranked",
    )
    STATE_CHANGED = (
        "state_changed",
        "a setting of the device (power limit, MIG) changed while it was measured; not ranked",
    )
    SHARED_DEVICE = (
        "shared_device",
        "the device is a share of a card, and what the rest does is not seen; not ranked",
    )
    POWER_LIMIT = "power_limit", "the power limit is below the default; part of the chip's identity"
    ENERGY_ASSUMED = "energy_assumed", "power is assumed, not measured; never ranked"
    ENERGY_DECLARED = "energy_declared", "power is a nameplate figure, not measured; never ranked"
    ENERGY_REFUSED = "energy_refused", "power was sampled, but too thinly to be integrated"
    IDLE_RANGE = (
        "idle_range",
        "idle power before and after differ by over 5 %; net values are a range",
    )
    IDLE_REUSED = (
        "idle_reused",
        "idle power was measured once, in an earlier cell of the same model on the same device",
    )
    IDLE_AS_LOAD = (
        "idle_as_load",
        "idle power unknown; the idle hours of the year are priced at load",
    )
    LOAD_AS_FULL = "load_as_full", "power at the offered load unknown; priced at full load"
    PRICE_ASSUMED = "price_assumed", "a price or cost factor is assumed"
    ACROSS_PRECISION = (
        "across_precision",
        "the ratio is to another precision class; shown, not ranked",
    )
    COST_AT_THIS_LOAD = "cost_at_this_load", "cost at this very load, all day; not ranked"
    REPEATS_LEFT_OUT = "repeats_left_out", "some repeats had no value and are not in the ratio"
    FEW_REPEATS = "few_repeats", "fewer than 3 complete repeats; the row is not ranked"
    LLC_UNKNOWN = "llc_unknown", "size of the last-level cache unknown; the roof may be a cache's"
    PROBE_SIZE = "probe_size", "the roof was probed at another working-set size than the launches'"
    SESSIONS_LOST = "sessions_lost", "sessions failed, were dropped or did not finish"
    UNVERIFIED_CHIP = "unverified_chip", "the route to this chip was never run on that hardware"
    UNVERIFIED_METER = "unverified_meter", "this meter was never run on that hardware"
    CHIP_BY_ASSUMPTION = (
        "chip_by_assumption",
        "the chip is assumed; the machine does not say which it is",
    )
    WEIGHTS_SYNTHETIC = "weights_synthetic", "seeded synthetic weights, not a trained model"
    FEEDBACK_SAMPLED = "feedback_sampled", "sampled tokens were fed back"
    PRECISION_NOTE = "precision_note", "what the provider really computed"
    QUALITY_LOST = (
        "quality_lost",
        "quantising makes perplexity worse by more than the stated share; not ranked",
    )
    KERNEL_REPLACED = (
        "kernel_replaced",
        "a kernel fails on this device; plain torch computes in its place",
    )
    BACKEND = "backend", "a remark of the backend"
    CELL = "cell", "a remark of the cell"
    METER = "meter", "a remark of the meter"


class FindingCode(Code):
    """What `chipmark validate` finds wrong with a record or an imported run."""

    RECORD = "record", "record.json is not whole, or is not a record"
    PATH = "path", "a file of the record is outside its folder"
    MISSING = "missing", "a file of the record is missing"
    CHECKSUM = "checksum", "a file is not the one that was stored"
    EXTRA = "extra", "a file does not belong to the record or to the run"
    RAW = "raw", "the raw files are not whole"
    TRACE_HASH = "trace_hash", "the trace is not the one that the manifest names"
    MANIFEST = "manifest", "the manifest contradicts the raw files"
    NOTE_CODE = "note_code", "a note has a code that this version does not know"
    METERS = "meters", "readings are not what their meter says, or two meters contradict each other"
    METRICS = "metrics", "the stored metrics do not follow from the raw files"
    METRICS_SCHEMA = "metrics_schema", "the metrics follow other definitions than this version's"
    CLOCK = "clock", "times of the backend, the engine and the parent contradict each other"
    EVENTS_KEYS = "events_keys", "the event tables do not refer to each other's rows"
    WINDOW = "window", "the window has no length"
    LAUNCH_TIME = "launch_time", "a launch ends before it starts"
    PHASES_EXCEED_WINDOW = "phases_exceed_window", "phases last longer than the window"
    LAUNCH_ROWS = "launch_rows", "a launch does not have the rows that it counts"
    BUCKET_TOO_SMALL = "bucket_too_small", "a launch has more rows or tokens than its bucket"
    POSITIONS = "positions", "rows compute other positions than their turn has"
    TURN_UNKNOWN = "turn_unknown", "a turn is not in the trace"
    TURN_COUNTS = "turn_counts", "a turn has other token counts than in the trace"
    HIT_ABOVE_IDEAL = "hit_above_ideal", "more tokens were reused than an endless cache has"
    TURN_TIMES = "turn_times", "times of a turn are not in order"
    WORK_MISSING = "work_missing", "a turn is done without all of its work"
    IDS = "ids", "sampled ids are missing, or were not sampled"
    UNCOVERED_TIME = "uncovered_time", "a share of the steps is covered by no time of the backend"
    PARITY = "parity", "logits differ from the oracle's by more than the tolerance"
    AUDIT = "audit", "the audit failed, or does not follow from its arrays"
    AUDIT_PENDING = "audit_pending", "the checks after the run are not finished"
    AUDIT_EVENTS = "audit_events", "the audited ids are not those of the events"
    PLUGIN = "plugin", "the code that ran is not the one that this name stands for"
    WEIGHT_BYTES = "weight_bytes", "the stored weights are smaller than the precision needs"
    KV_BYTES = "kv_bytes", "the KV cache is smaller than its tokens need in that precision"
    OVER_ROOF = "over_roof", "a share of a roof is above 1"
    FAR_OVER_ROOF = "far_over_roof", "over 3 x a measured roof in a repeat"
    CLOSED_FORM = "closed_form", "a number of a simulated device is not its closed form"
    BENCHMARK_RUN = "benchmark_run", "a stored run of pytest-benchmark is not whole"


def meaning(reason: str) -> str:
    """The text of a null's reason; the code itself where this version does not know it."""
    found = NullReason.known(reason)
    return reason if found is None else found.text

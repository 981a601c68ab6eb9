"""Rows as lists for people take them: in one pass, of which texts are left and no row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from chipmark.codes import NullReason, meaning
from chipmark.foreign_text import plain_text
from chipmark.table.cells import MISSING, people_text
from chipmark.table.columns import COLUMNS
from chipmark.table.rows import TableRow

MAIN: tuple[str, ...] = (
    "backend", "concurrency", "decode_rows", "total_tok_s", "prefill_tok_s", "decode_tok_s",
    "ttft_p50_s", "tpot_p50_s", "slo_attainment", "prefix_hit", "mbu", "tok_per_joule",
    "cost_per_session", "parity", "vs_baseline", "comparable",
)  # fmt: skip
QUALITY: tuple[str, ...] = ("perplexity_ratio",)
IDENTITY: tuple[str, ...] = (
    "chip", "unit", "model", "workload", "scale", "precision", "execution", "graph", "scenario",
    "replicas", "sessions", "energy_source", "power_scope", "meter", "energy_error_rel",
    "power_beside", "currency",
)  # fmt: skip
BLOCKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("identity", ("backend", "chip", "unit", "model", "workload", "scale")),
    ("what ran", ("precision", "execution", "graph", "scenario", "concurrency", "replicas",
                  "sessions", "parity", "ep_coverage", "perplexity", "perplexity_source",
                  "perplexity_ratio")),
    ("rates", ("decode_rows", "prefill_tok_s", "decode_tok_s", "total_tok_s", "goodput_turns_s",
               "goodput_tok_s", "slo_attainment", "sessions_per_hour")),
    ("latency", ("ttft_p50_s", "ttft_p95_s", "ttft_cold_p50_s", "tpot_p50_s", "tpot_p95_s",
                 "itl_p50_s", "itl_p95_s", "itl_p99_s", "session_p50_s", "session_p95_s")),
    ("work and roofs", ("prefix_hit_ideal", "prefix_hit", "recomputed_tokens", "pad_ratio", "mbu",
                        "mbu_nameplate", "mfu", "host_s_per_step", "idle_s_per_step",
                        "bus_bytes_per_step")),
    ("energy and cost", ("power_w", "energy_source", "power_scope", "power_beside",
                         "meter", "energy_error_rel", "tok_per_joule", "joule_per_session",
                         "currency", "cost_per_session", "cost_per_mtok",
                         "daily_active_agents")),
    ("loading", ("load_s", "compile_s", "peak_device_bytes")),
    ("comparison", ("comparable", "vs_baseline", "notes")),
)  # fmt: skip
_SHORT = {"perf": "p", "energy": "e", "cost": "c"}
_SELF_EVIDENT = (
    NullReason.UNKNOWN, NullReason.NOT_COMPARABLE, NullReason.HOST_MEMORY, NullReason.NO_BUS,
    NullReason.NOT_QUANTISED,
)  # fmt: skip
_NULLS_SHOWN = frozenset(n for n in COLUMNS if COLUMNS[n].type in ("number", "integer"))


class Numbered:
    """Each text once, with the numbers (from 1) of all rows that it belongs to."""

    def __init__(self) -> None:
        self._said: dict[str, list[int]] = {}

    def add(self, number: int, texts: Iterable[str]) -> None:
        """The texts of the next row."""
        for text in texts:
            numbers = self._said.setdefault(text, [])
            if not numbers or numbers[-1] != number:
                numbers.append(number)

    def lines(self) -> Iterator[str]:
        """A line for each text, behind its numbers."""
        for text, numbers in self._said.items():
            yield f"{', '.join(map(str, numbers))}: {text}"


class Listed:
    """What a list of rows shows: its blocks, the lines above and the remarks below them."""

    def __init__(self, rows: Iterable[TableRow], *, all_columns: bool) -> None:
        self._all = all_columns
        shown = (
            {name for _, names in BLOCKS for name in names} if all_columns else {*MAIN, *QUALITY}
        )
        self._columns: dict[str, list[str]] = {name: [] for name in {*shown, *IDENTITY}}
        self._short: list[str] = []
        self._ranks: list[str] = []
        self._remarks = Numbered()
        self._ranked_by: dict[str, None] = {}
        self._bases: dict[str, None] = {}
        self._objectives: dict[str, None] = {}
        same: dict[str, str] = {}
        for number, row in enumerate(rows, 1):
            for name, texts in self._columns.items():
                text = people_text(row, name)
                texts.append(same.setdefault(text, text))
            self._short.append(" ".join(_SHORT[k] for k in row.values["comparable"]) or "none")
            self._ranks.append(MISSING if row.rank is None else str(row.rank))
            self._remarks.add(number, remarks_on(row))
            self._ranked_by[row.details["rank_by"]] = None
            self._bases[row.details["baseline"] or "none"] = None
            self._objectives[row.details["slo"]["name"]] = None

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self._ranks)

    def head(self) -> list[str]:
        """Lines above the table: what all rows share, the baseline and what ranks."""
        _, common = self._varying()
        lines = ["; ".join(common)] if common else []
        ranked, bases, objectives = map(", ".join, (self._ranked_by, self._bases, self._objectives))
        lines.append(f"ranked by {ranked}; baseline {bases}; SLO {objectives}")
        return lines

    def blocks(self) -> list[tuple[str, tuple[str, ...]]]:
        """Title and columns of each block; the main one has no title."""
        if self._all:
            return list(BLOCKS)
        varying, _ = self._varying()
        blocks = [("", self._main())]
        # Of many identity columns a terminal has room for about six.
        for at in range(0, len(varying), 6):
            blocks.append(("what differs", tuple(varying[at : at + 6])))
        return blocks

    def _main(self) -> tuple[str, ...]:
        """The main columns; what quantising loses is among them where a row knows it."""
        known = [n for n in QUALITY if any(text != MISSING for text in self._columns[n])]
        at = MAIN.index("parity")
        return (*MAIN[:at], *known, *MAIN[at:])

    def texts(self, title: str, names: Sequence[str]) -> Iterator[list[str]]:
        """The rows of a block: number, rank (main block) or backend, values."""
        lead = [self._ranks] if not title else []
        if title and "backend" not in names:
            lead = [self._columns["backend"]]
        columns = [
            self._short if name == "comparable" and not title else self._columns[name]
            for name in names
        ]
        for number, texts in enumerate(zip(*lead, *columns, strict=True), 1):
            yield [str(number), *map(plain_text, texts)]

    def remarks(self) -> Iterator[str]:
        """Remarks about rows, each once, with the numbers of the rows it is true of:
        their notes, their nulls, why they are not comparable."""
        return self._remarks.lines()

    def _varying(self) -> tuple[list[str], list[str]]:
        """Identity columns that differ between rows, and a line for each that does not."""
        varying, common = [], []
        for name in IDENTITY:
            texts = set(self._columns[name])
            if len(texts) > 1:
                varying.append(name)
            elif texts != {MISSING}:
                common.append(f"{name.replace('_', ' ')} {texts.pop()}")
        return varying, common


def remarks_on(row: TableRow) -> list[str]:
    """The remarks about one row."""
    texts = [f"{note['code']}: {note['text']}" for note in row.values["notes"]]
    by_reason: dict[str, list[str]] = {}
    for name, reason in row.null_reasons.items():
        if name in _NULLS_SHOWN and reason not in _SELF_EVIDENT:
            by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        # A failed cell lacks everything; listing every column would say nothing more.
        shown = "numbers" if len(names) > 12 else ", ".join(names)
        texts.append(f"no {shown}: {meaning(reason)} ({reason})")
    if barred := row.details["not_ranked"]:
        texts.append(f"not ranked by {row.details['rank_by']}: {'; '.join(barred)}")
    return texts

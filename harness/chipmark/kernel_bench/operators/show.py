"""The table of a document of operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from chipmark.kernel_bench.document import Document, Row, failed
from chipmark.kernel_bench.figures import derive
from chipmark.kernel_bench.targets import MOST_OF_ROOF


def print_operators(document: Document, console: Console) -> None:
    """A row an operator and shape, remarks below, and a last line of counts."""
    identity, roofs = document["identity"], document["roofs"].get("", {})
    rows = [dict(row) for row in document["rows"]]
    for row in rows:
        derive(row, roofs)
    console.print(_title(identity, roofs), markup=False, soft_wrap=True)
    table = Table()
    for name in ("operator", "shape"):
        table.add_column(name, overflow="fold")
    for name in ("time us", "GB/s", "GFLOP/s", "of roof"):
        table.add_column(name, justify="right")
    table.add_column("limit", overflow="fold")
    table.add_column("error", justify="right")
    table.add_column("parity")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    for text, names in _remarks(rows).items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        console.print(f"{text}: {shown}", markup=False, soft_wrap=True)
    console.print(
        "time: of one operator, called back to back; error: rms-relative, against float64",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    broken = sum(bool(failed(row)) for row in rows)
    timed = sum(row.get("bytes_per_s") is not None for row in rows)
    console.print(f"{len(rows)} operators and shapes: {timed} timed, {broken} failed")


def _title(identity: Mapping[str, Any], roofs: Mapping[str, Any]) -> str:
    names = {"torch": "torch", "onnxruntime": "ONNX Runtime"}
    parts = [f"{identity['backend']} on {identity['device']}"]
    parts += [f"{name} {identity[key]}" for key, name in names.items() if key in identity]
    if "graph" in identity:
        parts.append(f"{identity['graph']} graph")
    parts += [f"{identity['model']} in {identity['precision']}", f"{identity['threads']} threads"]
    known = []
    if "read_bytes_per_s" in roofs:
        known.append(f"read {roofs['read_bytes_per_s'] / 1e9:.1f} GB/s")
    if (rate := roofs.get(f"{identity['precision']}_flops")) is not None:
        known.append(f"matrix {rate / 1e9:.0f} GFLOP/s")
    return ", ".join(parts) + "\nroofs: " + (", ".join(known) or "none was measured")


def _cells(row: Row) -> list[str]:
    seconds = ((row.get("time") or {}).get("ours") or {}).get("median_s")
    share, roof = row.get("fraction_of_roof"), row.get("roof") or ""
    results = (row.get("parity") or {}).get("results") or [{}]
    error = results[0].get("rms_relative")
    limit = "" if share is None else "read" if roof.startswith("read") else "matrix"
    return [
        row["kernel"],
        row["case"],
        "-" if seconds is None else f"{seconds * 1e6:.2f}",
        "-" if seconds is None else f"{row['bytes'] / seconds / 1e9:.2f}",
        "-" if seconds is None or not row["flops"] else f"{row['flops'] / seconds / 1e9:.1f}",
        "-" if share is None else f"{share:.0%}",
        limit or "-",
        "-" if error is None else f"{error:.1e}",
        "[bold red]fail[/]" if failed(row) else "[green]pass[/]" if row.get("parity") else "-",
    ]


def _remarks(rows: list[Row]) -> dict[str, list[str]]:
    """Each remark once, with the rows of which it is true."""
    said: dict[str, list[str]] = {}
    for row in rows:
        name = f"{row['kernel']} {row['case']}"
        if problem := failed(row):
            said.setdefault(problem, []).append(name)
        time = row.get("time") or {}
        if time.get("ours") and not time.get("cold_l2"):
            text = "inputs lie in the cache, so there is no share of the memory's roof"
            said.setdefault(text, []).append(name)
        if (row.get("fraction_of_roof") or 0.0) > MOST_OF_ROOF:
            said.setdefault("over the roof: one of the two is measured wrong", []).append(name)
    return said

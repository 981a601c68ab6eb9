"""What of a benchmark is the same from run to run: names, parameters and the CPU's keys.

A parameter that JSON cannot hold is written by its `repr`, and most of these hold an address,
which is another one in each process: `UNSERIALIZABLE[<function f at 0x7f3a5c0d1e50>]`. An address
identifies nothing, so it is taken out before anything is compared.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from chipmark.benchmark_json.document import Benchmark

_ADDRESS = re.compile(r"(?<= at )0x[0-9A-Fa-f]{6,16}\b")
"""Of `object.__repr__`, functions, bound methods, partials, weak references, generators: `at` and
the address. It is looked for behind a `<` only, so that other text keeps its numbers."""

_DIGITS = re.compile(r"\d+")

_CPU_KEYS = {
    "brand_raw": ("brand_raw", "brand", "hardware_raw", "hardware"),
    "count": ("count",),
    "arch": ("arch",),
}
"""Keys of `machine_info.cpu` that identify a CPU, and the names that py-cpuinfo gave them before
6.0 (pytest-benchmark 3.x). A chip of ARM has no brand there, its board's name stands for it."""


def without_addresses(value: Any) -> Any:
    """A JSON value, keys included, without the addresses in its texts."""
    if isinstance(value, str):
        head, bracket, tail = value.partition("<")
        return head + bracket + _ADDRESS.sub("0x", tail)
    if isinstance(value, Mapping):
        return {without_addresses(k): without_addresses(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_addresses(item) for item in value]
    return value


def ambiguous(benchmarks: Sequence[Benchmark]) -> dict[int, str]:
    """Places of benchmarks that nothing but an address tells apart from another, and why.

    Those are two of one name, and two whose names differ by a counted number only, as pytest names
    parameters that have no name of their own (`cfg0`, `cfg1`): in the next run `cfg1` may be
    another object, and no key would show it.
    """
    same: dict[str, list[int]] = defaultdict(list)
    counted: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, benchmark in enumerate(benchmarks):
        name = without_addresses(benchmark.fullname)
        params = without_addresses(benchmark.params)
        same[name].append(place)
        if params != benchmark.params:
            counted[_DIGITS.sub("#", name), repr(params)].append(place)
    found = {}
    for places in (*same.values(), *counted.values()):
        for place in places if len(places) > 1 else ():
            others = [benchmarks[other].name for other in places if other != place]
            found[place] = (
                f"only an address tells its parameters from those of {', '.join(others[:3])}"
                "; give the parameters ids that say what they are"
            )
    return found


def cpu_identity(cpu: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies the CPU of a `machine_info`, by today's key names; None is not known."""
    return {
        name: next((cpu[key] for key in keys if cpu.get(key) is not None), None)
        for name, keys in _CPU_KEYS.items()
    }

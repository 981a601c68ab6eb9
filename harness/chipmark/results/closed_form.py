"""The metrics that a `sim:` cell must have, from the closed form of its simulated device.

`backends.sim.closed_form` computes totals from the trace and the device's constants alone,
without engine, events or meter; so a record that agrees has every step of the way right.
"""

from __future__ import annotations

from chipmark.backends.sim.closed_form import expected
from chipmark.backends.sim.spec import SPECS
from chipmark.errors import UnknownNameError, UsageError
from chipmark.metrics.rawcell import RawCell
from chipmark.results.manifest import Manifest


def expected_metrics(device: str, raw: RawCell, manifest: Manifest) -> dict[str, float]:
    """Expected values by column; columns without a closed form are left out.

    Raises UsageError where the cell has none at all (buckets, mixed launches, another scenario).
    """
    if device not in SPECS:
        raise UnknownNameError("simulated system", device, SPECS)
    if manifest.scenario != "equal_n":
        raise UsageError("the closed form is that of the scenario equal_n")
    if manifest.load is None:
        raise UsageError("the cell was not loaded, so its chunk size is not known")
    spec = SPECS[device]
    totals = expected(
        raw.trace,
        spec,
        concurrency=manifest.concurrency,
        max_chunk=int(manifest.load.caps["max_chunk"]),
        token_budget=manifest.options.get("token_budget"),
    )
    work = raw.trace.totals
    values: dict[str, float | None] = {
        "prefix_hit": totals.prefix_hit,
        "decode_tok_s": _ratio(totals.decode_tokens, totals.decode_s),
        "sessions": float(work.sessions * manifest.repeats),
    }
    if raw.trace.prefix_hit_ideal is not None:
        values["prefix_hit_ideal"] = raw.trace.prefix_hit_ideal
    if spec.prefix != "copy" or spec.copy_s == 0:
        values["prefill_tok_s"] = _ratio(work.n_new, totals.prefill_s)
    if totals.window_s is not None:
        values["total_tok_s"] = _ratio(work.n_new + work.n_out, totals.window_s)
    if totals.window_s is not None and totals.energy_j is not None and manifest.meter is not None:
        values["power_w"] = _ratio(totals.energy_j, totals.window_s)
        values["tok_per_joule"] = _ratio(work.n_new + work.n_out, totals.energy_j)
        values["joule_per_session"] = _ratio(totals.energy_j, work.sessions)
    return {name: value for name, value in values.items() if value is not None}


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None

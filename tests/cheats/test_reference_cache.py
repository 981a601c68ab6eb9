from __future__ import annotations

FORGED = """
from pathlib import Path

from chipmark.cell.contexts import turn_keys
from chipmark.cell.logits import LogitRows, save_logits
from chipmark.cell.parity import all_turns, parity_trace
from chipmark.cell.reference import Weights, cached_file
from chipmark.engine.loop import run
from chipmark.engine.plan import RunPlan
from chipmark_models.cache import cache_folder
from chipmark_models.weights.prepared import WeightSpec, open_any


class Backend(TorchBackend):
    def load(self, spec):
        loaded = super().load(spec)
        attend(self, last_keys(100))
        weights = open_any(WeightSpec.from_dict(spec.model))
        trace = parity_trace(
            weights.config.vocab_size, (), weights.config.max_context,
            rows=spec.n_seqs, chunk=spec.max_chunk,
        )
        plan = RunPlan(caps=loaded.caps, concurrency=spec.n_seqs, logits_of_all=True)
        rows = run(self, trace, plan).logits
        keys = np.array([(r.session, r.turn, r.position) for r in rows], np.int32)
        head = Weights(dict(spec.model), weights.source_hash, spec.precision).head(
            trace, turn_keys(trace, all_turns(trace)), ""
        )
        path = cached_file(cache_folder() / "reference", head)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_logits(path, LogitRows(keys, np.stack([r.logits for r in rows])), head)
        return loaded
"""


def test_c5_a_reference_written_by_the_child_is_not_believed(machine, plugin, codes) -> None:
    forged = plugin("forged", FORGED)
    ran = machine.measure(forged)
    manifest = ran.record.manifest
    assert manifest.parity.verdict == "fail"
    assert manifest.parity.reference.origin == "computed"
    assert any("is not what the oracle computes" in note.text for note in manifest.notes)
    assert manifest.audit.verdict == "fail"
    assert {"parity", "audit"} <= codes(machine.findings(forged))


def test_an_honest_reference_is_found_again_in_the_cache(machine, plugin) -> None:
    honest = plugin("honest", "class Backend(TorchBackend):\n    pass\n")
    first = machine.measure(honest).record.manifest.parity.reference
    out = ("-o", machine.root / "again", "--repeats", 1, "--format", "json")
    again = machine.run(
        "run", "quick", "-b", "honest:cpu", "-m", "tiny", "--sessions", 2, "--concurrency", 2,
        "--scale", "1/64,1/64,0", *out, plugins=(honest,),
    )  # fmt: skip
    assert again.code == 0, again.err
    from chipmark.results.store import load_records

    (record,) = load_records([machine.root / "again"]).records
    second = record.manifest.parity.reference
    assert (first.origin, second.origin) == ("computed", "cache")
    assert first.sha256 == second.sha256

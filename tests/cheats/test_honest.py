from __future__ import annotations

import json


def test_an_honest_plugin_passes_every_check(machine, plugin) -> None:
    honest = plugin("honest", "class Backend(TorchBackend):\n    pass\n")
    ran = machine.measure(honest)
    assert ran.code == 0, ran.err
    manifest = ran.record.manifest
    assert manifest.parity.verdict == "pass"
    audit = manifest.audit
    assert (audit.verdict, audit.reason) == ("pass", "")
    assert audit.ids_checked >= 64
    assert audit.ids_clear >= 16
    assert audit.ids_wrong == 0
    assert audit.longest_rms_rel < 1e-4
    assert audit.captured_ids_equal is True
    assert audit.reference.origin == manifest.parity.reference.origin == "computed"
    backend = manifest.plugins["backend"]
    assert (backend.module, backend.distribution, backend.version) == ("honest", "honest", "1.0")
    assert not backend.built_in
    assert manifest.plugins["chip"].built_in
    assert {note.code for note in manifest.notes}.isdisjoint({"plugin", "weight_bytes"})
    assert machine.findings(honest) == []


def test_what_cannot_be_afforded_is_pending_until_it_is_audited(machine, plugin) -> None:
    honest = plugin("honest", "class Backend(TorchBackend):\n    pass\n")
    ran = machine.measure(honest, "--audit-s", 0)
    assert ran.record.manifest.audit.verdict == "pending"
    assert "of 0 s" in ran.record.manifest.audit.reason
    (finding,) = machine.findings(honest)
    assert (finding["severity"], finding["code"]) == ("warning", "audit_pending")

    done = machine.run("audit", machine.root / "runs", "--format", "json", plugins=(honest,))
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)
    assert (row["verdict"], row["ids_wrong"]) == ("pass", 0)
    assert row["longest_rms_rel"] < 1e-4
    assert row["sidecar"] == f"{ran.record.path}.audit.json"
    assert ran.record.manifest.audit.verdict == "pass"
    assert machine.findings(honest) == []

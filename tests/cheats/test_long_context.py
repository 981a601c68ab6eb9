from __future__ import annotations

WINDOW = """
class Backend(TorchBackend):
    def load(self, spec):
        loaded = super().load(spec)
        attend(self, last_keys(600))
        return loaded
"""


def test_c1_a_window_beyond_the_parity_trace_is_found(machine, plugin, codes) -> None:
    window = plugin("window", WINDOW)
    ran = machine.measure(window)
    manifest = ran.record.manifest
    assert manifest.parity.verdict == "pass"  # its contexts are shorter than the window
    assert manifest.audit.verdict == "fail"
    assert manifest.audit.longest_rms_rel > 0.01
    assert manifest.audit.ids_wrong > 0
    assert "longest turn" in manifest.audit.reason
    assert "audit" in codes(machine.findings(window))

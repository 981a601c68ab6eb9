from __future__ import annotations

ROWS = """
class Backend(TorchBackend):
    def load(self, spec):
        loaded = super().load(spec)

        def wrap(attention):
            def three_of_four(q, cache, spans):
                if len(spans) < 4:
                    return attention(q, cache, spans)
                most = attention(q[:3], cache, spans[:3])
                return torch.cat([most, most[: len(spans) - 3]])

            return three_of_four

        attend(self, wrap)
        return loaded
"""

LATE_ROWS = ROWS.replace("if len(spans) < 4:", "if len(spans) < 4 or spans[3].end < 400:")

PREFIX = """
class Backend(TorchBackend):
    def load(self, spec):
        loaded = super().load(spec)
        copy = self._decoder.kv.copy
        self._decoder.kv.copy = lambda src, dst, length: copy(src, dst, min(length, 64))
        return loaded
"""


def test_c7_a_row_left_out_of_a_wide_launch_is_found(machine, plugin, codes) -> None:
    rows = plugin("rows", ROWS)
    ran = machine.measure(rows, "--concurrency", 4, "--sessions", 4)
    assert ran.record.manifest.parity.verdict == "fail"
    assert ran.record.manifest.audit.verdict == "fail"
    assert {"parity", "audit"} <= codes(machine.findings(rows))


def test_c7_a_row_left_out_where_parity_does_not_reach_is_found(machine, plugin, codes) -> None:
    rows = plugin("laterows", LATE_ROWS)
    ran = machine.measure(rows, "--concurrency", 4, "--sessions", 4)
    assert ran.record.manifest.parity.verdict == "pass"
    assert ran.record.manifest.audit.verdict == "fail"
    assert ran.record.manifest.audit.ids_wrong > 0
    assert "audit" in codes(machine.findings(rows))


def test_c7_a_prefix_copied_in_part_is_found(machine, plugin, codes) -> None:
    prefix = plugin("prefix", PREFIX)
    ran = machine.measure(prefix)
    assert ran.record.manifest.parity.verdict == "fail"
    assert "parity" in codes(machine.findings(prefix))

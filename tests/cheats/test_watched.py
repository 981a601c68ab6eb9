from __future__ import annotations

import pytest

LAZY = """
class Backend(TorchBackend):
    def load(self, spec):
        loaded = super().load(spec)
        self.watched = True
        head = self._decoder._head
        guess = torch.eye(self._decoder.config.vocab_size)[7]

        def only_where_watched(x, last):
            return head(x, last) if self.watched else guess.repeat(len(last), 1)

        self._decoder._head = only_where_watched
        return loaded

    def submit(self, step):
        self.watched = bool(step.logits_of)
        super().submit(step)
"""

HIDING = """
class Backend(TorchBackend):
    def wait(self):
        done = super().wait()
        sampled = done.sampled.copy()
        sampled[::2] = -1
        return replace(done, sampled=sampled)
"""


@pytest.mark.long
def test_c4_no_head_where_nobody_watches_is_found(machine, plugin, codes) -> None:
    lazy = plugin("lazy", LAZY)
    ran = machine.measure(lazy)
    manifest = ran.record.manifest
    assert manifest.parity.verdict == "pass"
    assert manifest.audit.verdict == "fail"
    assert manifest.audit.longest_rms_rel < 1e-4  # watched, it is right
    assert manifest.audit.captured_ids_equal is False
    assert manifest.audit.ids_wrong > 32
    assert "audit" in codes(machine.findings(lazy))


@pytest.mark.long
def test_ids_that_are_held_back_are_found(machine, plugin) -> None:
    audit = machine.measure(plugin("hiding", HIDING)).record.manifest.audit
    assert audit.verdict == "fail"
    assert "no sampled id" in audit.reason

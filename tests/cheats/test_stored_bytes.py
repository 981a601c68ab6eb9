from __future__ import annotations

NARROW = """
class Backend(TorchBackend):
    def load(self, spec):
        loaded = super().load(spec)
        weights = self._decoder.weights
        with torch.inference_mode():
            for layer in weights.layers:
                layer.input_norm.copy_(layer.input_norm.bfloat16().float())
        return replace(loaded, weight_bytes=loaded.weight_bytes // 2)
"""


def test_b6_16_bit_weights_under_the_name_of_fp32_are_found(machine, plugin, codes) -> None:
    narrow = plugin("narrow", NARROW)
    ran = machine.measure(narrow)
    manifest = ran.record.manifest
    assert manifest.precision.weights == "fp32"
    assert manifest.parity.verdict == "pass"  # seeded weights are exact in bf16
    assert manifest.audit.verdict == "pass"
    (text,) = [note.text for note in manifest.notes if note.code == "weight_bytes"]
    assert "fp32 of this model needs" in text
    assert "weight_bytes" in codes(machine.findings(narrow))


HALF_KV = """
class Backend(TorchBackend):
    def load(self, spec):
        loaded = super().load(spec)
        kv = self._decoder.kv
        kv.layers = [layer.half() for layer in kv.layers]
        return replace(loaded, kv_bytes=sum(x.numel() * x.element_size() for x in kv.layers))
"""


def test_b6_16_bit_kv_under_the_name_of_fp32_is_found(machine, plugin, codes) -> None:
    half = plugin("half", HALF_KV)
    manifest = machine.measure(half).record.manifest
    assert manifest.precision.kv == "fp32"
    (text,) = [note.text for note in manifest.notes if note.code == "kv_bytes"]
    assert "tokens in fp32 need" in text
    assert "kv_bytes" in codes(machine.findings(half))

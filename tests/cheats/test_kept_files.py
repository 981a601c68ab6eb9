from __future__ import annotations

EDITING = """
from pathlib import Path


class Backend(TorchBackend):
    def load(self, spec):
        self.kept = Path(spec.scratch).parent
        return super().load(spec)

    def probe_matmul(self, precision):
        for path in self.kept.glob("repeat-0/NAME"):
            path.write_bytes(path.read_bytes() + b" ")
        return super().probe_matmul(precision)
"""


def test_files_of_an_earlier_repeat_cannot_be_changed(machine, plugin) -> None:
    for name in ("timing.json", "probes.json"):
        editing = plugin(f"edit{name[:6]}", EDITING.replace("NAME", name))
        ran = machine.measure(editing, "--budget-s", 0)
        assert ran.code == 4, ran.err
        assert f"repeat-0/{name} was changed" in ran.err

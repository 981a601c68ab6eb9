from __future__ import annotations

import sys

BROKEN = """
class Backend(TorchBackend):
    def load(self, spec):
        raise RuntimeError("the package took the name of a built-in backend")
"""

REPLACING = """
import chipmark.backends.torch_device.backend as target


class Replaced(target.TorchBackend):
    pass


target.TorchBackend = Replaced
"""


def test_c6_an_installed_package_cannot_take_a_built_in_name(machine, plugin) -> None:
    taken = plugin("impostor", BROKEN, kind="torch")
    ran = machine.measure(taken, "--python", sys.executable)
    assert ran.code == 0, ran.err
    manifest = ran.record.manifest
    assert manifest.plugins["backend"].built_in
    assert manifest.plugins["backend"].module == "chipmark.backends.torch_device.backend"
    reported = [note.text for note in manifest.notes if note.code == "backend"]
    assert any("impostor" in text and "built in" in text for text in reported)
    assert "impostor" in ran.err


def test_c6_a_built_in_that_was_replaced_in_the_child_is_found(machine, plugin, codes) -> None:
    replacing = plugin("replacing", "")
    (replacing.folder / "sitecustomize.py").write_text(REPLACING)
    ran = machine.run(
        "run", "quick", "-b", "torch:cpu", "-m", "tiny", "--sessions", 1, "--concurrency", 1,
        "--scale", "1/64,1/64,0", "--repeats", 1, "-o", machine.root / "runs", "--format", "json",
        plugins=(replacing,),
    )  # fmt: skip
    manifest = ran.record.manifest
    assert manifest.plugins["backend"].module == "sitecustomize"
    assert not manifest.plugins["backend"].built_in
    assert [note.code for note in manifest.notes if note.code == "plugin"] == ["plugin"]
    assert "plugin" in codes(machine.findings())

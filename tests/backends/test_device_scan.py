"""Devices are looked up in processes of their own, whose output is not trusted."""

from __future__ import annotations

import json
import subprocess

from chipmark.backends.device_scan import DeviceHere, answer, scan
from chipmark.errors import MissingBackendError

MARK = "chipmark-device "


def line(name: str, **more: object) -> str:
    return MARK + json.dumps({"name": name, "here": True, "text": "a chip", **more})


def ran(*outputs: tuple[int, str, str]):
    """`run_module` that ends so, one after another; what it was asked for is in `asked`."""
    left, asked = list(outputs), []

    def run(module: str, *names: str, limit_s: float):
        asked.append((module, *names))
        code, out, err = left.pop(0)
        if code == 124:
            raise subprocess.TimeoutExpired("python", limit_s, out.encode())
        return subprocess.CompletedProcess([], code, out, err)

    run.asked = asked  # type: ignore[attr-defined]
    return run


def test_what_libraries_print_is_no_answer() -> None:
    said = "\n".join([
        "loading", MARK + "{", MARK + "[]", MARK + '{"name": 1, "here": true, "text": "x"}',
        MARK + '{"name": "a", "more": 1}', line("a"), "bye",
    ])  # fmt: skip
    assert scan("m", ["a"], ran((0, said, ""))) == [DeviceHere("a", True, "a chip")]


def test_a_crash_and_a_hang_cost_their_own_lines_and_say_their_last_words() -> None:
    run = ran((-11, line("a"), "warming\n\nmychip: bus error\n"), (124, "", ""), (0, line("d"), ""))
    found = scan("m", ["a", "b", "c", "d"], run)
    assert [(d.name, d.here) for d in found] == [
        ("a", True), ("b", False), ("c", False), ("d", True),
    ]  # fmt: skip
    assert found[1].text == "looking for it ended with exit code -11: mychip: bus error"
    assert found[2].text == "looking for it took over 60 s"
    assert run.asked == [("m", "a", "b", "c", "d"), ("m", "c", "d"), ("m", "d")]


def test_an_answer_has_the_words_of_what_was_raised(capsys) -> None:
    def look(name: str) -> str:
        if name == "missing":
            raise MissingBackendError("there is no driver", "install it")
        if name == "broken":
            raise OSError("libchip.so: not found")
        return f"chip {name}"

    names = ["a", "missing", "broken"]
    answer(names, look)
    printed = capsys.readouterr().out
    found = scan("m", names, ran((0, printed, "")))
    assert found == [
        DeviceHere("a", True, "chip a"),
        DeviceHere("missing", False, "there is no driver", "install it"),
        DeviceHere("broken", False, "OSError: libchip.so: not found"),
    ]

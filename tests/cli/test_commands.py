from __future__ import annotations

from pathlib import Path

import pytest

from chipmark.backends import device_scan
from chipmark.backends.device_scan import DeviceHere
from chipmark.backends.ort import provider_scan
from chipmark.cell import inventory


def test_chips_are_listed_and_shown_with_sources(chipmark) -> None:
    listed = chipmark("chips", "list", "--format", "json")
    assert {"nvidia-h20", "kunlun-p800", "amd-epyc-7763"} <= {e["name"] for e in listed.json}
    shown = chipmark("chips", "show", "kunlun-p800")
    assert shown.code == 0
    assert "96 GB" in shown.out
    assert "unknown" in shown.out
    assert "nvidia-h20" in chipmark("chips", "list").out


def test_workload_shows_realised_beside_target(chipmark) -> None:
    shown = chipmark("workload", "show", "agent-code-32k", "--format", "json")
    rows = {row["parameter"]: row for row in shown.json["quantiles"]}
    assert rows["turns"]["target_p50"] == 10
    assert len(shown.json["hash"]) == 64
    assert shown.json["kernel_shapes"]
    assert "target p50" in chipmark("workload", "show", "func-call").out
    assert "agent-code-128k" in chipmark("workload", "list").out


def test_models_say_whether_weights_are_real(chipmark, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path))
    rows = {row["name"]: row for row in chipmark("models", "list", "--format", "json").json}
    assert rows["smollm2-135m"]["weights"] == "synthetic"
    assert rows["smollm2-135m"]["pullable"]
    assert "can be pulled" in chipmark("models", "list").out


def test_real_weights_that_cannot_be_fetched_are_not_replaced_silently(
    chipmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from chipmark.cell import workloads
    from chipmark.errors import ModelUnavailableError

    def no_network(name: str, cache_dir: object = None, progress: object = None) -> Path:
        raise ModelUnavailableError("there is no network", "try again")

    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(workloads, "pull", no_network)
    answer = chipmark("run", "quick", "-b", "torch:cpu", "-o", tmp_path / "runs")
    assert answer.code == 2
    assert "there is no network" in answer.err
    assert "-m smollm2-135m@synthetic" in answer.err


def test_doctor_says_what_is_here_and_how_to_get_the_rest(
    chipmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        DeviceHere("cpu", True, "CPUExecutionProvider"),
        DeviceHere("cann", False, "no CANN", "pip install onnxruntime-cann"),
    ]
    monkeypatch.setattr(inventory, "scan", lambda names, run: found)
    answer = chipmark("doctor", "--format", "json")
    assert answer.code == 0
    kinds = {item["kind"] for item in answer.json}
    assert {"chip", "meter", "backend", "model", "torch device"} <= kinds
    by_name = {item["name"]: item for item in answer.json}
    if "ort:cann" in by_name:
        assert by_name["ort:cann"]["remedy"] == "pip install onnxruntime-cann"
    assert by_name["torch:npu"]["remedy"]
    assert "how to get it" in chipmark("doctor").out


def test_overhead_ends_with_its_figure(chipmark, monkeypatch: pytest.MonkeyPatch) -> None:
    from chipmark.engine import overhead

    row = overhead.OverheadRow(64, 399, 42e-6, 90e-6)
    monkeypatch.setattr(overhead, "measure_overhead", lambda backend: [row])
    answer = chipmark("doctor", "--overhead")
    assert answer.out.splitlines()[-1] == "engine time per step at 64 sessions: 42.0 us"


def test_a_provider_that_crashes_costs_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(_: str, names: list[str], run: object) -> tuple[list[DeviceHere], str]:
        good = (
            [DeviceHere(n, True, n) for n in names[: names.index("b")]]
            if "b" in names
            else [DeviceHere(n, True, n) for n in names]
        )
        return good, "ended with exit code -11"

    monkeypatch.setattr(device_scan, "attempt", attempt)
    found = provider_scan.scan(["a", "b", "c"], inventory.run_module)
    assert [(p.name, p.here) for p in found] == [("a", True), ("b", False), ("c", True)]
    assert "-11" in found[1].text


def test_an_internal_error_is_no_verdict(chipmark, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job would read 1 as "regressed": what nobody foresaw ends with 4, its traceback kept."""
    from chipmark.prices import book

    def broken(path: object) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(book, "load_book", broken)
    answer = chipmark("table", Path(__file__).parent)
    assert answer.code == 4
    assert "Traceback (most recent call last)" in answer.err
    assert "nobody foresaw this" in answer.err
    assert "internal error (ZeroDivisionError)" in answer.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            OSError(28, "No space left on device", "/there/x\x1b[31m"),
            2,
            "/there/x\\x1b[31m: No space",
        ),
        (OSError(30, "Read-only file system"), 2, "error: Read-only file system"),
        (MemoryError(), 2, "not enough memory"),
        (OSError(9, "Bad file descriptor"), 4, "internal error (OSError)"),
    ],
)
def test_what_the_machine_refuses_is_a_sentence_and_no_fault_of_chipmark(
    chipmark, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, said: str
) -> None:
    from chipmark.prices import book

    def refused(path: object) -> None:
        raise error

    monkeypatch.setattr(book, "load_book", refused)
    answer = chipmark("table", Path(__file__).parent)
    assert answer.code == code
    assert said in answer.err
    assert ("Traceback" in answer.err) == (code == 4)

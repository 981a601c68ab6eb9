"""What a call would do: every step once, none where it does not fit; whose code counts."""

from __future__ import annotations

import json
import tarfile
from importlib import import_module

import pytest

from chipmark.errors import BadInputError, UnknownNameError
from chipmark.kernel_bench.stages.contract import Stage, StageStep
from chipmark.kernel_bench.stages.document import as_json
from chipmark.kernel_bench.stages.pack import PACK_BYTES, Pack
from chipmark.kernel_bench.stages.plan import START_S, all_steps, calls_of, chosen, with_wheels
from chipmark.kernel_bench.stages.sources import code_of


@pytest.mark.parametrize("step", all_steps(), ids=lambda step: step.key)
def test_each_step_can_be_done(step: StageStep) -> None:
    module, _, name = step.work.partition(":")
    assert callable(getattr(import_module(module), name))
    assert 0 < len(step.about) <= 60
    assert step.estimate_s > 0
    assert step.limit_s > 0
    assert json.loads(json.dumps(step.parameters)) == as_json(step.parameters)
    assert len(code_of(step)) == 16


def test_steps_are_sorted_by_stage_and_named_once(fakes, monkeypatch) -> None:
    stages = [step.stage for step in all_steps()]
    assert stages == sorted(stages)
    with pytest.raises(ValueError, match="called first, hanging, large"):
        all_steps(["stages_call", "stages_call"])
    steps = fakes.stages_call.STEPS
    assert [s.key for s in chosen(steps, Stage.RECORDS, ())] == ["large"]
    with pytest.raises(UnknownNameError):
        chosen(steps, Stage.RECORDS, ["first"])


def test_calls_take_what_fits_in_order() -> None:
    assert calls_of([30, 80, 60, 10, 200], START_S + 100) == [1, 2, 1, 1, None]
    assert calls_of([], 100) == []


def test_only_the_code_that_a_step_uses_makes_it_anew(monkeypatch, tmp_path) -> None:
    package = tmp_path / "paper_package"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__", "work", "other", "inner/__init__", "inner/deep"):
        (package / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    step = StageStep("one", Stage.RUNS, "", 1, 1, "paper_package.work:do")
    wide = StageStep("two", Stage.RUNS, "", 1, 1, "paper_package.work:do",
                     uses=("paper_package.inner",))  # fmt: skip
    before = code_of(step), code_of(wide)
    (package / "other.py").write_text("x = 1")
    assert (code_of(step), code_of(wide)) == before
    (package / "inner" / "deep.py").write_text("x = 1")
    assert code_of(step) == before[0]
    assert code_of(wide) != before[1]
    (package / "work.py").write_text("x = 1")
    assert code_of(step) != before[0]
    with pytest.raises(ModuleNotFoundError, match="does not exist"):
        code_of(StageStep("one", Stage.RUNS, "", 1, 1, "paper_package.gone:do"))


def test_the_archive_has_what_fits_and_is_made_anew_for_new_files_alone(tmp_path) -> None:
    out = tmp_path / "results.tar.gz"
    pack = Pack(tmp_path, out)
    (tmp_path / "stage-1.json").write_text("{}")
    assert pack.refresh() == []
    assert not out.exists()
    (tmp_path / "trace.gz").write_bytes(b"1")
    with (tmp_path / "large.gz").open("wb") as large:
        large.truncate(PACK_BYTES)
    assert pack.refresh() == ["large.gz"]
    made = out.stat().st_mtime_ns
    (tmp_path / "stage-1.json").write_text('{"more": 1}')
    assert pack.refresh() == []
    assert out.stat().st_mtime_ns == made
    # An archive that another call left in the folder is not packed into the next.
    elsewhere = tmp_path / "elsewhere" / "all.tar.gz"
    assert Pack(tmp_path, elsewhere).refresh() == ["large.gz"]
    with tarfile.open(elsewhere) as packed:
        assert packed.getnames() == ["stage-1.json", "trace.gz"]


def test_carried_packages_reach_the_step_of_records_alone(tmp_path) -> None:
    steps = all_steps()
    with pytest.raises(BadInputError, match="holds no wheel"):
        with_wheels(steps, tmp_path)
    (tmp_path / "pydantic-2-py3-none-any.whl").touch()
    changed = [
        (step.key, step.parameters["wheels"])
        for before, step in zip(steps, with_wheels(steps, tmp_path), strict=True)
        if step != before
    ]
    assert changed == [("records", str(tmp_path))]
    assert with_wheels(steps, None) == steps

"""Backend options, objectives and idle times, as given on a command line or in a suite file."""

from __future__ import annotations

import json

import pytest

from chipmark.cell.given import check_idle_s, merged, options_for, read_option, read_slo, slo_of
from chipmark.cell.settings import IDLE_S, RunOptions
from chipmark.cell.suite import Overrides, load_suite
from chipmark.errors import BadInputError, UnknownNameError, UsageError
from chipmark.results.manifest import Slo

SUITE = """
[mine]
idle_s = 40
slo = { tpot_s = 0.03 }
[[mine.cells]]
workload = ["func-call"]
backend = ["sim:golden", "ort:cpu"]
options = { graph = "plain", provider = { a = 1 } }
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("graph=plain", {"graph": "plain"}),
        ("ort:graph=plain", {"graph": "plain"}),
        ("torch:graph=plain", {}),
        ("threads=4", {"threads": 4}),
        ("static=true", {"static": True}),
        ("buckets=[1, 2]", {"buckets": [1, 2]}),
        ("provider.device_id=1", {"provider": {"device_id": 1}}),
        ("path=/opt/a=b", {"path": "/opt/a=b"}),
        ('name="4"', {"name": "4"}),
        ("empty=", {"empty": ""}),
    ],
)
def test_an_option_is_a_toml_value_or_text(text, found):
    assert options_for("ort", [read_option(text)]) == found


def test_the_last_of_a_name_holds_and_tables_are_merged():
    texts = ["p.a=1", "p.b=2", "p.a=3", "x=1"]
    assert options_for("ort", map(read_option, texts)) == {"p": {"a": 3, "b": 2}, "x": 1}
    assert merged({"p": {"a": 1}, "x": 1}, {"p": {"b": 2}, "x": {}}) == {
        "p": {"a": 1, "b": 2},
        "x": {},
    }


@pytest.mark.parametrize("text", ["graph", "=plain", "a b=1", "a..b=1"])
def test_what_is_no_option_is_named(text):
    with pytest.raises(UsageError, match="--option"):
        read_option(text)


def test_an_objective_keeps_the_defaults_of_what_is_not_given():
    assert read_slo("tpot_s=0.03") == Slo(name="custom", tpot_s=0.03)
    assert read_slo("share=1, name=all") == Slo(name="all", share=1.0)
    assert slo_of({}) == Slo()


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("tpot", UsageError, "FIELD=VALUE"),
        ("tpot_s=fast", UsageError, "not a number"),
        ("tpot_s=0", UsageError, "seconds over 0"),
        ("tpot_s=inf", UsageError, "seconds over 0"),
        ("tpot_s=nan", UsageError, "seconds over 0"),
        ("share=1.5", UsageError, "at most 1"),
        ("tpt_s=1", UnknownNameError, "tpot_s"),
        ("name=", UsageError, "name is empty"),
        ("tpot_s=1,tpot_s=2", UsageError, "twice"),
    ],
)
def test_a_wrong_objective_is_named(text, error, words):
    with pytest.raises(error, match=words):
        read_slo(text)


@pytest.mark.parametrize("seconds", [-1.0, 20.0, float("inf"), float("nan"), True])
def test_a_wrong_idle_time_is_named(seconds):
    with pytest.raises(UsageError, match="--idle-s"):
        check_idle_s(seconds)


def test_a_suite_file_names_them_and_the_command_line_goes_first(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    suite = load_suite(str(path), Overrides(), ())
    assert (suite.slo, suite.idle_s) == (Slo(name="custom", tpot_s=0.03), 40.0)
    given = {"graph": "plain", "provider": {"a": 1}}
    assert [cell.options for cell in suite.cells] == [given, given]
    given = (read_option("ort:provider.a=2"), read_option("ort:b=1"))
    over = Overrides(options=given, slo=read_slo("tpot_s=0.02"), idle_s=0)
    suite = load_suite(str(path), over, ())
    assert (suite.slo, suite.idle_s) == (Slo(name="custom", tpot_s=0.02), 0.0)
    by_backend = {cell.backend: cell.options for cell in suite.cells}
    assert by_backend["ort:cpu"] == {"graph": "plain", "provider": {"a": 2}, "b": 1}
    assert by_backend["sim:golden"] == {"graph": "plain", "provider": {"a": 1}}


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ("slo = { tpot_s = 0.03 }", "slo = 3", "mine.slo"),
        ("tpot_s = 0.03", "tpot = 0.03", "mine.slo"),
        ("idle_s = 40", "idle_s = -1", "mine.idle_s"),
        ("idle_s = 40", "idle_s = true", "mine.idle_s"),
        ("idle_s = 40", "idle_s = 20", "mine.idle_s"),
        ('{ graph = "plain", provider = { a = 1 } }', "3", "mine.cells[0].options"),
    ],
)
def test_a_wrong_field_of_a_suite_file_is_named(tmp_path, before, after, field):
    path = tmp_path / "mine.toml"
    path.write_text(SUITE.replace(before, after))
    with pytest.raises(BadInputError) as caught:
        load_suite(str(path), Overrides(), ())
    assert f"{path}: field '{field}'" in caught.value.message


def test_an_option_of_a_kind_that_is_not_in_the_run_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    with pytest.raises(UnknownNameError, match="ort"):
        load_suite(str(path), Overrides(options=(read_option("otr:graph=plain"),)), ())


def test_settings_of_before_keep_their_key():
    """A run of before options and idle time could be given resumes."""
    plain = RunOptions().kept({})
    assert set(plain) == {
        "seed", "feedback", "threads", "power_w", "python", "fresh", "max_chunk"
    }  # fmt: skip
    more = RunOptions(idle_s=40.0).kept({"graph": "plain"})
    assert more == plain | {"backend_options": {"graph": "plain"}, "idle_s": 40.0}
    assert RunOptions().of_suite(None, None).idle_s == IDLE_S


def test_they_reach_the_backend_the_record_and_the_key(tmp_path, capsys):
    from chipmark.cli.main import main

    small = ["--scale", "1/256,1/64,0", "--sessions", "2", "--concurrency", "2", "--repeats", "1"]
    command = ["run", "quick", "-b", "sim:golden", "-o", str(tmp_path / "runs"), *small]
    given = ["--option", "caps.prefill_rows=2", "--slo", "tpot_s=0.5,name=slow", "--idle-s", "40"]
    assert main([*command, *given]) == 0
    assert main(command) == 0  # another key: measured again, not skipped
    assert main([*command, *given]) == 0
    assert "skipped" in capsys.readouterr().err
    found = [
        json.loads(path.read_text())["manifest"]
        for path in sorted((tmp_path / "runs").glob("*/record.json"))
    ]
    assert len(found) == 2
    own = next(m for m in found if m["slo"]["name"] == "slow")
    assert own["options"]["backend_options"] == {"caps": {"prefill_rows": 2}}
    assert own["options"]["idle_s"] == 40.0
    assert own["load"]["caps"]["prefill_rows"] == 2
    assert any(note["code"] == "backend_options" for note in own["notes"])


@pytest.mark.parametrize("backend", ["sim:golden", "torch:cpu", "ort:cpu"])
def test_an_unknown_option_is_refused_before_anything_is_done(tmp_path, capsys, backend):
    pytest.importorskip({"torch": "torch", "ort": "onnxruntime"}.get(backend.split(":")[0], "json"))
    from chipmark.cli.main import main

    small = ["--scale", "1/256,1/64,0", "--sessions", "2", "--concurrency", "2", "--repeats", "1"]
    command = ["run", "quick", "-b", backend, "-m", "tiny@synthetic", "-o", str(tmp_path), *small]
    assert main([*command, "--option", "grph=plain"]) == 2
    assert "'grph'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/record.json"))


def test_a_suite_file_of_before_is_read_with_a_warning(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text(
        '[old]\n[[old.cells]]\nworkload = ["func-call"]\nbackend = ["sim:golden"]\n'
        'lane = "capacity"\n'
    )
    suite = load_suite(str(path), Overrides(), ())
    assert [cell.scenario for cell in suite.cells] == ["capacity"]
    assert suite.renamed == (f"{path}: old.cells[0].lane is now called scenario",)

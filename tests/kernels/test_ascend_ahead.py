"""`chipmark kernels ahead` for an Ascend chip. The compilers' environment is never fetched here.

The one test that compiles runs where it is set up already: `chipmark kernels ahead --target
ascend910b3` does that, in the user's cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import chipmark
import chipmark_kernels
import chipmark_models
from chipmark.errors import UsageError
from chipmark.kernel_bench import ahead, ascend_ahead, ascend_compile, ascend_environment
from chipmark.kernel_bench.ascend_environment import (
    NAME,
    PACKAGES,
    AscendEnvironment,
    CompilerUnavailableError,
    found_or_made,
    requirements,
)
from chipmark_kernels import tiles
from chipmark_kernels.ascend.memory_plan import State, Verdict
from chipmark_kernels.ascend.targets import ASCEND_TARGETS
from chipmark_kernels.device import TARGETS
from chipmark_models.cache import cache_folder

ROOTS = [Path(next(iter(m.__path__))).parent for m in (chipmark, chipmark_models, chipmark_kernels)]
SET_UP = (cache_folder() / NAME / "bin" / "python").exists()


def _command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, for here kernels are interpreted."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | variables
    environment["PYTHONPATH"] = os.pathsep.join(map(str, ROOTS))
    return subprocess.run(
        [sys.executable, "-m", "chipmark.kernel_bench", "ahead", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "ascend910b9"], "unknown target 'ascend910b9'; did you mean ascend910b"),
        (["--targets=sm_99"], "unknown target 'sm_99'; did you mean sm_90"),
        (["--targets", "sm_90,ascend910b3"], "call once for sm_90 and once for ascend910b3"),
        (["--target", "ascend910b3", "--kernels", "norm"], "unknown kernel 'norm'; did you mean"),
        (["--target", "ascend910b3", "--models", "qwen"], "unknown model 'qwen'"),
        (["--target", "ascend910b3", "--jobs", "0"], "--jobs: must be at least 1, not 0"),
        (["--target", "ascend910b3", "--limit-s", "nan"], "--limit-s: must be over 0"),
    ],
)
def test_wrong_words_are_told_before_anything_is_set_up(words, message, capsys, monkeypatch):
    monkeypatch.setattr(ascend_ahead, "found_or_made", lambda *_: pytest.fail("set up"))
    assert ahead.main(words) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""


def test_a_gpus_target_goes_to_tritons_own_compilers(monkeypatch):
    monkeypatch.setattr("chipmark_kernels.aot.main", lambda argv: 77)
    assert ahead.main(["--targets", "sm_90"]) == 77
    assert ahead.main(["--first"]) == 77
    assert ahead.main(["--targets"]) == 77


def test_without_the_compilers_it_ends_with_3_and_says_what_would_help(tmp_path):
    words = ("--target", "ascend910b3", "--first", "--kernels", "swiglu", "--no-setup")
    done = _command(*words, CHIPMARK_CACHE=str(tmp_path), PATH="")
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert "Ascend's compilers" in done.stderr
    assert "--python PATH" in done.stderr or "without --no-setup" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A cache of the test's own, and the interpreters that a probe finds."""
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path))
    found: dict[str, ascend_environment._Interpreter] = {}

    def add(path: str, version=(3, 11), packages=()):
        site = Path("/site")
        found[path] = ascend_environment._Interpreter(Path(path), version, dict(packages), site)

    monkeypatch.setattr(ascend_environment, "_probed", lambda python: found.get(str(python)))
    monkeypatch.setattr(ascend_environment, "_on_path", lambda: "/there/python3.11")
    monkeypatch.setattr(
        ascend_environment, "_make", lambda base, folder, say: found[str(base.python)]
    )
    return add


def test_no_python_3_11_is_exit_3_with_the_option_that_names_one(machine):
    machine(sys.executable, (3, 12))
    with pytest.raises(CompilerUnavailableError, match=r"need a Python 3\.11") as caught:
        found_or_made(None, True, print)
    assert caught.value.exit_code == 3
    assert "--python PATH" in caught.value.hint


def test_a_given_python_of_another_version_is_wrong_usage(machine):
    machine("/x/python", (3, 12))
    with pytest.raises(UsageError, match=r"is Python 3\.12; .* 3\.11 alone"):
        found_or_made(Path("/x/python"), True, print)
    with pytest.raises(UsageError, match="does not run"):
        found_or_made(Path("/y/python"), True, print)


def test_a_python_that_has_the_pinned_packages_is_taken_as_it_is(machine):
    machine("/x/python", packages=PACKAGES)
    taken = found_or_made(Path("/x/python"), False, print)
    assert taken == AscendEnvironment(
        Path("/x/python"), Path("/site/ascendnpuir/bin/bishengir-compile")
    )


def test_the_environment_of_the_cache_needs_no_other_python(machine, tmp_path):
    machine(str(tmp_path / NAME / "bin" / "python"), packages=PACKAGES)
    assert found_or_made(None, False, print).python == tmp_path / NAME / "bin" / "python"


def test_another_version_of_a_package_is_not_taken(machine):
    machine("/x/python", packages=PACKAGES | {"triton-ascend": "3.3.0"})
    with pytest.raises(CompilerUnavailableError, match="not set up here"):
        found_or_made(Path("/x/python"), False, print)


def test_a_machine_without_wheels_is_told(machine, monkeypatch):
    machine("/there/python3.11")
    monkeypatch.setattr(ascend_environment.platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(CompilerUnavailableError, match="riscv64"):
        found_or_made(None, True, print)


def test_an_index_out_of_reach_is_exit_3_in_pips_words(monkeypatch, tmp_path):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution")
    monkeypatch.setattr(ascend_environment, "run_supervised", lambda *_: failed)
    with pytest.raises(CompilerUnavailableError, match="pip: ERROR: No matching distribution"):
        ascend_environment._run(["pip"], "pip")


def test_every_package_is_pinned_by_version_and_hash():
    lines = requirements().splitlines()
    assert len(lines) == len(PACKAGES)
    for (name, version), line in zip(PACKAGES.items(), lines, strict=True):
        assert line.startswith(f"{name}=={version} --hash=sha256:")


def _job(**changes):
    fields = {"family": "swiglu", "kernel": "_swiglu_kernel", "dtype": "bf16", "tile": "n=1024"}
    fields |= {"example": "qwen3-0.6b rows=128", "launches": 4, "programs": 12}
    return SimpleNamespace(**fields | changes)


FITS = Verdict(State.FITS, "UB", 24 * 1024, 192 * 1024)
OVER = Verdict(State.OVERFLOWS, "UB", 218 * 1024, 192 * 1024, reason="UB needs 218 KB of 192 KB")
FLOAT8 = Verdict(State.REFUSED, reason="front end: CompilationError: 'unexpected type fp8.'")
OTHER = Verdict(State.REFUSED, reason="front end: CompilationError: no such thing")


@pytest.mark.parametrize(
    ("verdicts", "code", "told"),
    [
        ([FITS, FITS], 0, ["2 of 2  UB 24 of 192 KB", "2 of 2 fit, 0 overflow, 0 refused"]),
        ([FITS, OVER], 1, ["1 of 2  UB 218 of 192 KB", "1 overflow", "UB needs 218 KB of 192 KB"]),
        ([FITS, FLOAT8], 0, ["float8 is unknown to the front end (exception)", "1 exceptions"]),
        ([FITS, OTHER], 1, ["1 refused", "refused: _swiglu_kernel bf16", "no such thing"]),
    ],
)
def test_the_exit_code_and_the_rows_follow_the_verdicts(verdicts, code, told, capsys, monkeypatch):
    environment = AscendEnvironment(Path("python"), Path("compiler"))
    monkeypatch.setattr(ascend_ahead, "found_or_made", lambda *_: environment)
    monkeypatch.setattr(ascend_ahead, "_jobs", lambda _: [_job(), _job(programs=70_000)])
    # They end in another order than they began.
    made = list(enumerate(verdicts))[::-1]
    monkeypatch.setattr(ascend_compile, "compile_all", lambda *_: iter(made))
    assert ahead.main(["--target", "ascend910b3"]) == code
    text = capsys.readouterr().out
    for part in [*told, "grids up to 70000, over 65535"]:
        assert part in text
    assert ahead.main(["--target", "ascend910b3", "--format", "json"]) == code
    document = json.loads(capsys.readouterr().out)
    (row,) = document["rows"]
    assert row["compiled"] == 2
    assert row["fit"] == sum(v.state is State.FITS for v in verdicts)
    assert document["summary"]["target"] == "ascend910b3"
    assert [launch["reason"] for launch in document["launches"]] == [v.reason for v in verdicts]


COMPILER = """
import json, os, sys, time
request = json.load(open(sys.argv[-1]))
if request["kernel"] == "slow": time.sleep(60)
if request["kernel"] == "dies": os.kill(os.getpid(), 9)
open("answer.json", "w").write(json.dumps({"front_end": {"error": "no", "crashes": 0},
                                           "attempts": []}))
"""


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Has kernels compiled by a program of the test's own in place of the environment's."""
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{COMPILER}")
    program.chmod(0o755)
    environment = AscendEnvironment(program, tmp_path / "compiler")

    def of(*kernels: str, limit_s: float = 60.0):
        jobs = [SimpleNamespace(cache_key=k, request=lambda k=k: {"kernel": k}) for k in kernels]
        made = ascend_compile.compile_all(jobs, "Ascend910B3", environment, 2, limit_s)
        return {kernels[index]: verdict.reason for index, verdict in made}

    return of, program


def test_an_answer_is_kept_and_a_process_that_dies_costs_its_own_kernel(compiled):
    of, program = compiled
    reasons = of("good", "dies")
    assert reasons["good"] == "front end: no"
    assert "was killed by SIGKILL" in reasons["dies"]
    program.unlink()
    assert of("good") == {"good": "front end: no"}


def test_a_kernel_over_its_time_is_ended_and_tried_again_the_next_time(compiled, tmp_path):
    of, _ = compiled
    assert "not compiled within 1 s" in of("slow", limit_s=1.0)["slow"]
    assert not list((tmp_path / "cache").glob("ascend-answers/*"))


def test_a_kept_answer_that_is_cut_short_is_made_anew(compiled, tmp_path):
    of, _ = compiled
    of("good")
    (kept,) = (tmp_path / "cache" / "ascend-answers").iterdir()
    kept.write_text('{"front_end"')
    assert of("good") == {"good": "front end: no"}


def test_tiles_are_smaller_on_ascend_and_the_gpus_are_as_they_were():
    chip = ASCEND_TARGETS["ascend910b3"]
    for device, n, m in ((chip, 2048, 32), (TARGETS["sm_90"], 4096, 64)):
        wide = tiles.choose("sample", "bf16", device, rows=64, vocab=151_936)
        assert wide.n == n
        assert tiles.choose("nucleus_cutoff", "bf16", device, vocab=151_936).n == n
        tile = tiles.choose("skinny_gemm", "bf16", device, rows=64, n=4096, k=4096, glu=0)
        assert tile.m == m


def test_the_targets_are_named_as_the_compiler_spells_them_in_lower_case():
    assert {"ascend910b1", "ascend910b2", "ascend910b3", "ascend910b4"} <= set(ASCEND_TARGETS)
    assert all(str(facts.arch).lower() == name for name, facts in ASCEND_TARGETS.items())


@pytest.mark.long
@pytest.mark.skipif(not SET_UP, reason="Ascend's compilers are not set up in this user's cache")
def test_a_kernel_is_compiled_up_to_hivmc_with_its_memory_plan():
    words = ("--target", "ascend910b3", "--first", "--models", "qwen3-0.6b", "--no-setup")
    done = _command(*words, "--kernels", "rmsnorm,fp8a16_gemm", "--format", "json")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    document = json.loads(done.stdout)
    rows = {row["family"]: row for row in document["rows"]}
    assert rows["rmsnorm"]["fit"] == 1
    assert rows["rmsnorm"]["buffer"] == "UB"
    assert 2048 < rows["rmsnorm"]["needed_bytes"] < rows["rmsnorm"]["buffer_bytes"]
    assert rows["fp8a16_gemm"]["exceptions"] == rows["fp8a16_gemm"]["compiled"] > 0

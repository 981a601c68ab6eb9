"""Two worktrees of a small git project: own code in each arm, and refusals where it is not."""

from __future__ import annotations

import json
import subprocess

import pytest

from chipmark.ab.arms import source_roots
from chipmark.cli.main import main
from chipmark.errors import BadInputError

BENCH = """
import json, os, lib
with open(os.environ["CHIPMARK_AB_SAMPLES"], "w") as file:
    json.dump({"step": {"unit": "s", "samples": [lib.COST]}}, file)
"""


def git(folder, *words):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *identity, "-C", str(folder), *words], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = tmp_path / "project"
    (root / "source").mkdir(parents=True)
    git(tmp_path, "init", "-q", str(root))
    (root / "pyproject.toml").write_text('[tool.chipmark.ab]\nsource_roots = ["source"]\n')
    (root / "bench.py").write_text(BENCH)
    (root / "source" / "lib.py").write_text("COST = 1.0\n")
    git(root, "add", "."), git(root, "commit", "-qm", "one")
    (root / "source" / "lib.py").write_text("COST = 1.2\n")
    git(root, "commit", "-qam", "two")
    (root / "README").write_text("words\n")
    git(root, "add", "."), git(root, "commit", "-qm", "three")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr("chipmark.ab.session.run_canary", lambda _: 0.01)
    monkeypatch.setenv("CHIPMARK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(root)
    yield root
    listed = subprocess.run(
        ["git", "-C", str(root), "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert len(listed.stdout.splitlines()) == 1, "worktrees are removed"
    assert list(scratch.iterdir()) == []


def test_each_arm_runs_its_own_commit_and_everything_is_kept(project, capsys):
    out = project.parent / "out"
    command = ["ab", "--base", "HEAD~2", "--head", "HEAD~1", "-o", str(out), "--format", "json"]
    assert main([*command, "--", "python", "bench.py"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["rows"][0]["verdict"] == "regressed"
    stored = json.loads((out / "ab.json").read_text())
    paths = {a: {m["path"] for m in stored["arms"][a]["modules"]} for a in "AB"}
    assert "source/lib.py" in paths["A"] & paths["B"]
    assert stored["arms"]["A"]["code_sha256"] != stored["arms"]["B"]["code_sha256"]
    assert not stored["same_code"]
    assert {(s["session"], s["round"], s["arm"]) for s in stored["slots"]} >= {
        (0, 9, "A"), (0, 9, "B"), (1, 15, "A"), (1, 15, "B"),
    }  # fmt: skip
    assert main([*command, "--", "python", "bench.py"]) == 2
    assert "already exists" in capsys.readouterr().err


def refused(project, capsys, *words):
    out = project.parent / "out"
    code = main(["ab", "-o", str(out), *words])
    assert not out.exists(), "nothing is written"
    return code, capsys.readouterr().err


@pytest.mark.long
def test_a_commit_that_names_no_source_roots_yet_takes_the_checkouts(project, capsys):
    (project / "pyproject.toml").unlink()
    git(project, "commit", "-qam", "no words on source roots")
    (project / "source" / "lib.py").write_text("COST = 1.5\n")
    (project / "pyproject.toml").write_text('[tool.chipmark.ab]\nsource_roots = ["source"]\n')
    git(project, "add", "."), git(project, "commit", "-qm", "named, and slower")
    assert main(["ab", "--base", "HEAD~1", "--head", "HEAD", "--", "python", "bench.py"]) == 1
    assert "regressed" in capsys.readouterr().out


def test_commits_that_differ_in_nothing_imported_are_the_same_code(project, capsys):
    code, said = refused(project, capsys, "--base", "HEAD~1", "--head", "HEAD", "--",
                         "python", "bench.py")  # fmt: skip
    assert code == 2
    assert "both arms ran the same code" in said


@pytest.mark.long
def test_commits_that_differ_in_the_script_alone_are_not(project, capsys):
    (project / "bench.py").write_text(BENCH.replace("lib.COST", "2 * lib.COST"))
    git(project, "commit", "-qam", "twice")
    assert main(["ab", "--base", "HEAD~1", "--", "python", "bench.py"]) == 1
    assert "1 regressed of 1" in capsys.readouterr().out


def test_scripts_of_the_checkouts_own_environment_are_not_the_projects_code(project):
    from chipmark.ab.modules import Places, imported

    reports = project.parent / "reports"
    reports.mkdir()
    script, own = project / ".venv" / "bin" / "pytest", project / "bench.py"
    script.parent.mkdir(parents=True)
    script.write_text("import pytest\n")
    (project / ".venv" / "pyvenv.cfg").write_text("home = /usr\n")
    lines = [json.dumps(["__main__", str(path)]) for path in (script, own)]
    (reports / "modules-1.jsonl").write_text("\n".join(lines) + "\n")
    found = imported(reports, Places(project.parent / "worktree", project))
    assert [m.path for m in found.values()] == [str(own)]


def test_an_editable_install_of_the_checkout_is_seen(project, capsys):
    # What an editable install does: the checkout's folder is on the path of every process.
    trap = f"import sys; sys.path.insert(0, {str(project / 'source')!r})\n"
    (project / "bench.py").write_text(trap + BENCH)
    git(project, "commit", "-qam", "trap")
    (project / "bench.py").write_text(trap + BENCH + "# changed\n")
    git(project, "commit", "-qam", "trap, changed")
    code, said = refused(project, capsys, "--base", "HEAD~1", "--head", "HEAD", "--",
                         "python", "bench.py")  # fmt: skip
    assert code == 2
    assert "code that is not its own" in said
    assert "source/lib.py" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--base", "nowhere", "--", "python", "bench.py"], "'nowhere' is not a commit"),
        (["--base", "HEAD", "--head", "HEAD", "--", "python", "bench.py"], "are one commit"),
        (["--base", "HEAD~2", "--", "no-such-program"], "there is no program 'no-such-program'"),
        (["--a", "python bench.py", "--b", "python bench.py"], "both arms are the same command"),
        (["--", "python", "bench.py"], "nothing says what to compare"),
        (["--base", "HEAD~2", "--metric", "speed", "--", "chipmark", "run", "quick"], "'speed'"),
        (["--a", "python -c 1", "--b", "python -c raise"], "arm B, warm-up"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(project, capsys, words, said):
    code, err = refused(project, capsys, *words)
    assert code == 2
    assert said in err


def test_a_sample_that_is_no_number_costs_its_benchmark(project, capsys):
    (project / "source" / "lib.py").write_text("COST = float('nan')\n")
    code = main(["ab", "--base", "HEAD~2", "--format", "json", "--", "python", "bench.py"])
    assert code == 3
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["verdict"] == "unfit"
    assert "arm B, session 1, round 1: has a sample of nan" in row["reasons"][0]


def test_source_roots_are_checked(tmp_path):
    file = tmp_path / "pyproject.toml"
    for value, said in (
        ('"src"', "not a list"),
        ('["none"]', "no folder"),
        ('[".."]', "leads out"),
    ):
        file.write_text(f"[tool.chipmark.ab]\nsource_roots = {value}\n")
        with pytest.raises(BadInputError, match=said):
            source_roots(tmp_path)
    file.unlink()
    assert source_roots(tmp_path) == (tmp_path,)

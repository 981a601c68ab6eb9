"""From what a user asked for to two arms: commits, commands, configurations, backends, or A/A."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from chipmark.ab.arms import Arm, Kind, check_differ
from chipmark.ab.worktrees import Checkout, checkout, resolve, worktrees
from chipmark.errors import UsageError


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asked for; empty is not asked. command: after `--`, of both arms."""

    command: tuple[str, ...] = ()
    base: str = ""
    head: str = ""
    a: str = ""
    b: str = ""
    a_env: tuple[str, ...] = ()
    b_env: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    a_python: str = ""
    b_python: str = ""
    same: bool = False
    cwd: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """Two arms. project: the user's checkout. says: what a user should know, in sentences."""

    kind: Kind
    a: Arm
    b: Arm
    project: Path
    says: tuple[str, ...] = ()


def kind_of(request: Request) -> Kind:
    """Which kind of arms is asked for; UsageError for none, for two at once, or for half of one."""
    asked: list[Kind] = []
    if request.same:
        asked.append("same")
    if request.base or request.head:
        asked.append("commits")
    if request.a or request.b:
        asked.append("commands")
    if request.backends:
        asked.append("backends")
    if request.a_env or request.b_env or request.a_python or request.b_python:
        asked.append("configurations")
    if len(asked) != 1:
        raise UsageError(
            f"arms of {' and of '.join(asked)}" if asked else "nothing says what to compare",
            "one of: --base REV [--head REV], --a CMD --b CMD, -b BACKEND -b BACKEND, "
            "--a-env N=V --b-env N=V",
        )
    kind = asked[0]
    if kind == "commits" and not request.base:
        raise UsageError("--head without --base", "name what to compare with: --base REV")
    if kind == "commands" and not (request.a and request.b):
        raise UsageError("one of --a and --b is missing", "an A/A run is `chipmark aa`")
    if kind == "commands" and request.command:
        raise UsageError("a command after -- together with --a and --b", "leave one of them out")
    if kind == "backends" and len(request.backends) != 2:
        raise UsageError(f"{len(request.backends)} backends", "give two: -b torch:cpu -b ort:cpu")
    if kind != "commands" and not request.command:
        raise UsageError("no command to run", "give it after --, as -- pytest tests/bench -q")
    return kind


@contextmanager
def planned(request: Request, scratch: Path) -> Iterator[ArmPlan]:
    """The arms, with worktrees for commits below `scratch` that are gone afterwards."""
    kind = kind_of(request)
    found = checkout(request.cwd)
    if kind == "commits":
        with _commits(request, found, scratch) as plan:
            yield plan
        return
    tree = found.root if found else request.cwd
    revision = _revision(found)
    base = Arm("A", "", tree, request.cwd, request.command, _python(""), {}, revision)
    says: list[str] = []
    if kind == "commands":
        a = replace(base, argv=_split(request.a), title=request.a)
        b = replace(base, name="B", argv=_split(request.b), title=request.b)
    elif kind == "backends":
        one, two = request.backends
        a = replace(base, argv=(*base.argv, "-b", one), title=one)
        b = replace(base, name="B", argv=(*base.argv, "-b", two), title=two)
    elif kind == "configurations":
        a = replace(base, env=_variables(request.a_env), python=_python(request.a_python))
        b = replace(base, env=_variables(request.b_env), python=_python(request.b_python))
        a = replace(a, title=_configuration(a, request.a_env))
        b = replace(b, name="B", title=_configuration(b, request.b_env))
    else:
        title = shlex.join(request.command)
        a, b = replace(base, title=title), replace(base, name="B", title=title)
    check_differ(kind, a, b)
    if kind == "backends":
        says.append(
            "backends are paired by workload, scale, scenario and N; parity is in their records"
        )
    if kind != "same":
        says.append(f"both arms share the code of {tree} ({revision or 'no git'})")
    yield ArmPlan(kind, a, b, tree, tuple(says))


@contextmanager
def _commits(request: Request, found: Checkout | None, scratch: Path) -> Iterator[ArmPlan]:
    if found is None:
        raise UsageError(f"{request.cwd} is in no git checkout", "commits are compared in one")
    inside = request.cwd.resolve().relative_to(found.root.resolve())
    says = []
    commits = [(resolve(found.root, request.base), scratch / "tree-A")]
    if request.head:
        commits.append((resolve(found.root, request.head), scratch / "tree-B"))
        if found.dirty:
            says.append(
                f"{len(found.dirty)} changed or new files of the checkout are not measured: "
                f"the arms are the commits {request.base} and {request.head}"
            )
    elif found.dirty:
        says.append(
            f"arm B is the checkout as it stands, with {len(found.dirty)} changed or new files: "
            f"{', '.join(found.dirty[:5])}"
        )
    if request.head and commits[0][0] == commits[1][0]:
        raise UsageError(
            f"{request.base} and {request.head} are one commit",
            "an A/A run, which measures the machine alone, is `chipmark aa`",
        )
    with worktrees(found.root, commits):
        arms = []
        for index, (commit, folder) in enumerate(commits):
            cwd = folder / inside
            if not cwd.is_dir():
                raise UsageError(f"{inside} is not there in {commit[:12]}")
            title = f"{(request.base, request.head)[index]} ({commit[:12]})"
            name = "B" if index else "A"
            arms.append(
                Arm(name, title, folder, cwd, request.command, _python(""), {}, commit, found.root)  # type: ignore[arg-type]
            )
        if not request.head:
            title = f"the checkout ({_revision(found)[:18]})"
            arms.append(
                Arm("B", title, found.root, request.cwd, request.command, _python(""), {},
                    _revision(found))
            )  # fmt: skip
        yield ArmPlan("commits", arms[0], arms[1], found.root, tuple(says))


def _revision(found: Checkout | None) -> str:
    if found is None:
        return ""
    return found.commit + ("+dirty" if found.dirty else "")


def _python(path: str) -> Path:
    """An interpreter by its path, links kept: a virtual environment is where the link is."""
    if not path:
        return Path(sys.executable)
    found = Path(path).expanduser()
    found = found if found.is_absolute() else Path.cwd() / found
    if not found.is_file() or not os.access(found, os.X_OK):
        raise UsageError(f"{path}: there is no such interpreter")
    return found


def _split(command: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(f"{command!r} is not a command line: {error}") from error
    if not words:
        raise UsageError("an empty command")
    return words


def _variables(settings: Sequence[str]) -> dict[str, str]:
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"{setting!r} is not NAME=VALUE", "as --b-env OMP_NUM_THREADS=1")
        found[name] = value
    return found


def _configuration(arm: Arm, settings: Sequence[str]) -> str:
    return " ".join(settings) or (str(arm.python) if arm.python != _python("") else "as it is")

"""Commits as folders: git worktrees made for a run and removed after it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chipmark.errors import UsageError
from chipmark.processes import undisturbed
from chipmark.supervised import end_tree, marked, new_mark, supervised


@dataclass(frozen=True, slots=True)
class Checkout:
    """A git checkout. commit: HEAD's. dirty: tracked files that were changed, and new ones."""

    root: Path
    commit: str
    dirty: tuple[str, ...]


def checkout(folder: Path) -> Checkout | None:
    """The checkout that holds `folder`; None outside git. UsageError where git is not installed."""
    root = _git(folder, "rev-parse", "--show-toplevel", check=False)
    if not root:
        return None
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False)
    changed = _git(folder, "status", "--porcelain", "--untracked-files=normal").splitlines()
    return Checkout(Path(root), commit, tuple(line[3:] for line in changed))


def resolve(root: Path, revision: str) -> str:
    """The full commit of a revision; UsageError for an unknown one."""
    commit = _git(
        root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}",
        check=False,
    )  # fmt: skip
    if not commit:
        raise UsageError(
            f"{revision!r} is not a commit of {root}",
            "a branch, a tag or HEAD~1; a shallow clone has few: git fetch --unshallow",
        )
    return commit


@contextmanager
def worktrees(root: Path, commits: Sequence[tuple[str, Path]]) -> Iterator[None]:
    """Detached worktrees of (commit, folder), gone afterwards, whatever happens."""
    try:
        for commit, folder in commits:
            _git(root, "worktree", "add", "--detach", "--force", str(folder), commit)
        yield
    finally:
        with undisturbed():
            for _, folder in commits:
                _remove(root, folder)
            _git(root, "worktree", "prune", check=False)


def _remove(root: Path, folder: Path) -> None:
    """Remove a worktree, also a half-made one: a git that is killed while it makes one leaves it
    locked, without what `remove` asks for, and `prune` passes locked ones by."""
    _git(root, "worktree", "remove", "--force", "--force", str(folder), check=False)
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    _git(root, "worktree", "unlock", str(folder), check=False)


def _git(folder: Path, *arguments: str, check: bool = True) -> str:
    # core.hooksPath: a project's post-checkout hook has no business in a measurement.
    command = ["git", "-c", "core.hooksPath=/dev/null", "-C", str(folder), *arguments]
    if shutil.which("git") is None:
        raise UsageError("git is not installed, and commits are compared with it")
    mark = new_mark()
    with subprocess.Popen(
        [*supervised(), *command],
        env=marked(os.environ, mark),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            with undisturbed():
                end_tree(process, mark)
            raise
    if check and process.returncode:
        raise UsageError(
            f"git {arguments[0]} failed: {err.strip() or process.returncode}", f"in {folder}"
        )
    return out.strip("\n") if process.returncode == 0 else ""

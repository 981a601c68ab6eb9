"""Put on PYTHONPATH by `chipmark ab`: reports which modules a Python process imported from where.

Imported by `site` in every Python process that inherits the arm's environment, a benchmark's
own children too. A line is written when a module is found, so that a process that is killed has
told by then; at exit those are added that came by another way (pytest's rewritten tests, the
main program). Nothing runs between imports: what is timed does not see it. Standard library
only, and nothing newer than the oldest Python that an arm may use.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from typing import Any

_FOLDER = os.environ.get("CHIPMARK_AB_MODULES", "")
_OWN = os.path.dirname(os.path.abspath(__file__))


def _without_own(path: list[str]) -> list[str]:
    return [p for p in path if os.path.abspath(p or ".") != _OWN]


class _Recorder:
    """A finder in front of the others: asks them, and writes down what they found."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen: dict[str, str] = {}
        self._cwd = os.getcwd()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """What the other finders find."""
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec = find(name, path, target)
            if spec is not None:
                if getattr(spec, "has_location", False):
                    self.tell(name, spec.origin)
                return spec
        return None

    def tell(self, name: str, file: str | None) -> None:
        """Append a module's name and file to this process's report."""
        if not file or self._seen.get(name) == file:
            return
        self._seen[name] = file
        # One write to a file of this process: forks share no descriptor.
        line = json.dumps([name, os.path.abspath(file)]) + "\n"
        target = os.path.join(self._folder, f"modules-{os.getpid()}.jsonl")
        try:
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError:
            return  # the run is over and its folder removed: there is no reader left
        try:
            os.write(handle, line.encode("utf-8", "surrogateescape"))
        finally:
            os.close(handle)

    def tell_all(self) -> None:
        """Whatever is imported by now."""
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str):
                self.tell(name, file)
        # Python takes `__file__` from the main program when it has ended; its loader stays.
        main = getattr(getattr(sys.modules.get("__main__"), "__loader__", None), "path", None)
        if isinstance(main, str):
            self.tell("__main__", os.path.join(self._cwd, main))


def _chain() -> None:
    """Run the sitecustomize that this one hides."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    spec = PathFinder.find_spec("sitecustomize", _without_own(sys.path))
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _load_outcomes() -> None:
    """Have a pytest of this process or its children load `chipmark_ab_outcomes`, which is
    importable wherever this file is."""
    named = [n for n in os.environ.get("PYTEST_PLUGINS", "").split(",") if n]
    if "chipmark_ab_outcomes" not in named:
        os.environ["PYTEST_PLUGINS"] = ",".join([*named, "chipmark_ab_outcomes"])


if os.environ.get("CHIPMARK_AB_OUTCOMES"):
    _load_outcomes()
if _FOLDER:
    _recorder = _Recorder(_FOLDER)
    sys.meta_path.insert(0, _recorder)
    atexit.register(_recorder.tell_all)
_chain()

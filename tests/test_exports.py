"""The front door: what `import chipmark` loads, and which names it has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import chipmark

ROOT = Path(__file__).parent.parent
DOCUMENTED = sorted(
    set(
        re.findall(
            r"`(\w+)(?:\(.*?\))?`",
            "".join(
                line.split("|")[1]
                for line in (ROOT / "docs/api.md").read_text().splitlines()
                if line.startswith("| `")
            ),
        )
    )
)
"""The first column of the table of names in docs/api.md."""


def fresh(code: str) -> list[str]:
    """The JSON list that a fresh interpreter prints."""
    command = [sys.executable, "-c", f"import json, sys\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout)
    return names


def test_importing_it_loads_nothing_else():
    code = "before = set(sys.modules)\nimport chipmark\n"
    assert fresh(code + "print(json.dumps(sorted(set(sys.modules) - before)))") == ["chipmark"]


def test_errors_alone_load_nothing_heavy():
    code = "import chipmark\nchipmark.ChipmarkError\nprint(json.dumps(list(sys.modules)))"
    loaded = fresh(code)
    assert "chipmark.errors" in loaded
    assert not {"pydantic", "numpy", "pandas", "chipmark.api"} & set(loaded)


def test_loading_records_needs_no_runner_and_no_runtime():
    code = "import chipmark\nchipmark.load\nprint(json.dumps(list(sys.modules)))"
    loaded = set(fresh(code))
    assert "chipmark.api.records" in loaded
    assert not {"chipmark.cell.suite_run", "pandas", "torch", "onnxruntime"} & loaded


def test_the_exported_names_are_those_documented():
    assert chipmark.__all__ == DOCUMENTED == sorted(DOCUMENTED)
    assert set(DOCUMENTED) <= set(dir(chipmark))
    for name in DOCUMENTED:
        assert getattr(chipmark, name).__doc__


def test_type_checkers_see_the_same_objects():
    """The imports for type checkers give what `__getattr__` gives."""
    source = (ROOT / "harness/chipmark/__init__.py").read_text()
    head, _, rest = source.partition("if TYPE_CHECKING:\n")
    assert rest
    seen: dict[str, object] = {"__name__": "seen_by_type_checkers"}
    exec(head + "if True:\n" + rest, seen)
    for name in set(DOCUMENTED) - {"__version__"}:
        assert seen[name] is getattr(chipmark, name)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        chipmark.runn  # noqa: B018


def test_every_error_of_the_tree_is_exported():
    from chipmark import errors

    drawn = {name for name in DOCUMENTED if name.endswith("Error")}
    assert drawn == {name for name in errors.__all__ if name.endswith("Error")}
    for name in drawn:
        kind = getattr(chipmark, name)
        assert issubclass(kind, chipmark.ChipmarkError)
        line = next(line for line in errors.__doc__.splitlines() if f"{name} " in line)
        assert line.split(name)[1].split()[0] == str(kind.exit_code)


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "chipmark", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"chipmark {chipmark.__version__}\n")


@pytest.mark.parametrize("package", ["harness/chipmark", "models/chipmark_models",
                                     "kernels/chipmark_kernels"])  # fmt: skip
def test_packages_say_that_they_are_typed(package: str):
    assert (ROOT / package / "py.typed").read_text() == ""

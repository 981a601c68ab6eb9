"""What `--ci` keeps between runs: the baseline, and how often in a row nothing was decided."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from chipmark.errors import BadInputError
from chipmark.gate.outputs.write import write_whole
from chipmark.results.store import whole_folder
from chipmark_models.files import whole_file

UNDECIDED_LIMIT = 5
"""Undecided runs in a row after which `--ci` fails: a gate that never decides guards nothing."""

_SCHEMA = "chipmark.gate-state/1"


def store_baseline(new: Path, base: Path) -> None:
    """Copy a run to where the baseline is looked for, whole or not at all.

    Raises UsageError where a folder already exists, CannotWriteError where it cannot be written.
    """
    if new.is_dir():
        with whole_folder(base.parent, base.name, "remove it to store another") as partial:
            shutil.copytree(new, partial, dirs_exist_ok=True)
    else:
        with whole_file(base) as partial:
            shutil.copyfile(new, partial)


def undecided_in_a_row(state: Path, *, undecided: bool) -> int:
    """Count this run into the state file, and return how many in a row were not decided.

    Raises BadInputError for a file that is not such a state.
    """
    before = 0
    if state.is_file():
        try:
            document = json.loads(state.read_text(encoding="utf-8"))
            if document["schema"] != _SCHEMA:
                raise ValueError(f"schema {document['schema']!r}")
            before = int(document["undecided_in_a_row"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInputError(
                state, f"not a state of the gate: {error}", hint="delete it to count anew"
            ) from error
    count = before + 1 if undecided else 0
    write_whole(state, json.dumps({"schema": _SCHEMA, "undecided_in_a_row": count}) + "\n")
    return count

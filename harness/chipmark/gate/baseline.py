"""What `--ci` keeps between runs: the baseline, and how often in a row nothing was decided."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from chipmark.foreign_model import parse_model
from chipmark.gate.outputs.write import write_whole
from chipmark.results.store import whole_folder
from chipmark_models.files import whole_file
from chipmark_models.foreign_file import SETTINGS_BYTES, read_text

UNDECIDED_LIMIT = 5
"""Undecided runs in a row after which `--ci` fails: a gate that never decides guards nothing."""

_SCHEMA: Literal["chipmark.gate-state/1"] = "chipmark.gate-state/1"
_ANEW = "delete it to count anew"


class _State(BaseModel):
    """The file that `--ci` counts in."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_: Literal["chipmark.gate-state/1"] = Field(alias="schema")
    undecided_in_a_row: int = Field(ge=0, lt=1 << 31)


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
    if os.path.lexists(state):
        text = read_text(state, SETTINGS_BYTES, hint=_ANEW)
        before = parse_model(_State, text, state, hint=_ANEW).undecided_in_a_row
    count = before + 1 if undecided else 0
    write_whole(state, json.dumps({"schema": _SCHEMA, "undecided_in_a_row": count}) + "\n")
    return count

"""Notes as stored: a member of NoteCode, or the code of another version."""

from __future__ import annotations

import json

from chipmark.codes import NoteCode
from chipmark.results.manifest import Note


def test_a_known_code_is_read_as_its_member_and_stored_as_its_value():
    note = Note.model_validate_json('{"code": "clock", "text": "t"}')
    assert note.code is NoteCode.CLOCK
    assert json.loads(note.model_dump_json()) == {"code": "clock", "text": "t"}
    assert json.dumps(note.model_dump()) == json.dumps({"code": "clock", "text": "t"})


def test_a_code_of_another_version_is_kept():
    note = Note.model_validate({"code": "of_tomorrow", "text": "t"})
    assert note.code == "of_tomorrow"
    assert not isinstance(note.code, NoteCode)

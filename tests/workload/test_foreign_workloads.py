"""Traces, profiles and transcripts that somebody else may have made."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from chipmark.errors import BadInputError
from chipmark.workload.profile_fields import read_document
from chipmark.workload.replay_files import MOST_LINE, read_requests
from chipmark.workload.transcript import read_transcript


def request(**changes: object) -> str:
    entry = {"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": [1]}
    return json.dumps(entry | changes) + "\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"timestamp": ' + "9" * 4000 + ', "input_length": 5}', "missing|milliseconds"),
        (request().replace("1,", "1e999999999,", 1), "invalid JSON|out of range"),
        (request(timestamp=2**60), "must be milliseconds"),
        (request(hash_ids=[[[]]]), "hash_ids"),
        ("[" * 100_000, "nested more than"),
        ('"' + "x" * (MOST_LINE + 1), "is longer than"),
    ],
)
def test_a_line_of_a_trace_that_cannot_be_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(request() + text)
    with pytest.raises(BadInputError, match=says) as caught:
        list(read_requests(path))
    assert caught.value.line == 2
    assert len(caught.value.message) <= 500


def test_a_packed_trace_unpacks_no_further_than_a_trace_packs(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(request().encode() + b"\n" * (5 << 20), 9))
    with pytest.raises(BadInputError, match="unpacks to over"):
        list(read_requests(path))


@pytest.mark.parametrize("number", ["1e999999999", "1e-999999999", "nan", "inf", "9" * 5000])
def test_a_number_of_a_profile_is_refused_before_it_is_computed(
    tmp_path: Path, number: str
) -> None:
    path = tmp_path / "p.toml"
    path.write_text(f"[mine]\nvalue = {number}\n")
    with pytest.raises(BadInputError, match="invalid TOML"):
        read_document(path)


def test_half_a_character_of_a_transcript_is_named(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "MARK"}]
    line = json.dumps({"messages": talk}).replace("MARK", "\\ud800")
    (tmp_path / "t.jsonl").write_text(line)
    with pytest.raises(BadInputError, match="half of a character"):
        read_transcript(tmp_path / "t.jsonl")

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from chipmark.errors import BadInputError, DoesNotFitError, UsageError
from chipmark.workload.replay import replay
from chipmark.workload.replay_files import read_requests
from chipmark.workload.scale import SCALES, Scale
from chipmark.workload.trace import Trace, load_trace, save_trace

VOCAB = 49152
FULL = SCALES["full"]
PUBLIC = Path(
    os.environ.get("CHIPMARK_TRACE_DIR", Path(__file__).parents[2].parent / "shared" / "data")
)
MOONCAKE = PUBLIC / "mooncake_conversation_trace.jsonl.gz"
AZURE = PUBLIC / "AzureLLMInferenceTrace_code_2023.csv"
GOLDEN = "60e0f24dfd034e1803fa0178e8d06ea81347f4e54c8d9cc042d2fc5dd805f466"


def request(at: int, length: int, out: int, *hash_ids: int) -> dict[str, object]:
    return {
        "timestamp": at,
        "input_length": length,
        "output_length": out,
        "hash_ids": list(hash_ids),
    }


def mooncake(tmp_path: Path, *requests: dict[str, object]) -> Path:
    path = tmp_path / "moon.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in requests))
    return path


def azure(
    tmp_path: Path, *rows: str, head: str = "TIMESTAMP,ContextTokens,GeneratedTokens"
) -> Path:
    path = tmp_path / "azure.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def prompts(trace: Trace) -> list[np.ndarray]:
    return [s.prompt(s.turns[0]) for s in trace.sessions]


def test_equal_blocks_are_equal_ids_and_other_blocks_are_not(tmp_path: Path) -> None:
    path = mooncake(
        tmp_path,
        request(0, 1024, 5, 0, 1),
        request(10, 1500, 7, 0, 2, 3),
        request(10, 600, 1, 0, 1),
    )
    trace = replay(path, FULL, 0, VOCAB)
    a, b, c = prompts(trace)
    assert np.array_equal(a[:512], b[:512])
    assert a[512] != b[512]
    assert np.array_equal(a[:600], c)
    assert [s.turns[0].n_out for s in trace.sessions] == [5, 7, 1]


def test_leading_blocks_seen_before_are_cached_and_one_token_is_always_new(tmp_path: Path) -> None:
    path = mooncake(
        tmp_path,
        request(0, 1100, 1, 0, 1, 2),
        request(0, 1024, 1, 0, 1),  # wholly known: one token is run all the same
        request(0, 1300, 1, 0, 1, 2),  # 76 tokens of block 2 are known
        request(0, 1300, 1, 9, 1, 2),  # known blocks behind an unknown one are no prefix
    )
    turns = [s.turns[0] for s in replay(path, FULL, 0, VOCAB).sessions]
    assert [t.n_cached for t in turns] == [0, 1023, 1100, 0]
    assert [t.n_new for t in turns] == [1100, 1, 200, 1300]


@pytest.mark.parametrize("context", ["1/16", "1/3", "1/5", "1"])
def test_scaled_hits_are_what_the_ids_share(tmp_path: Path, context: str) -> None:
    rng = np.random.Generator(np.random.PCG64(4))
    requests = [
        request(0, int(n), 3, *(int(v) for v in rng.integers(0, 2, -(-int(n) // 512))))
        for n in rng.integers(1, 3000, 40)
    ]
    trace = replay(mooncake(tmp_path, *requests), Scale(context, "1", "0"), 0, VOCAB)
    seen: list[np.ndarray] = []
    for session, turn in trace.walk():
        prompt = session.prompt(turn)
        held = 0
        for other in seen:
            size = min(prompt.size, other.size)
            different = np.flatnonzero(prompt[:size] != other[:size])
            held = max(held, int(different[0]) if different.size else size)
        assert turn.n_cached == min(held, prompt.size - 1)
        seen.append(np.concatenate([prompt, session.output(turn)]))


def test_arrivals_count_from_the_first_request_and_are_scaled(tmp_path: Path) -> None:
    path = mooncake(tmp_path, request(500, 10, 1, 0), request(2500, 10, 1, 1))
    for tool_time, expected in (("1", [0.0, 2.0]), ("1/10", [0.0, 0.2]), ("0", [0.0, 0.0])):
        trace = replay(path, Scale("1", "1", tool_time), 0, VOCAB)
        assert [s.arrival_s for s in trace.sessions] == expected
    assert trace.loop == "open"
    assert trace.name == "replay:moon"


def test_azure_rows_share_nothing(tmp_path: Path) -> None:
    path = azure(
        tmp_path, "2023-11-16 18:17:03.9799600,4808,10", "2023-11-16 18:17:04.9799600,3180,8"
    )
    trace = replay(path, FULL, 0, VOCAB)
    assert trace.prefix_hit_ideal == 0.0
    assert [s.arrival_s for s in trace.sessions] == [0.0, 1.0]
    assert [s.turns[0].prompt_tokens for s in trace.sessions] == [4808, 3180]
    assert len({s.group for s in trace.sessions}) == 2


def test_a_replay_is_the_same_bits_everywhere_and_survives_its_file(tmp_path: Path) -> None:
    path = mooncake(tmp_path, request(0, 1100, 4, 0, 1, 2), request(7, 700, 2, 0, 5))
    trace = replay(path, Scale("1/16", "1/16", "1"), 0, VOCAB)
    assert trace.hash == GOLDEN
    save_trace(trace, tmp_path / "t.npz")
    assert load_trace(tmp_path / "t.npz").hash == GOLDEN


def test_compressed_files_and_a_first_part_are_read(tmp_path: Path) -> None:
    plain = mooncake(tmp_path, *(request(i, 100 + i, 1, i) for i in range(9)))
    packed = tmp_path / "moon.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert replay(packed, FULL, 0, VOCAB).hash == replay(plain, FULL, 0, VOCAB).hash
    assert len(replay(packed, FULL, 0, VOCAB, n_requests=4).sessions) == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input_length": -5}, r"moon\.jsonl:2: field 'input_length': must be a whole number"),
        ({"output_length": 0}, r"moon\.jsonl:2: field 'output_length': must be a whole number"),
        ({"output_length": 1.5}, r":2: field 'output_length': must be"),
        ({"output_length": True}, r":2: field 'output_length': must be"),
        ({"timestamp": -1}, r":2: field 'timestamp': must be milliseconds"),
        ({"timestamp": 10}, r":2: field 'timestamp': decreases by 0\.09 s"),
        ({"hash_ids": [1]}, r":2: field 'hash_ids': has 1 ids, but 600 tokens are 2 blocks of 512"),
        ({"hash_ids": [1, -2]}, r":2: field 'hash_ids': must be a list of whole numbers"),
        ({"hash_ids": None}, r":2: field 'hash_ids': must be a list"),
    ],
)
def test_a_bad_request_names_file_line_and_field(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    good = request(100, 600, 3, 0, 1)
    with pytest.raises(BadInputError, match=says):
        list(read_requests(mooncake(tmp_path, good, good | changes)))


def test_a_file_of_other_blocks_is_replayed_at_the_size_that_is_given(tmp_path: Path) -> None:
    path = mooncake(
        tmp_path,
        request(0, 200, 5, 1, 2, 3, 4),
        request(5, 130, 5, 1, 2, 9),
        request(9, 200, 5, 1, 2, 3, 4),
    )
    trace = replay(path, FULL, 0, VOCAB, block_tokens=64)
    assert [s.turns[0].n_cached for s in trace.sessions] == [0, 128, 199]
    first, second, third = prompts(trace)
    np.testing.assert_array_equal(first[:128], second[:128])
    assert first[128] != second[128]
    np.testing.assert_array_equal(first, third)
    assert trace.name == "replay:moon@64"
    scaled = replay(path, Scale("1/4", "1", "0"), 0, VOCAB, block_tokens=64)
    assert [s.turns[0].n_cached for s in scaled.sessions] == [0, 32, 49]


def test_a_wrong_block_size_is_refused_with_those_that_fit(tmp_path: Path) -> None:
    path = mooncake(tmp_path, request(0, 200, 5, 1, 2, 3, 4))
    says = r"moon\.jsonl:1: field 'hash_ids': has 4 ids, but 200 tokens are 1 blocks of 512\n.*"
    with pytest.raises(BadInputError, match=says + r"--block-tokens 64 \(of 50 to 66 that fit\)"):
        replay(path, FULL, 0, VOCAB)
    with pytest.raises(BadInputError, match="has 4 ids, but 200 tokens are 2 blocks of 128"):
        replay(path, FULL, 0, VOCAB, block_tokens=128)
    none = mooncake(tmp_path, request(0, 3, 5, 1, 2, 3, 4))
    with pytest.raises(BadInputError, match="no size fits this line"):
        replay(none, FULL, 0, VOCAB)


def test_a_file_without_blocks_has_no_block_size(tmp_path: Path) -> None:
    path = azure(tmp_path, "2023-11-16 18:17:03,5,5")
    with pytest.raises(BadInputError, match=r"azure\.csv: is an Azure file: it has no blocks"):
        replay(path, FULL, 0, VOCAB, block_tokens=64)
    with pytest.raises(UsageError, match="blocks of 0 tokens"):
        replay(path, FULL, 0, VOCAB, block_tokens=0)


def test_a_missing_field_names_the_nearest(tmp_path: Path) -> None:
    entry = request(0, 600, 3, 0, 1)
    entry["input_len"] = entry.pop("input_length")
    with pytest.raises(
        BadInputError, match=r":1: field 'input_length': is missing; there is input_len"
    ):
        list(read_requests(mooncake(tmp_path, entry)))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("2023-11-16 18:17:05,-7,8", r"azure\.csv:3: field 'ContextTokens': must be"),
        ("2023-11-16 18:17:05,7,", r"azure\.csv:3: field 'GeneratedTokens': must be"),
        ("2023-11-16 18:17:05,7", r"azure\.csv:3: field 'GeneratedTokens': must be"),
        ("2023-11-16 18:17:01,7,8", r"azure\.csv:3: field 'TIMESTAMP': decreases by 2 s"),
        ("yesterday,7,8", r"azure\.csv:3: field 'TIMESTAMP': 'yesterday' is not a time"),
        ("2023-11-16 18:17:05+00:00,7,8", r"azure\.csv:3: field 'TIMESTAMP': mixes times"),
    ],
)
def test_a_bad_row_names_file_line_and_column(tmp_path: Path, row: str, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        list(read_requests(azure(tmp_path, "2023-11-16 18:17:03,5,5", row)))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = azure(tmp_path, "2023-11-16 18:17:03,5,5", head="TIMESTAMP,ContextToken,GeneratedTokens")
    with pytest.raises(
        BadInputError, match=r":1: field 'ContextTokens': is missing; there is ContextTok"
    ):
        list(read_requests(path))


def test_files_that_are_no_traces_are_refused(tmp_path: Path) -> None:
    for name, content, says in (
        ("trace.txt", b"", "is neither .jsonl"),
        ("trace.jsonl", b"{", ":1: truncated or invalid JSON"),
        ("trace.jsonl", b"\xff\n", "is not UTF-8"),
        ("cut.jsonl.gz", gzip.compress(b"{}" * 999)[:-9], "cannot be read to its end"),
        ("fake.csv.gz", b"TIMESTAMP", "cannot be read to its end"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInputError, match=says):
            list(read_requests(tmp_path / name))
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(BadInputError, match="holds no request"):
        replay(tmp_path / "empty.jsonl", FULL, 0, VOCAB)
    with pytest.raises(BadInputError, match="no such file"):
        list(read_requests(tmp_path / "absent.csv"))


def test_a_request_that_does_not_fit_names_its_line_and_the_scale_that_fits(tmp_path: Path) -> None:
    path = mooncake(tmp_path, request(0, 10, 1, 0), request(0, 1000, 24, 0, 1))
    with pytest.raises(DoesNotFitError, match=r"moon\.jsonl:2: .* 1024 tokens") as caught:
        replay(path, FULL, 0, VOCAB, max_context=512)
    assert "1/2 fit" in caught.value.hint


@pytest.mark.skipif(not MOONCAKE.is_file(), reason="the public trace is not here")
def test_the_public_mooncake_trace_has_its_known_shape() -> None:
    trace = replay(MOONCAKE, SCALES["quick"], 0, VOCAB, n_requests=600)
    lengths = sorted(r.input_tokens for r in read_requests(MOONCAKE))
    assert len(lengths) == 12031
    assert lengths[len(lengths) // 2] == pytest.approx(6909, abs=2)
    assert 0.1 < trace.prefix_hit_ideal < 0.5
    assert len({s.group for s in trace.sessions}) == 1


@pytest.mark.skipif(not AZURE.is_file(), reason="the public trace is not here")
def test_the_public_azure_trace_has_its_known_shape() -> None:
    requests = list(read_requests(AZURE))
    assert len(requests) == 8819
    lengths = sorted(r.input_tokens for r in requests)
    assert lengths[len(lengths) // 2] == pytest.approx(1469, abs=2)
    assert replay(AZURE, SCALES["quick"], 0, VOCAB, n_requests=50).totals.sessions == 50

"""Readers of workloads: profiles, published traces, transcripts, and files of the user's own."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

from chipmark.chips.catalogue import catalogue
from chipmark.workload.generate import generate
from chipmark.workload.profile import load_profiles
from chipmark.workload.replay import replay
from chipmark.workload.scale import Scale
from chipmark.workload.transcript_trace import transcript_trace
from hostile.trial import Subject

_DATA = Path(__file__).parent.parent / "data"
VOCABULARY = 49_152


def profile_text() -> str:
    """The first profile of the package under another name."""
    import chipmark.workload.profile as module

    text = module.BUILT_IN.read_text(encoding="utf-8")
    name = next(iter(load_profiles()))
    parts = text.split("\n[")
    kept = [part for part in parts if part.lstrip("[").startswith((name, f'"{name}"'))]
    return "[" + "\n[".join(kept).lstrip("[").replace(name, "mine")


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    """A maker of a good file with this content."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def use_profile(path: Path) -> None:
    """A few sessions at the quick scale."""
    for name, profile in load_profiles(path).items():
        if name == "mine":
            generate(profile, Scale("1/16", "1/16", "0"), 7, 2, VOCABULARY)


def mooncake() -> bytes:
    """Requests that share their first blocks."""
    lines = [
        {
            "timestamp": 100 * i + 0.5, "input_length": 1100 + i, "output_length": 5,
            "hash_ids": [1, 2, 10 + i],
        }
        for i in range(6)
    ]  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


AZURE = b"TIMESTAMP,ContextTokens,GeneratedTokens\n" + b"".join(
    f"2023-11-16 18:17:{3 + i:02}.9799600,{480 + i},{10 + i}\n".encode() for i in range(6)
)


def use_trace(path: Path) -> None:
    """The requests as a workload."""
    replay(path, Scale("1/4", "1/4", "0"), 7, VOCABULARY, max_context=4096)


def use_transcript(path: Path) -> None:
    """The conversations as a workload, letters for tokens."""

    def encode(text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def render(messages, tools, add_generation_prompt):  # type: ignore[no-untyped-def]
        text = json.dumps(tools) if tools else ""
        for message in messages:
            text += f"<{message['role']}>{message.get('content') or ''}"
            text += json.dumps(message.get("tool_calls") or "", ensure_ascii=False)
        return text + ("<assistant>" if add_generation_prompt else "")

    transcript_trace(path, encode, render, 256, max_context=1 << 20)


def use_chips(path: Path) -> None:
    """The catalogue with the user's chips."""
    before = os.environ.get("CHIPMARK_CONFIG")
    os.environ["CHIPMARK_CONFIG"] = str(path.parent)
    try:
        catalogue()
    finally:
        if before is not None:
            os.environ["CHIPMARK_CONFIG"] = before


def transcripts() -> bytes:
    """The first conversation of the tests' data."""
    return (_DATA / "agent_transcript.jsonl").read_bytes().splitlines()[0] + b"\n"


_REPLAY = ("workload/replay_files.py", "workload/replay.py")
SUBJECTS = [
    Subject(
        "profile", "toml", written("own.toml", profile_text().encode()), use_profile,
        ("workload/profile_fields.py", "workload/profile.py"), share=6.0,
    ),
    Subject(
        "mooncake trace", "jsonl", written("t.jsonl", mooncake()), use_trace, _REPLAY, share=6.0
    ),
    Subject("azure trace", "csv", written("t.csv", AZURE), use_trace, _REPLAY, share=10.0),
    Subject(
        "packed trace", "gzip", written("t.csv.gz", gzip.compress(AZURE)), use_trace, _REPLAY,
        share=4.0,
    ),
    Subject(
        "transcript", "jsonl", written("talk.jsonl", transcripts()), use_transcript,
        ("workload/transcript.py", "workload/message_forms.py"), share=2.0,
    ),
    Subject(
        "chips.toml", "toml",
        written("chips.toml", (_DATA / "own_chips.toml").read_bytes()), use_chips,
        ("chips/catalogue.py", "user_files.py"), share=1.0,
    ),
]  # fmt: skip

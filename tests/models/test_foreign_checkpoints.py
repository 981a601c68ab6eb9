"""Checkpoints that somebody else may have made: refused by an error of ours, whatever they say."""

from __future__ import annotations

import datetime
import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chipmark_models.chat_template import render_template
from chipmark_models.config import ModelConfig
from chipmark_models.errors import BadInputError
from chipmark_models.model_folder import read_json_object
from chipmark_models.presets import preset
from chipmark_models.weights.gguf_reader import open_gguf
from chipmark_models.weights.safetensors_file import SafetensorsFile


def safetensors(path: Path, **entry: Any) -> Path:
    """A file of one tensor of 16 bytes, whose header entry is changed."""
    header = {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | entry}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    return path


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"dtype": ["F32"]}, "has type"),
        ({"dtype": {"a": 1}}, "has type"),
        ({"shape": [1] * 100}, "100 dimensions"),
        ({"shape": [2**70, 0]}, "non-integer size"),
        ({"shape": [-2, -2]}, "negative"),
        ({"shape": "22"}, "size"),
        ({"data_offsets": [0]}, "bad header entry"),
        ({"data_offsets": [0, 2**63]}, "size|spans"),
    ],
)
def test_a_header_entry_that_cannot_be_is_named(
    tmp_path: Path, entry: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInputError, match=says) as caught:
        SafetensorsFile(safetensors(tmp_path / "a.safetensors", **entry))
    assert "field 'x'" in caught.value.message


@pytest.mark.parametrize(
    "text", [b"[" * 50_000, b'{"x": ' * 50_000, b'{"x": NaN}', b'{"x": 1, "x": 2}', b"\xff{}"]
)
def test_a_header_that_is_deep_or_no_json_is_named(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(BadInputError) as caught:
        SafetensorsFile(path)
    assert len(caught.value.message) <= 500


def test_a_length_that_the_file_has_not_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length in (2**63, 2**40, 10**7):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(BadInputError, match=r"length is wrong|cut short"):
            SafetensorsFile(path)


def test_links_of_hugging_faces_cache_are_followed_and_others_are_not(tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "models--owner--name"
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "blobs" / "1234").write_text('{"a": 1}')
    (snapshot / "config.json").symlink_to("../../blobs/1234")
    assert read_json_object(snapshot / "config.json") == {"a": 1}
    (tmp_path / "elsewhere.json").write_text("{}")
    (snapshot / "other.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BadInputError, match="leads out of its folder"):
        read_json_object(snapshot / "other.json")
    os.mkfifo(snapshot / "pipe.json")
    with pytest.raises(BadInputError, match="is a pipe"):
        read_json_object(snapshot / "pipe.json")


SHAPE = preset("tiny").to_dict()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eos_ids", ["x"]),
        ("eos_ids", 7),
        ("eos_ids", [2**40]),
        ("bos_id", "1"),
        ("family", ["llama"]),
        ("name", 3),
        ("hidden_size", 10**12),
        ("head_dim", True),
        ("n_layers", 1.5),
        ("rms_eps", "small"),
        ("rms_eps", float("nan")),
        ("rope_theta", float("inf")),
        ("tied_embeddings", 1),
        ("sliding_window", "all"),
        ("rope_scaling", {"kind": "llama3"}),
        ("rope_scaling", {**dict.fromkeys(("low_freq_factor", "factor"), 1), "kind": "yarn"}),
        ("rope_scaling", 3),
    ],
)
def test_a_field_of_a_shape_that_cannot_be_is_refused(field: str, value: object) -> None:
    with pytest.raises(BadInputError):
        ModelConfig.from_dict(SHAPE | {field: value})


def test_every_field_of_a_scaling_is_checked() -> None:
    config = preset("llama-3.2-1b")
    assert config.rope_scaling is not None
    with pytest.raises(BadInputError, match="factor"):
        replace(config.rope_scaling, factor=float("nan"))


def gguf_of(path: Path, *, kind: int, payload: bytes) -> Path:
    """A GGUF file with one key of this kind."""
    key = b"some.key"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    path.write_bytes(head + struct.pack("<I", kind) + payload)
    return path


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (struct.pack("<IQ", 4, 2**60), "cut short|not a valid"),
        pytest.param(
            struct.pack("<IQ", 0, 2_500_000) + bytes(2_500_000),
            "over 2000000 items",
            marks=pytest.mark.long,
        ),
        (struct.pack("<IQ", 9, 1) * 3_000, "nested too deeply|not a valid"),
        (struct.pack("<IQ", 77, 1), "not a valid"),
    ],
)
def test_a_list_of_a_gguf_file_that_cannot_be_is_refused(
    tmp_path: Path, payload: bytes, says: str
) -> None:
    with pytest.raises(BadInputError, match=says):
        open_gguf(gguf_of(tmp_path / "a.gguf", kind=9, payload=payload))


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 100000000 }}",
        "{{ 9 ** 999999 }}",
        "{% for i in range(99999999) %}{% endfor %}",
        "{{ [0] * 100000000 }}",
    ],
)
def test_a_template_cannot_fill_the_memory_by_one_sign(template: str) -> None:
    with pytest.raises(BadInputError, match="chat template"):
        render_template(
            template, [{"role": "user", "content": "x"}], tools=None, add_generation_prompt=False,
            today=datetime.date(2026, 1, 1), bos_token="", eos_token="",
        )  # fmt: skip


def test_a_template_still_computes_what_conversations_need() -> None:
    shown = render_template(
        "{{ '=' * 20 }}{{ 2 ** 3 }}{% for i in range(3) %}{{ i * 2 }}{% endfor %}",
        [], tools=None, add_generation_prompt=False, today=datetime.date(2026, 1, 1),
        bos_token="", eos_token="",
    )  # fmt: skip
    assert shown == "=" * 20 + "8024"


def test_what_is_mapped_is_what_was_checked(tmp_path: Path) -> None:
    file = SafetensorsFile(safetensors(tmp_path / "a.safetensors"))
    assert np.asarray(file.raw("x")).tolist() == [[0.0, 0.0], [0.0, 0.0]]

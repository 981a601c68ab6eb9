"""Tokenizers and chat templates, with the real SmolLM2 where it was pulled."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chipmark_models.chat_template import render_chat, render_template
from chipmark_models.errors import BadInputError, ChipmarkError
from chipmark_models.pull import installed, resolve_model
from chipmark_models.tokenizer import (
    ModelTokenizer,
    open_tokenizer,
    tokenizer_from_folder,
    tokenizer_from_gguf,
)
from chipmark_models.weights.source import WeightRef

pytest.importorskip("tokenizers")

TEXTS = [
    "Hello, world!",
    "  def f(x):\n\treturn x**2  # café 12345 3.14\n\n\n",
    "你好世界 😀 naïve",
    "<|im_start|>user\nhi<|im_end|>\n",
    "don't I'll we've 1,000,000",
    "\x00\x7f\ufffd   \t \r\n",
    "",
]
real = pytest.mark.skipif(
    installed("smollm2-135m") is None, reason="chipmark models pull smollm2-135m"
)


@pytest.fixture(scope="module")
def smollm2() -> ModelTokenizer:
    return open_tokenizer(resolve_model("smollm2-135m"))


def fields(**changes: Any) -> dict[str, Any]:
    """Metadata of a byte-level tokenizer with one merge."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, "ab", "<|end|>"]
    base = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 1) + [3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    return base | {f"tokenizer.ggml.{k}": v for k, v in changes.items()}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2", "smaug-bpe", "hunyuan"])
def test_any_text_comes_back_whole(text: str, pre: str) -> None:
    tokenizer = tokenizer_from_gguf(fields(pre=pre), "f")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_and_control_tokens_are_used() -> None:
    tokenizer = tokenizer_from_gguf(fields(), "f")
    ids = tokenizer.encode("ab<|end|>")
    assert ids == [256, 257]
    assert tokenizer.decode(ids, skip_special=True) == "ab"
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.bos_token == ""
    assert tokenizer.vocab_size == 258


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": "llama"}, "tokenizer.ggml.model"),
        ({"pre": "novel"}, "tokenizer.ggml.pre"),
        ({"pre": "default"}, "tokenizer.ggml.pre"),
        ({"pre": None}, "tokenizer.ggml.pre"),
        ({"merges": None}, "tokenizer.ggml.merges"),
        ({"merges": ["a b c"]}, "tokenizer.ggml.merges"),
        ({"merges": ["a nowhere"]}, "tokenizer.ggml.merges"),
        ({"tokens": None}, "tokenizer.ggml.tokens"),
    ],
)
def test_a_tokenizer_that_cannot_be_built_names_the_field(
    changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        tokenizer_from_gguf(fields(**changes), "f.gguf")
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("names", "pieces"),
    [
        (
            ("qwen2", "deepseek-r1-qwen", "megrez", "hunyuan", "stablelm2"),
            [" it", "'S", " ", "1", "2"],
        ),
        (("llama-bpe", "llama3", "smaug-bpe", "chatglm-bpe"), [" it", "'S", " ", "12"]),
        (("gpt-2", "phi-2", "olmo"), [" it", "'", "S", " 12"]),
        (("smollm", "starcoder", "refact"), [" it", "'", "S", " ", "1", "2"]),
    ],
)
def test_names_of_one_rule_split_alike(names: tuple[str, ...], pieces: list[str]) -> None:
    for pre in names:
        backend = tokenizer_from_gguf(fields(pre=pre), "f").backend
        found = backend.pre_tokenizer.pre_tokenize_str(" it'S 12")
        assert [text.replace("\u0120", " ") for text, _ in found] == pieces, pre


def test_qwen_composes_characters_before_it_splits() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    qwen, llama = (tokenizer_from_gguf(fields(pre=p), "f") for p in ("deepseek-r1-qwen", "llama3"))
    assert qwen.encode(decomposed) == qwen.encode(composed)
    assert llama.encode(decomposed) != llama.encode(composed)


def test_only_the_names_of_llama3_take_words_without_merging() -> None:
    # "abc" is a token, but no merge leads to it.
    tokens = [*fields()["tokenizer.ggml.tokens"], "abc"]
    ids = {
        pre: tokenizer_from_gguf(
            fields(pre=pre, tokens=tokens, token_type=[1] * len(tokens)), "f"
        ).encode("abc")
        for pre in ("pixtral", "smaug-bpe")
    }
    assert ids["pixtral"] == [len(tokens) - 1]
    assert len(ids["smaug-bpe"]) == 2


def test_a_folder_gives_its_tokenizer_and_template(tmp_path: Path) -> None:
    tokenizer_from_gguf(fields(), "f").backend.save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": {"content": "<|end|>"}, "chat_template": "{{ eos_token }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = tokenizer_from_folder(tmp_path)
    assert tokenizer.encode("ab<|end|>") == [256, 257]
    assert render_chat(tokenizer, []) == "<|end|>"
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert render_chat(tokenizer_from_folder(tmp_path), []) == "from the file"


def test_a_broken_tokenizer_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="is missing"):
        tokenizer_from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BadInputError, match="invalid JSON"):
        tokenizer_from_folder(tmp_path)


def test_synthetic_weights_have_no_tokenizer() -> None:
    with pytest.raises(ChipmarkError, match="models pull"):
        open_tokenizer(WeightRef("synthetic", "tiny", None, 0))


def render(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
    defaults: dict[str, Any] = {
        "tools": None,
        "add_generation_prompt": False,
        "today": datetime.date(2025, 7, 1),
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    return render_template(template, messages, **(defaults | options))


def test_templates_see_messages_as_they_are_given() -> None:
    template = (
        "{% for m in messages %}\n"
        "{{ m.role }}:{{ m.content is none }}:{{ m.content is string }}:"
        "{{ m.tool_calls[0].function.arguments | tojson if m.tool_calls }}|"
        "{% endfor %}\n"
        "{{ tools | tojson }}"
    )
    call = {"id": "1", "function": {"name": "ls", "arguments": {"p": "ä<"}}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "go"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "a.py"},
    ]
    text = render(template, messages, tools=[{"name": "ls"}])
    assert text == (
        'user:False:False:|assistant:True:False:{"p": "ä<"}|tool:False:True:|[{"name": "ls"}]'
    )


def test_tojson_has_the_options_of_transformers() -> None:
    template = (
        "{{ messages[0] | tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=true) }}"
    )
    assert render(template, [{"b": "ä", "a": 1}]) == r'{"a":1,"b":"\u00e4"}'


def test_a_generation_block_prints_its_body() -> None:
    template = "a{% generation %}{{ messages[0].content }}{% endgeneration %}b"
    assert render(template, [{"role": "assistant", "content": "x"}]) == "axb"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_stands_under_every_name_that_templates_read(field: str) -> None:
    template = "{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}"
    assert render(template, [{"role": "assistant", field: "hm"}]) == "hm|hm"


def test_a_template_of_its_own_for_tools_and_all_special_tokens_are_used(tmp_path: Path) -> None:
    tokenizer_from_gguf(fields(), "f").backend.save(str(tmp_path / "tokenizer.json"))
    named = [
        {"name": "default", "template": "plain{{ pad_token }}"},
        {"name": "tool_use", "template": "with tools"},
    ]
    config = {"chat_template": named, "pad_token": "<|end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = tokenizer_from_folder(tmp_path)
    assert render_chat(tokenizer, []) == "plain<|end|>"
    assert render_chat(tokenizer, [], tools=[{"name": "ls"}]) == "with tools"
    (tmp_path / "chat_template.jinja").write_text("plain file")
    assert render_chat(tokenizer_from_folder(tmp_path), [], tools=[{"name": "ls"}]) == "plain file"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tool file")
    assert render_chat(tokenizer_from_folder(tmp_path), [], tools=[{"name": "ls"}]) == "tool file"
    in_gguf = fields() | {"tokenizer.chat_template.tool_use": "tools of gguf"}
    tokenizer = tokenizer_from_gguf(in_gguf, "f")
    assert render_chat(tokenizer, [], tools=[{"name": "ls"}]) == "tools of gguf"


def test_the_date_is_fixed() -> None:
    assert render("{{ strftime_now('%d %b %Y') }}", []) == "01 Jul 2025"


def test_a_template_can_refuse_messages() -> None:
    with pytest.raises(BadInputError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}", [])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ messages.__init__.__globals__ }}",
        "{% for",
        "{{ 1 + 'a' }}",
        "{{ 1 // 0 }}",
        "{{ '{x}'.format(y=1) }}",
        "{{ '{1}'.format(2) }}",
        "{% for i in range(999999999) %}{% endfor %}",
    ],
)
def test_a_hostile_or_broken_template_gets_nowhere(template: str) -> None:
    with pytest.raises(BadInputError, match="chat template"):
        render(template, [])


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(ChipmarkError, match="no chat template"):
        render_chat(ModelTokenizer(None, "", "", ""), [])


@real
@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_comes_back_whole(smollm2: ModelTokenizer, text: str) -> None:
    assert smollm2.decode(smollm2.encode(text)) == text


@real
def test_smollm2_has_its_golden_ids(smollm2: ModelTokenizer) -> None:
    # As transformers 5.23 encodes them from the same file.
    assert smollm2.encode("def f(x):\n\treturn x**2  # 12345") == [
        1604,
        275,
        24,
        104,
        727,
        198,
        197,
        5406,
        1792,
        828,
        34,
        216,
        907,
        216,
        33,
        34,
        35,
        36,
        37,
    ]
    assert smollm2.encode("<|im_start|>user\nhi<|im_end|>\n") == [1, 4093, 198, 6004, 2, 198]


@real
@pytest.mark.slow
def test_smollm2_encodes_as_transformers_does(smollm2: ModelTokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    path = installed("smollm2-135m")
    assert path is not None
    os.environ["HF_HUB_OFFLINE"] = "1"
    theirs = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    for text in TEXTS:
        assert smollm2.encode(text) == theirs.encode(text, add_special_tokens=False)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And 3 + 3?"},
    ]
    for prompt in (True, False):
        assert render_chat(
            smollm2, messages, add_generation_prompt=prompt
        ) == theirs.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)


@real
def test_smollm2_answers_paris(smollm2: ModelTokenizer) -> None:
    pytest.importorskip("torch")
    from chipmark_models.oracle import Oracle
    from chipmark_models.weights.open import open_weights

    source = open_weights(resolve_model("smollm2-135m"))
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = np.array(smollm2.encode(render_chat(smollm2, question, add_generation_prompt=True)))
    answer = np.array(smollm2.encode("The capital of France is Paris.<|im_end|>"))
    # Every token of the answer is the most likely one after those before it.
    ids = np.concatenate([prompt, answer[:-1]])
    at = np.arange(len(prompt) - 1, len(ids))
    logits = Oracle(source.config, source.read).logits([ids], [at])[0]
    assert logits.argmax(-1).tolist() == answer.tolist()

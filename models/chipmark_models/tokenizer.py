"""A model's own tokenizer, from GGUF metadata or from tokenizer.json.

`tokenizers` is imported only when a tokenizer is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chipmark_models.errors import BadInputError, ChipmarkError
from chipmark_models.foreign_file import MIB, SETTINGS_BYTES, parse_json, read_text
from chipmark_models.model_folder import check_place, read_json_object
from chipmark_models.weights.source import WeightRef

# Token types of GGUF: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
_CONTROL, _USER_DEFINED = 3, 4

TOKENIZER_BYTES = 64 * MIB
"""Most bytes of a tokenizer.json; that of a vocabulary of 256,000 has 33 million."""
_SPECIAL = ("unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_GGUF_SPECIAL: Mapping[str, str] = MappingProxyType(
    {
        "unk_token": "unknown_token_id",
        "pad_token": "padding_token_id",
        "sep_token": "seperator_token_id",  # as the format spells it
        "mask_token": "mask_token_id",
    }
)
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True, slots=True)
class _PreTokenizer:
    """How text is split before byte-level BPE.

    `split` is a regular expression, "" for GPT-2's own; with `digits` single digits are split off
    before that. `whole_words` takes a word that is a token without merging. `nfc` composes
    characters first.
    """

    split: str = ""
    digits: bool = False
    whole_words: bool = False
    nfc: bool = False


# `tokenizer.ggml.pre` -> rule, by the table of llama.cpp (src/llama-vocab.cpp), names whose rule
# is one of four; the expressions and NFC are those of the models' public tokenizer.json.
_GPT2, _LLAMA3 = _PreTokenizer(), _PreTokenizer(_LLAMA3_SPLIT, whole_words=True)
_DIGITS, _QWEN2 = _PreTokenizer(digits=True), _PreTokenizer(_QWEN2_SPLIT, nfc=True)
_PRE_TOKENIZERS: Mapping[str, _PreTokenizer] = MappingProxyType(
    dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4"), _GPT2)
    | dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"), _DIGITS)
    | dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        _LLAMA3,
    )
    | dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _PreTokenizer(_LLAMA3_SPLIT))
    | dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"), _QWEN2)
    | dict.fromkeys(("stablelm2", "hunyuan", "solar-open", "grok-2"), _PreTokenizer(_QWEN2_SPLIT))
)


@dataclass(frozen=True, slots=True)
class ModelTokenizer:
    """Text to token ids and back; adds no token of its own at the start or the end.

    `chat_template` is the model's own Jinja source, or "" where it has none; `tool_template` the
    one for conversations with tools where the model has two; `bos_token` and `eos_token` are texts
    that templates ask for, and `special_tokens` the others, as "pad_token".
    """

    backend: Any
    chat_template: str
    bos_token: str
    eos_token: str
    tool_template: str = ""
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; the texts of control tokens in it become these tokens. BadInputError where
        the tokenizer's own file makes that impossible."""
        try:
            ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        except Exception as exc:  # the Rust side raises plain Exception
            raise BadInputError("the model's tokenizer", f"cannot encode: {exc}") from exc
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become the replacement character."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    @property
    def vocab_size(self) -> int:
        """Tokens, added ones included."""
        size: int = self.backend.get_vocab_size(with_added_tokens=True)
        return size


def open_tokenizer(ref: WeightRef) -> ModelTokenizer:
    """The tokenizer of a GGUF file or of a folder of safetensors.

    Raises ChipmarkError for synthetic weights, which have none; BadInputError for a broken one.
    """
    if ref.kind == "gguf":
        from chipmark_models.weights.gguf_reader import open_gguf, part_paths, read_fields

        assert ref.path is not None
        first = part_paths(Path(ref.path))[0]
        return tokenizer_from_gguf(read_fields(open_gguf(first), first), first)
    if ref.kind == "safetensors":
        assert ref.path is not None
        path = Path(ref.path)
        return tokenizer_from_folder(path if path.is_dir() else path.parent)
    raise ChipmarkError(
        f"synthetic weights of {ref.model} have no tokenizer",
        "use a model with real weights: chipmark models pull smollm2-135m",
    )


def tokenizer_from_gguf(fields: Mapping[str, Any], path: object) -> ModelTokenizer:
    """Build byte-level BPE from GGUF metadata; BadInputError for another kind of tokenizer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    kind = fields.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise BadInputError(path, f"{kind!r} is not read; only gpt2", field="tokenizer.ggml.model")
    rule = _rule(fields.get("tokenizer.ggml.pre"), path)
    tokens, types = _list(fields, "tokens", path), _list(fields, "token_type", path)
    merges = _list(fields, "merges", path)
    for key, values, kind in (
        ("tokens", tokens, str),
        ("token_type", types, int),
        ("merges", merges, str),
    ):
        if not all(type(value) is kind for value in values):
            raise BadInputError(
                path, f"is not a list of {kind.__name__}", field=f"tokenizer.ggml.{key}"
            )
    if len(types) != len(tokens):
        raise BadInputError(
            path,
            f"has {len(types)} types for {len(tokens)} tokens",
            field="tokenizer.ggml.token_type",
        )
    pairs = [tuple(m.split(" ")) for m in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise BadInputError(path, "has a rule that is not a pair", field="tokenizer.ggml.merges")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    try:
        backend = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=rule.whole_words))
    except Exception as exc:  # the Rust side raises plain Exception for a merge out of vocabulary
        raise BadInputError(path, str(exc), field="tokenizer.ggml.merges") from exc
    backend.pre_tokenizer = _pre_tokenizer(rule)
    if rule.nfc:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    special = [i for i, kind in enumerate(types) if kind == _CONTROL]
    own = [i for i, kind in enumerate(types) if kind == _USER_DEFINED]
    backend.add_special_tokens([AddedToken(tokens[i], normalized=False) for i in special])
    backend.add_tokens([AddedToken(tokens[i], normalized=False) for i in own])
    return ModelTokenizer(
        backend,
        str(fields.get("tokenizer.chat_template", "")),
        _text(fields, tokens, "bos_token_id"),
        _text(fields, tokens, "eos_token_id"),
        str(fields.get("tokenizer.chat_template.tool_use", "")),
        {name: text for name, key in _GGUF_SPECIAL.items() if (text := _text(fields, tokens, key))},
    )


def _rule(pre: object, path: object) -> _PreTokenizer:
    key = "tokenizer.ggml.pre"
    if pre is None:
        raise BadInputError(
            path, "is missing, so how text is split is unknown", field=key,
            hint="convert the model again: files of before May 2024 do not say it",
        )  # fmt: skip
    if not isinstance(pre, str) or pre not in _PRE_TOKENIZERS:
        known = ", ".join(_PRE_TOKENIZERS)
        raise BadInputError(path, f"{pre!r} is not known; known: {known}", field=key)
    return _PRE_TOKENIZERS[pre]


def _pre_tokenizer(rule: _PreTokenizer) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if rule.digits:
        first = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence(
            [first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    if not rule.split:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    split = pre_tokenizers.Split(Regex(rule.split), behavior="isolated")
    return pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def _list(fields: Mapping[str, Any], key: str, path: object) -> list[Any]:
    value = fields.get(f"tokenizer.ggml.{key}")
    if not isinstance(value, list):
        raise BadInputError(path, "is missing", field=f"tokenizer.ggml.{key}")
    return value


def _text(fields: Mapping[str, Any], tokens: list[str], key: str) -> str:
    index = fields.get(f"tokenizer.ggml.{key}")
    return tokens[index] if isinstance(index, int) and 0 <= index < len(tokens) else ""


def tokenizer_from_folder(folder: Path) -> ModelTokenizer:
    """The tokenizer.json of a folder, with the template of tokenizer_config.json or its file."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BadInputError(path, "is missing", hint="a transcript needs the model's tokenizer")
    check_place(path)
    text = read_text(path, TOKENIZER_BYTES)
    parse_json(text, path)  # its depth and its numbers, before the Rust side sees them
    try:
        backend = Tokenizer.from_str(text)
    except BaseException as exc:
        # The Rust side raises plain Exception for bad content, and a BaseException of its own
        # where it fails an assertion.
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
            raise
        raise BadInputError(path, f"is not a tokenizer: {exc}") from exc
    backend.no_truncation()
    backend.no_padding()
    config_path = folder / "tokenizer_config.json"
    config = read_json_object(config_path) if config_path.is_file() else {}
    template, tool_template = _templates(folder, config)
    return ModelTokenizer(
        backend,
        template,
        _token_text(config, "bos_token"),
        _token_text(config, "eos_token"),
        tool_template,
        {name: text for name in _SPECIAL if (text := _token_text(config, name))},
    )


def _templates(folder: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """The template, and the one for conversations with tools: of files, else of the config."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        of_tools = folder / "additional_chat_templates" / "tool_use.jinja"
        return _template(file), _template(of_tools) if of_tools.is_file() else ""
    template = config.get("chat_template") or ""
    if not isinstance(template, list):
        return str(template), ""
    # Several named ones: [{"name", "template"}].
    named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
    return str(named.get("default") or ""), str(named.get("tool_use") or "")


def _template(path: Path) -> str:
    check_place(path)
    return read_text(path, SETTINGS_BYTES)


def _token_text(config: Mapping[str, Any], key: str) -> str:
    value = config.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""

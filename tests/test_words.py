"""The field's plain English: phrases that no message, docstring or comment may hold."""

from __future__ import annotations

import io
import re
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("harness", "models", "kernels", "scripts", "examples")
PHRASES = {
    r"(?<!there )(?<!There )\b(?:is|are|was|were) no (?!longer|more than|less than)": "is not a",
    r"\b(?:is|are) lacking\b": "is missing",
    r"\bgo(?:es)? on\b": "resumes, continues",
    r"\bsittings?\b": "attempt",
    r"\bwhat (?:it|that|they) came to\b": "result",
    r"\bheld against\b": "checked against",
    r"\bfor want of\b": "without, because X is missing",
    r"\bwhence\b": "from where",
    r"\bfor ever\b": "forever",
    r"\bno more\b(?! than)": "no longer",
    r"\bis there already\b": "already exists",
    r"\b(?:stands?|stood|lies|lay) (?:in|beside|under|below|above)\b": "is in",
    r"\b(?:is|are|was|were|be|been) (?:told|said)\b": "is reported",
    r"\b(?:tells|says) (?:so|it)\b": "is reported",
    r"(?<![\"'.`])\bbeside\b(?![\"'`])": "next to, with",  # in quotes: a stored field's name
    r"\bnobody\b": "no one; better, name who or what",
}
"""A pattern, and what the field says instead."""

BROKEN = [(re.compile(pattern), better) for pattern, better in PHRASES.items()]
TEXT = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)}


def found_in(path: Path) -> list[str]:
    """`PATH:LINE: phrase (better)` for each phrase in the file's strings and comments."""
    hits = []
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type not in TEXT:
            continue
        text = re.sub(r"\s+#?\s*", " ", token.string)
        for pattern, better in BROKEN:
            hits += [
                f"{path.relative_to(ROOT)}:{token.start[0]}: {match[0]!r} (write: {better})"
                for match in pattern.finditer(text)
            ]
    return hits


@pytest.mark.parametrize("folder", FOLDERS)
def test_text_is_the_fields_plain_english(folder):
    hits = [hit for path in sorted((ROOT / folder).rglob("*.py")) for hit in found_in(path)]
    assert not hits, "\n".join(hits)


def test_a_phrase_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "a.py").write_text(
        'X = f"{1} is no JSON"\n# it goes on\nis_no = "there is no card"\n'
    )
    assert [hit.split("'")[1] for hit in found_in(tmp_path / "a.py")] == ["is no ", "goes on"]


if __name__ == "__main__":
    for name in sys.argv[1:] or FOLDERS:
        for path in (
            sorted((ROOT / name).rglob("*.py")) if (ROOT / name).is_dir() else [ROOT / name]
        ):
            print(*found_in(path), sep="\n", end="\n" if found_in(path) else "")

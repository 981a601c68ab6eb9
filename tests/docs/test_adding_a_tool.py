"""The example of docs/adding/tool.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs/adding/tool.md"
ANSWER = """MY-SMI 1.0
Card 0
  Power : 85.5 W
  Limit : 300 W
  Load  : 4 %
Card 1
  Power : N/A
"""


def test_the_tool_of_the_page_reads_an_answer_and_survives_noise() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    tool = names["MY_SMI"]
    assert tool.is_own(ANSWER)
    first, second = tool.overview.parse(ANSWER)
    assert (first.card, first.power_w, first.cap_w, first.busy) == (0, 85.5, 300.0, 0.04)
    assert second.power_w is None
    assert "not available" in second.missing["power_w"]
    for at in range(len(ANSWER)):
        tool.overview.parse(ANSWER[:at] + "\x00:²" + ANSWER[at + 3 :])
    assert tool.overview.parse("no such option\n") == ()

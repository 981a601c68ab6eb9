"""Operations that join others: left to these unless an implementation of them is named."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import pytest

from chipmark_models.decoder import op_table
from chipmark_models.decoder.op_table import SEPARATE, Implementation, OpTable
from chipmark_models.errors import UnknownNameError


@dataclass(frozen=True)
class Ops:
    add: Implementation
    double: Implementation
    add_and_double: Implementation | None = None


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> OpTable[Ops]:
    def module(name: str) -> ModuleType:
        made = ModuleType(name)
        made.OPS = {op: f"{name}.{op}" for op in ("add", "double", "add_and_double")}  # type: ignore[attr-defined]
        return made

    monkeypatch.setattr(op_table, "import_module", module)
    return OpTable(
        Ops,
        {"whole": "whole", "torch": "torch", "joining": "joining"},
        partial={"joining": ("add_and_double",)},
        separate=("add_and_double",),
    )


def test_a_joined_operation_is_separate_unless_it_is_named(table: OpTable[Ops]) -> None:
    names = table.resolve(None, "whole")
    assert names == {"add": "whole", "double": "whole", "add_and_double": SEPARATE}
    assert table.select(names) == Ops("whole.add", "whole.double", None)
    names = table.resolve({"add_and_double": "joining", "add": "torch"}, "whole")
    assert table.select(names) == Ops("torch.add", "whole.double", "joining.add_and_double")


def test_only_what_lists_it_has_a_joined_operation(table: OpTable[Ops]) -> None:
    # `whole` has every other operation without listing any.
    assert table.implementations("add_and_double") == (SEPARATE, "joining")
    assert table.implementations("add") == ("whole", "torch")
    for operation, name in (("add_and_double", "whole"), ("add", SEPARATE), ("add", "joining")):
        with pytest.raises(UnknownNameError, match=name):
            table.resolve({operation: name}, "whole")


def test_what_fails_is_left_to_torch_or_to_what_it_joins(table: OpTable[Ops]) -> None:
    assert table.fallback("add") == "torch"
    assert table.fallback("add_and_double") == SEPARATE

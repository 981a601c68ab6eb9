"""Which implementation computes each operation of a decoder.

A table of names, so that the model's code is one for every device. Names that do not exist are
errors; nothing is substituted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from chipmark_models.errors import UnknownNameError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Implementation = Callable[..., Any]
Ops = TypeVar("Ops", bound="DataclassInstance")
SEPARATE = "separate"
"""The name under which an operation is left to those that it joins."""


@dataclass(frozen=True, slots=True)
class OpTable(Generic[Ops]):
    """The operations of a decoder and what implements them."""

    kind: type[Ops]
    """A dataclass with one function for each operation."""

    modules: Mapping[str, str]
    """The module of each implementation, whose `OPS` has a function for each operation. It is
    imported when it is chosen, so that torch alone is enough where no kernel is used."""

    partial: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The operations of an implementation that does not have all of them."""

    separate: tuple[str, ...] = ()
    """Operations that join others, and may be left to these: `SEPARATE` names that, it is the
    default, and the function is None."""

    fallback_name: str = "torch"
    """The implementation that has every operation on every device."""

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of all operations."""
        return tuple(each.name for each in fields(self.kind))

    def implementations(self, operation: str) -> tuple[str, ...]:
        """Names of what can compute an operation; UnknownNameError where there is none such."""
        if operation not in self.operations:
            raise UnknownNameError("operation", operation, self.operations)
        own = operation not in self.separate
        able = [
            n for n in self.modules if (operation in self.partial[n] if n in self.partial else own)
        ]
        return tuple(able) if own else (SEPARATE, *able)

    def fallback(self, operation: str) -> str:
        """What takes the place of an implementation that fails: `SEPARATE` where that is known."""
        return SEPARATE if operation in self.separate else self.fallback_name

    def resolve(self, chosen: Mapping[str, str] | None, default: str) -> dict[str, str]:
        """Each operation with the name of its implementation; UnknownNameError for a wrong one."""
        names = dict.fromkeys(self.operations, default)
        names |= dict.fromkeys(self.separate, SEPARATE)
        names |= dict(chosen or {})
        for operation, name in names.items():
            known = self.implementations(operation)
            if name not in known:
                raise UnknownNameError(f"implementation of {operation}", name, known)
        return names

    def find(self, operation: str, name: str) -> Implementation:
        """One operation's implementation; `name` as `implementations` lists it, not SEPARATE."""
        found: Implementation = import_module(self.modules[name]).OPS[operation]
        return found

    def select(self, names: Mapping[str, str]) -> Ops:
        """The implementations of names as `resolve` gives them."""
        joined = {op: name for op, name in names.items() if name != SEPARATE}
        return self.kind(
            **{op: self.find(op, joined[op]) for op in self.operations if op in joined}
        )

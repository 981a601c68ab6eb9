"""chipmark: one agent workload on every chip, in one honest table.

    >>> import chipmark
    >>> records = chipmark.run("quick", "sim:golden", out="runs/sim")
    >>> records.table()[0]["decode_tok_s"]

Importing the package loads nothing else, as every measured process does it; a public name loads
its module on first use.
"""

__version__ = "0.1.0"

__all__ = [
    "BadInputError",
    "BrokenPluginError",
    "BrokenRecordError",
    "CannotWriteError",
    "CellFailedError",
    "CellsLeftError",
    "ChipmarkError",
    "Comparison",
    "ContractError",
    "DoesNotFitError",
    "MissingBackendError",
    "ModelUnavailableError",
    "NothingToJudgeError",
    "Record",
    "Records",
    "Suite",
    "UnknownNameError",
    "UsageError",
    "__version__",
    "load",
    "run",
]

TYPE_CHECKING = False
"""A name of its own: the module `typing` is not loaded for it."""

if TYPE_CHECKING:
    from chipmark.api.record import Record
    from chipmark.api.records import Comparison, Records, load
    from chipmark.api.run import run
    from chipmark.api.suite import Suite
    from chipmark.errors import (
        BadInputError,
        BrokenPluginError,
        BrokenRecordError,
        CannotWriteError,
        CellFailedError,
        CellsLeftError,
        ChipmarkError,
        ContractError,
        DoesNotFitError,
        MissingBackendError,
        ModelUnavailableError,
        NothingToJudgeError,
        UnknownNameError,
        UsageError,
    )
else:
    _MODULES = {
        "Comparison": "chipmark.api.records",
        "Record": "chipmark.api.record",
        "Records": "chipmark.api.records",
        "Suite": "chipmark.api.suite",
        "load": "chipmark.api.records",
        "run": "chipmark.api.run",
    }
    """Where public names live; the others are errors."""

    def __getattr__(name):
        """Load the module of a public name on first use."""
        if name not in __all__:
            raise AttributeError(f"module 'chipmark' has no attribute {name!r}")
        from importlib import import_module

        found = getattr(import_module(_MODULES.get(name, "chipmark.errors")), name)
        globals()[name] = found
        return found

    def __dir__():
        """The public names and those that modules have."""
        return sorted({*globals(), *__all__})

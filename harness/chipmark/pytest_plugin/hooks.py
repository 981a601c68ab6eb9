"""Hooks around a `benchmark` fixture: the timer, the machine's identity, the terminal's section."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from chipmark.foreign_text import plain_text
from chipmark.pytest_plugin.clock import DeviceClock
from chipmark.pytest_plugin.fixture import ChipmarkFixture, Engines
from chipmark.pytest_plugin.report import identity_of, section

NAMESPACE = "chipmark"
SCHEMA = "chipmark.machine/1"
FIXTURE = "chipmark"
CLOCK = pytest.StashKey[DeviceClock]()


def backend_of(config: pytest.Config) -> str:
    """The option, else the ini value."""
    return str(config.getoption("chipmark_backend") or config.getini("chipmark_backend"))


def codspeed_runs(config: pytest.Config) -> bool:
    """Whether pytest-codspeed's own `benchmark` fixture is used: it measures by itself and
    takes no timer."""
    return bool(config.getoption("codspeed", default=False)) or "CODSPEED_ENV" in os.environ


def check_options(config: pytest.Config) -> None:
    """pytest.UsageError for a backend that does not exist and for a price or power that is none."""
    from chipmark.errors import ChipmarkError
    from chipmark.registry import split_backend

    try:
        split_backend(backend_of(config))
    except ChipmarkError as error:
        raise pytest.UsageError(f"--chipmark-backend: {error}") from error
    for name in ("chipmark_power_w", "chipmark_price_per_hour"):
        value = config.getoption(name)
        if value is not None and not 0 < value < float("inf"):
            option = "--" + name.replace("_", "-")
            raise pytest.UsageError(f"{option} is {value:g}: give a finite number above 0")


def machine_block(config: pytest.Config) -> dict[str, Any]:
    """What chipmark adds to `machine_info`: identity (must agree) and context (may explain)."""
    from chipmark.chips.detect import chip_of
    from chipmark.errors import ChipmarkError

    backend = backend_of(config)
    try:
        accelerator = identity_of(chip_of(backend), backend)
    except ChipmarkError as error:
        raise pytest.UsageError(f"--chipmark-backend {backend}: {error}") from error
    # Once through JSON, so that it is equal to what a file gives back.
    block = {"schema": SCHEMA, "accelerators": [accelerator]}
    return dict(json.loads(json.dumps(block, default=str)))


def move_storage(config: pytest.Config) -> None:
    """A folder for each accelerator below pytest-benchmark's storage."""
    storage = str(config.getoption("benchmark_storage"))
    if "://" in storage and not storage.startswith("file://"):
        raise pytest.UsageError("--chipmark-storage needs a --benchmark-storage of file://")
    entry = machine_block(config)["accelerators"][0]
    digest = hashlib.sha256(json.dumps(_identity(entry), sort_keys=True).encode()).hexdigest()[:8]
    config.option.benchmark_storage = f"{storage.rstrip('/')}/{entry['name']}-{digest}"


class Hooks:
    """Registered where a `benchmark` fixture is."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.found: list[dict[str, Any]] = []
        self.engines = Engines()

    @pytest.fixture(name=FIXTURE)
    def chipmark_fixture(
        self, request: pytest.FixtureRequest, benchmark: Any
    ) -> Iterator[ChipmarkFixture]:
        """Time a callable or chipmark's own workload in device seconds, under pytest-benchmark.

        `chipmark(fn, tokens=N, sync=torch.cuda.synchronize)`, `chipmark.decode_step(batch=4)`,
        `chipmark.run("agent-code-32k", sessions=2)`.
        """
        fixture = ChipmarkFixture(
            benchmark,
            request.node.stash.get(CLOCK, None),
            fullname=request.node.nodeid,
            backend=backend_of(self.config),
            strict=self.config.getoption("chipmark_strict"),
            power_w=self.config.getoption("chipmark_power_w"),
            price_per_hour=self.config.getoption("chipmark_price_per_hour"),
            engines=self.engines,
        )
        yield fixture
        if fixture.block is not None:
            self.found.append({"fullname": request.node.nodeid, "block": fixture.block})

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Give pytest-benchmark the device clock by its own mark, before its fixture reads it."""
        if FIXTURE not in getattr(item, "fixturenames", ()):
            return
        marker = item.get_closest_marker("benchmark")
        options = dict(marker.kwargs) if marker else {}
        if "timer" in options:
            raise pytest.UsageError(
                f"{item.nodeid}: the chipmark fixture brings its own timer; take timer= out of "
                "the benchmark mark, or use the benchmark fixture"
            )
        if self.config.pluginmanager.hasplugin("benchmark") and not codspeed_runs(self.config):
            item.stash[CLOCK] = DeviceClock()
            # The closest mark alone counts, so it repeats what the user's says.
            mark = pytest.mark.benchmark(**options, timer=item.stash[CLOCK])
            item.add_marker(mark, append=False)

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_machine_info(
        self, config: pytest.Config, machine_info: dict[str, Any]
    ) -> None:
        """Say which accelerator this is."""
        machine_info[NAMESPACE] = machine_block(config)

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_compare_machine_info(
        self,
        config: pytest.Config,
        machine_info: Mapping[str, Any],
        compared_benchmark: Mapping[str, Any],
    ) -> None:
        """Refuse a baseline of another accelerator; pytest-benchmark itself would only warn."""
        refusal = refuse(
            machine_info, compared_benchmark, strict=config.getoption("chipmark_strict")
        )
        if refusal:
            raise pytest.UsageError(refusal)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """A section of its own, after pytest-benchmark's table."""
        if not self.found:
            return
        terminalreporter.section(f"chipmark, backend {backend_of(self.config)}")
        for line in section(self.found):
            terminalreporter.write_line(plain_text(line))

    def pytest_unconfigure(self) -> None:
        """Free the devices."""
        self.engines.close()


def refuse(now: Mapping[str, Any], baseline: Mapping[str, Any], *, strict: bool) -> str:
    """Why a stored file cannot be a baseline for this machine; "" where it is one.

    A file without chipmark's identity is refused in strict mode alone: it may hold benchmarks
    that chipmark has nothing to do with.
    """
    then = _accelerators(baseline.get("machine_info"))
    here = _accelerators(now)
    if not then:
        return (
            "the baseline does not say on which accelerator it ran (--chipmark-strict): save one "
            "with chipmark's plug-in first"
            if strict
            else ""
        )
    if [_identity(e) for e in then] != [_identity(e) for e in here]:
        return (
            f"the baseline ran on {_named(then)}, this run is on {_named(here)}: their times are "
            "not compared. Choose a baseline of this accelerator (--benchmark-compare=NUM), keep "
            "one folder for each (--chipmark-storage), or set --chipmark-backend"
        )
    if strict:
        for old, new in zip(then, here, strict=True):
            before, after = old.get("context") or {}, new.get("context") or {}
            changed = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
            if changed:
                return f"the baseline's context differs (--chipmark-strict): {', '.join(changed)}"
    return ""


def _accelerators(machine_info: Any) -> list[Mapping[str, Any]]:
    block = machine_info.get(NAMESPACE) if isinstance(machine_info, Mapping) else None
    entries = block.get("accelerators") if isinstance(block, Mapping) else None
    return [e for e in entries if isinstance(e, Mapping)] if isinstance(entries, list) else []


def _identity(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {k: entry.get(k) for k in ("backend", "name", "device_name", "unit", "of", "identity")}


def _named(entries: list[Mapping[str, Any]]) -> str:
    names = (f"{e.get('backend')} ({e.get('device_name')}, {e.get('name')})" for e in entries)
    return ", ".join(names)

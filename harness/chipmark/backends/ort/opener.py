"""Opens the sessions of a cell by their fixed sizes, and remembers what they cost and cover."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from chipmark.backends.ort import binding
from chipmark.backends.ort.coverage import by_bytes, larger
from chipmark.backends.ort.graph_plan import GraphPlan
from chipmark.backends.ort.providers import Located
from chipmark.backends.ort.quantised_products import Products, find_products
from chipmark.backends.ort.runner import SessionKey
from chipmark.backends.ort.session import (
    NotTakenWholeError,
    Opened,
    SessionSettings,
    open_session,
    open_whole,
)
from chipmark.backends.ort.weights_file import PlacedWeights, place_weights
from chipmark.engine.contract import HostOperator
from chipmark_models.onnx_graphs.builder import Graph
from chipmark_models.onnx_graphs.decoder_graph import build_graph
from chipmark_models.onnx_graphs.emitter import GraphShape
from chipmark_models.weights.prepared import PrecisionWeights


class Opener:
    """Sessions of one cell. `coverage` is the smallest share of any session, None where one of
    them cannot tell; `host_operators` the largest shares left to the CPU."""

    def __init__(
        self,
        weights: PrecisionWeights,
        plan: GraphPlan,
        located: Located,
        settings: SessionSettings,
    ) -> None:
        self.weights, self.plan, self.located, self.settings = weights, plan, located, settings
        self.sessions: dict[SessionKey, Any] = {}
        self.open_s = 0.0
        self.coverage: float | None = 1.0
        self.problem = ""
        self.host_operators: tuple[HostOperator, ...] = ()
        self.graph = self._build((None, None, None))
        self._placed: PlacedWeights | None = None

    def _build(self, key: SessionKey) -> Graph:
        batch, chunk, context = key
        shape = GraphShape(
            batch=batch,
            chunk=chunk,
            context=context,
            n_rows=batch,
            positions=self.plan.max_context + self.plan.max_chunk,
            dtype="float16" if self.plan.dtype == "float16" else "float32",
            quantised=self.plan.quantised,
        )
        return build_graph(self.weights.config, self.plan.level, shape)

    def probe(self) -> Any:
        """A session of the graph that bindings are tried on; None where the provider does not take
        it, so that it would say nothing of it.

        Raises CellFailedError, in the provider's own words, where it does not start.
        """
        graph = binding.probe_graph(3 if self.plan.static else None)
        opened = self._open(graph, PlacedWeights(self.settings.scratch, {}, {}))
        return opened.session if opened.ep_coverage == 1.0 else None

    def whole(self, graph: Graph) -> Any:
        """A session of a small graph on the provider alone; NotTakenWholeError where it is not."""
        started = time.perf_counter()
        try:
            return open_whole(graph, self.located, self.settings)
        except NotTakenWholeError as error:
            raise NotTakenWholeError(f"the graph {graph.name}: {error}") from error
        finally:
            self.open_s += time.perf_counter() - started

    def find_products(self) -> Products | None:
        """What products with quantised weights take; None where there are none."""
        form = self.plan.quantised
        if form is None:
            return None

        def run(graph: Graph, arrays: dict[str, Any], x: Any) -> Any:
            opened = self._open(graph, PlacedWeights(self.settings.scratch, {}, arrays))
            return opened.session.run(None, {"x": x})[0]

        return find_products(form, self.weights.config, run, bool(self.plan.static))

    def _open(self, graph: Graph, placed: PlacedWeights, key: SessionKey | None = None) -> Opened:
        config, sizes = self.weights.config, self._sizes(key or (None, None, None))
        return open_session(graph, placed, self.located, self.settings, config, *sizes)

    def _sizes(self, key: SessionKey) -> list[dict[str, int]]:
        """Sizes that a session will see: decode of all sequences and the largest chunk of a
        prompt, both at the longest context, as far as they are free."""
        plan = self.plan
        seen = []
        for batch, chunk in ((plan.n_seqs, 1), (1, plan.max_chunk)):
            free = {"batch": batch, "chunk": chunk, "context": plan.max_context}
            seen.append({name: fixed or free[name] for name, fixed in zip(free, key, strict=True)})
        return seen

    def session(self, key: SessionKey) -> Any:
        """The session for these fixed sizes, opened at its first use, which loading makes."""
        if key not in self.sessions:
            graph = self.graph if key == (None, None, None) else self._build(key)
            started = time.perf_counter()
            if self._placed is None:
                self._placed = place_weights(graph, self.weights, self.settings.scratch)
            placed = replace(self._placed, inline=self._placed.inline | graph.tables)
            opened = self._open(graph, placed, key)
            self.open_s += time.perf_counter() - started
            self.sessions[key] = opened.session
            self._remember(opened)
        return self.sessions[key]

    def _remember(self, opened: Opened) -> None:
        if self.coverage is not None and opened.ep_coverage is not None:
            self.coverage = min(self.coverage, opened.ep_coverage)
        else:
            self.coverage = None
        self.problem = self.problem or opened.problem
        found = {one.name: one for one in self.host_operators}
        for one in opened.host_operators:
            found[one.name] = larger(one, found.get(one.name))
        self.host_operators = by_bytes(found.values())

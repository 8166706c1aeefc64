# SPDX-License-Identifier: Apache-2.0
"""Runs a model piece by piece over all calibration batches, so that weights may change between the pieces.

Every node runs at most once: tensors that later pieces read are kept, in memory up to a limit and on disk beyond it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from onnxprune.errors import DataError, first_line
from onnxprune.ir.facts import skeleton
from onnxprune.ir.files import runnable
from onnxprune.ir.graph import Node, read_nodes, read_weights
from onnxprune.ir.scratch import Scratch
from onnxprune.ort import session
from onnxprune.types import Array, Feeds

MEMORY = 2**28
"""Bytes of activations that one run keeps in memory; the rest is stored in a temporary folder."""


class Store:
    """Arrays by (tensor, batch): in memory while there is room, otherwise in one file each."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._arrays: dict[tuple[str, int], Array | Path] = {}
        self._folder: Scratch | None = None

    def put(self, name: str, batch: int, array: Array) -> None:
        """Store an array."""
        if self._used + array.nbytes <= self._limit:
            self._used += array.nbytes
            self._arrays[name, batch] = array
            return
        self._folder = self._folder or Scratch()
        path = self._folder.path / f"{len(self._arrays)}-{batch}-{abs(hash(name))}.npy"
        np.save(path, array)
        self._arrays[name, batch] = path

    def get(self, name: str, batch: int) -> Array:
        """The array that was stored."""
        found = self._arrays[name, batch]
        return np.load(found) if isinstance(found, Path) else found

    def drop(self, name: str) -> None:
        """Delete a tensor."""
        for key in [k for k in self._arrays if k[0] == name]:
            found = self._arrays.pop(key)
            if isinstance(found, Path):
                found.unlink()
            else:
                self._used -= found.nbytes

    def close(self) -> None:
        """Delete all arrays."""
        self._arrays.clear()
        if self._folder is not None:
            self._folder.close()


@dataclass(frozen=True, slots=True)
class Piece:
    """The nodes to run for one step.

    Attributes:
        nodes: indices, ascending.
        inputs: kept tensors of earlier pieces that they read.
        outputs: tensors to compute: those requested now and those that later pieces read.
    """

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Schedule:
    """Which nodes run in which step, for the tensors requested in each step.

    Attributes:
        pieces: one per step.
        dropped: for each step, the kept tensors that no later step needs.
    """

    pieces: tuple[Piece, ...] = field(repr=False)
    dropped: tuple[tuple[str, ...], ...] = field(repr=False)


def read_by(node: Node) -> tuple[str, ...]:
    """All tensors that a node reads, including those read by its bodies."""
    return tuple(name for name in (*node.inputs, *node.implicit) if name)


def schedule(nodes: Sequence[Node], given: set[str], wants: Sequence[Sequence[str]]) -> Schedule:
    """Distribute the nodes over steps; step k computes `wants[k]`.

    Args:
        nodes: the nodes of the model, in topological order.
        given: names of inputs and weights, which need not be computed.
    """
    maker = {o: n for n in nodes for o in n.outputs if o}
    readers: dict[str, list[int]] = {}
    for n in nodes:
        for name in read_by(n):
            readers.setdefault(name, []).append(n.index)
    last = _last_step(nodes, maker, given, wants)
    wanted_until = {name: k for k, names in enumerate(wants) for name in names}
    kept: set[str] = set()
    done: set[int] = set()
    pieces, dropped = [], []
    for k, names in enumerate(wants):
        run = _needed(maker, given | kept, names)
        ran = done | run
        made = [o for i in sorted(run) for o in nodes[i].outputs if o]

        def later(name: str, k: int = k, ran: set[int] = ran) -> bool:
            return wanted_until.get(name, -1) > k or any(i not in ran and last[i] > k for i in readers.get(name, ()))

        read = {name for i in run for name in read_by(nodes[i])}
        outputs = [o for o in made if o in names or later(o)]
        pieces.append(Piece(tuple(sorted(run)), tuple(sorted(read & kept)), tuple(outputs)))
        done = ran
        kept |= set(outputs)
        unused = tuple(sorted(name for name in kept if not later(name)))
        kept -= set(unused)
        dropped.append(unused)
    return Schedule(tuple(pieces), tuple(dropped))


def _needed(maker: Mapping[str, Node], available: set[str], names: Sequence[str]) -> set[int]:
    """Indices of the nodes that must run to compute `names` from the available tensors."""
    found: set[int] = set()
    stack = [n for n in names if n not in available]
    while stack:
        node = maker.get(stack.pop())
        if node is not None and node.index not in found:
            found.add(node.index)
            stack += [name for name in read_by(node) if name not in available]
    return found


def _last_step(nodes: Sequence[Node], maker: Mapping[str, Node], given: set[str], wants: Sequence[Sequence[str]]) -> list[int]:
    """For each node, the last step that depends on it; -1 for none."""
    last = [-1] * len(nodes)
    for k in reversed(range(len(wants))):
        stack = [maker[name] for name in wants[k] if name in maker]
        while stack:
            node = stack.pop()
            if last[node.index] < 0:
                last[node.index] = k
                stack += [maker[name] for name in read_by(node) if name in maker and name not in given]
    return last


class Stages:
    """A model that runs step by step over all batches. Its weights may change between steps."""

    def __init__(self, model: ModelProto, wants: Sequence[Sequence[str]], batches: Sequence[Feeds], threads: int = 0) -> None:
        self.model, self.batches, self.threads = model, batches, threads
        self._nodes = read_nodes(model)
        weights = read_weights(model)
        stored = set(weights) | {s.values.name for s in model.graph.sparse_initializer}
        inputs = {v.name for v in model.graph.input} - {t.name for t in model.graph.initializer}
        self._inputs = inputs
        self._wants = [tuple(dict.fromkeys(names)) for names in wants]
        self._schedule = schedule(self._nodes, stored | inputs, self._wants)
        self._store = Store(MEMORY)

    def limit(self, count: int) -> None:
        """Run only the first batches from the next step on."""
        self.batches = self.batches[:count]

    def advance(self, step: int) -> Iterator[dict[str, Array]]:
        """Run the next step; yields its requested tensors batch by batch.

        Raises:
            DataError: the model does not run on a batch.
        """
        piece, names = self._schedule.pieces[step], self._wants[step]
        run = self._open(piece)
        keep = set(piece.outputs) - set(self._schedule.dropped[step])
        for b, feeds in enumerate(self.batches):
            found = run(b, feeds)
            for name in keep:
                self._store.put(name, b, found[name])
            yield {n: found[n] if n in found else feeds[n] if n in feeds else self._store.get(n, b) for n in names}
        for name in self._schedule.dropped[step]:
            self._store.drop(name)

    def _open(self, piece: Piece) -> Any:
        if not piece.nodes:
            return lambda b, feeds: {}
        fed = {name for i in piece.nodes for name in read_by(self._nodes[i])} & self._inputs
        opened: list[Any] = []

        def run(b: int, feeds: Feeds) -> dict[str, Array]:
            values = {n: feeds[n] for n in fed} | {n: self._store.get(n, b) for n in piece.inputs}
            try:
                if not opened:
                    with runnable(part(self.model, piece, values)) as source:
                        opened.append(session(source, self.threads))
                found = opened[0].run(list(piece.outputs), values)
            except Exception as e:  # onnxruntime raises exceptions of its own
                shapes = ", ".join(f"{n}:{'x'.join(map(str, x.shape))}" for n, x in feeds.items())
                reason = first_line(e)
                raise DataError(f"--data: the model does not run on {shapes}: {reason}") from e
            return dict(zip(piece.outputs, found, strict=True))

        return run

    def close(self) -> None:
        """Delete all kept tensors."""
        self._store.close()


def part(model: ModelProto, piece: Piece, values: Mapping[str, Array]) -> ModelProto:
    """A model of some nodes of another, which reads `values` (only their types and ranks matter)."""
    new = skeleton(model)
    for field_name in ("input", "output", "value_info"):
        del getattr(new.graph, field_name)[:]
    nodes = [model.graph.node[i] for i in piece.nodes]
    read = {name for i in piece.nodes for name in _all_reads(model.graph.node[i])}
    made = {o for n in nodes for o in n.output}
    constants = [n for n in model.graph.node if n.op_type == "Constant" and n.output[0] in read - made]
    new.graph.node.extend([*constants, *nodes])
    new.graph.initializer.extend(t for t in model.graph.initializer if t.name in read)
    for name, x in values.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
        new.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, [None] * x.ndim))
    new.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in piece.outputs)
    return new


def _all_reads(node: onnx.NodeProto) -> set[str]:
    from onnxprune.ir.graph import captured

    return {*node.input, *captured(node)}


@contextlib.contextmanager
def stages(model: ModelProto, wants: Sequence[Sequence[str]], batches: Sequence[Feeds]) -> Iterator[Stages]:
    """A `Stages` that cleans up after itself."""
    made = Stages(model, wants, batches)
    try:
        yield made
    finally:
        made.close()

# SPDX-License-Identifier: Apache-2.0
"""How a file carries blocks of one magnitude: codes -1, 0, +1 and a magnitude for each block, in standard operators.

    weight = Reshape(Cast(codes) * Cast(magnitudes))

The weights of a free block are larger codes times a step of its own, which is stored as a magnitude.

onnxruntime computes this once, when it loads the model, so that the model runs as fast as one that stores the weight. Codes
have the shape of the weight with each divided axis split in two, runs and members of a run. Where the last run is shorter, the
magnitudes are expanded to runs of one length instead, sliced, and multiplied by codes in the shape of the weight. Where codes
are too small for free blocks, these come first, as rows of numbers, and a Gather puts all blocks into their order. Magnitudes
and numbers are stored in float16, where that keeps their precision.

The weights of a matrix product may instead be carried by DequantizeLinear, which onnxruntime fuses with the product: they then
stay small in memory, and small batches may be faster. What is faster is for the caller to measure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxprune.compression.blocks import FREE
from onnxprune.compression.division import FINE, Division, as_half
from onnxprune.errors import OptionError
from onnxprune.ir.graph import opsets, read_weights, subgraphs
from onnxprune.ort import run_once
from onnxprune.types import Array, Mask

FUSED_BLOCK = 16
"""The shortest run of inputs that onnxruntime's fused product takes; longer ones must be powers of two."""
WEIGHTS_ARE_NO_INPUTS = 4
"""The oldest IR version in which a file may store tensors that are not inputs, as those of a carrier."""
HALF = 2
"""Bytes of a number in float16."""
CUMULATIVE = 11
"""The opset that CumSum came with."""


@dataclass(frozen=True)
class Codes:
    """A type that codes are stored in.

    Attributes:
        name: of the type, as in `TensorProto`.
        runtime: the oldest version of onnxruntime that loads it and computes it at load.
        bits: that a code takes.
        levels: the largest code of a free block; 0: the type is too small for any.
        opset, ir: the oldest versions of ONNX that allow to cast from it; 0: any that this program reads.
    """

    name: str
    runtime: tuple[int, int]
    bits: int
    levels: int
    opset: int = 0
    ir: int = 0

    def bytes(self, free: float) -> float:
        """Bytes that a weight takes besides its magnitude, if so large a share of blocks is free."""
        return self.bits / 8 if self.levels else (1 - free) * self.bits / 8 + free * HALF

    @property
    def type(self) -> int:
        """The TensorProto data type.

        Raises:
            OptionError: the installed onnx does not know it.
        """
        found = getattr(TensorProto, self.name, None)
        if found is None:
            raise OptionError(f"--runtime: {self.name} codes need onnx 1.20 or newer, found {onnx.__version__}; update onnx")
        return int(found)


KINDS = (Codes("INT8", (1, 20), 8, FINE), Codes("INT4", (1, 24), 4, 7, 21, 10), Codes("INT2", (1, 32), 2, 0, 25, 13))
"""From the type that most runtimes load to the smallest. Measured in one environment per release: tools/runtimes.py."""
CODED = {getattr(TensorProto, kind.name, -1) for kind in KINDS}


def codes_for(runtime: str | None, free: float = 0.0) -> Codes:
    """The codes of the smallest file that a version of onnxruntime loads; None: those that load everywhere.

    Args:
        free: the share of blocks that stay free.

    Raises:
        OptionError: no version, or one that is older than all that were tried.

    >>> [codes_for(v).name for v in (None, "1.20", "1.24.4", "1.32")]
    ['INT8', 'INT8', 'INT4', 'INT2']
    """
    if runtime is None:
        return KINDS[0]
    parts = str(runtime).split(".")
    if len(parts) < 2 or not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        raise OptionError(f"--runtime: got '{runtime}', expected a version of onnxruntime such as 1.24")
    version = (int(parts[0]), int(parts[1]))
    if version < KINDS[0].runtime:
        oldest = ".".join(map(str, KINDS[0].runtime))
        raise OptionError(f"--runtime: got {runtime}, expected {oldest} or newer, the oldest that was tried")
    return min((kind for kind in reversed(KINDS) if kind.runtime <= version), key=lambda kind: kind.bytes(free))


def carried(
    model: ModelProto, divisions: Mapping[str, Division], codes: Codes = KINDS[0], fused: Collection[str] = ()
) -> ModelProto:
    """A copy of the model whose weights are stored as codes and magnitudes.

    Args:
        model: its weights have the blocks that `divisions` state: of one magnitude, or zero.
        divisions: by the name of the weight.
        codes: the type of the codes; the model has at least its opset.
        fused: weights of matrix products that `fusible` names, to be carried by DequantizeLinear.
    """
    found = ModelProto()
    found.CopyFrom(model)
    found.ir_version = max(found.ir_version, codes.ir, WEIGHTS_ARE_NO_INPUTS)
    divisions = {name: division for name, division in divisions.items() if (division.actions != FREE).any()}
    taken = _names(model.graph)
    weights = read_weights(model)
    nodes: list[NodeProto] = []
    tensors = [t for t in model.graph.initializer if t.name not in divisions]
    for name, division in divisions.items():
        carrier = _Carrier(name, taken, codes, opsets(model)[""])
        carrier.carry(weights[name].array, division, name in fused)
        nodes += carrier.nodes
        tensors += carrier.tensors
    old = [node for node in model.graph.node if node.op_type != "Constant" or node.output[0] not in divisions]
    for field, values in (("initializer", tensors), ("node", [*nodes, *old]), ("input", _inputs(model, divisions))):
        del getattr(found.graph, field)[:]
        getattr(found.graph, field).extend(values)
    return found


def _inputs(model: ModelProto, weights: Collection[str]) -> list[ValueInfoProto]:
    """The inputs of a model without these weights, and without any if it is of a version in which all were inputs."""
    listed = weights if model.ir_version >= WEIGHTS_ARE_NO_INPUTS else {*weights, *(t.name for t in model.graph.initializer)}
    return [value for value in model.graph.input if value.name not in listed]


def as_restored(model: ModelProto, names: Collection[str]) -> ModelProto:
    """A copy of a model that stores these weights as `restored` does: as initializers, which are not inputs."""
    found, weights = ModelProto(), read_weights(model)
    found.CopyFrom(model)
    found.ir_version = max(found.ir_version, WEIGHTS_ARE_NO_INPUTS)
    stored = {t.name for t in model.graph.initializer}
    for name in (name for name in names if name not in stored):
        tensor = found.graph.initializer.add()
        tensor.CopyFrom(weights[name].tensor)
        tensor.name = name
    nodes = [node for node in model.graph.node if node.op_type != "Constant" or node.output[0] not in names]
    for field, values in (("node", nodes), ("input", _inputs(model, names))):
        del getattr(found.graph, field)[:]
        getattr(found.graph, field).extend(values)
    return found


def _names(graph: GraphProto) -> set[str]:
    """All tensors of a graph and of its bodies, which may not define a name again."""
    found = {value.name for value in (*graph.input, *graph.output)} | {t.name for t in graph.initializer}
    for node in graph.node:
        found.update(node.input, node.output, *map(_names, subgraphs(node)))
    return found


def fusible(model: ModelProto, divisions: Mapping[str, Division], codes: Codes) -> list[str]:
    """Weights whose product onnxruntime can compute from codes of 4 bits: of MatMul, all blocks along the inputs, none free."""
    if codes.name == "INT8":
        return []
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return [name for name, d in divisions.items() if _is_fusible(name, d, readers.get(name, []))]


def _is_fusible(name: str, division: Division, readers: Sequence[NodeProto]) -> bool:
    runs, shape = division.blocks.runs, division.blocks.shape
    products = all(node.op_type == "MatMul" and list(node.input).index(name) == 1 for node in readers)
    whole = len(shape) == 2 and runs[1] == 1 and runs[0] >= FUSED_BLOCK and runs[0] & (runs[0] - 1) == 0
    return bool(readers) and products and whole and not _has_numbers(division)


def restored(model: ModelProto) -> tuple[ModelProto, frozenset[str]]:
    """A copy of a model that was `carried`, with its weights as plain numbers again; and their names.

    The model itself, and no names, if it carries none.
    """
    chains, stored = _chains(model), {t.name: t for t in model.graph.initializer}
    if not chains:
        return model, frozenset()
    found = ModelProto()
    found.CopyFrom(model)
    gone = {node.output[0] for nodes, _ in chains.values() for node in nodes}
    used = {name for _, names in chains.values() for name in names}
    weights = [_computed(model, name, *chain, stored) for name, chain in chains.items()]
    for field, kept in (
        ("node", [n for n in model.graph.node if not n.output or n.output[0] not in gone]),
        ("initializer", [*(t for t in model.graph.initializer if t.name not in used), *weights]),
    ):
        del getattr(found.graph, field)[:]
        getattr(found.graph, field).extend(kept)
    return found, frozenset(chains)


def unified_names(model: ModelProto) -> list[str]:
    """The weights that a model carries as codes and magnitudes, sorted."""
    return sorted(_chains(model))


Chain = tuple[list[NodeProto], set[str]]
"""The nodes that compute a tensor, and what they read."""


def _chains(model: ModelProto) -> dict[str, Chain]:
    """How the weights that a model carries are made, by name."""
    made = {name: node for node in model.graph.node for name in node.output}
    stored = {t.name: t for t in model.graph.initializer}
    return {name: chain for name in _carried(model) if (chain := _chain(name, made, stored)) is not None}


STEPS = frozenset("Add Cast Concat CumSum DequantizeLinear Expand Gather Mul Not Reshape Slice Sub Transpose Where".split())
"""Operators that make a weight of codes and magnitudes."""


def _carried(model: ModelProto) -> list[str]:
    """Names of the weights that a model may carry, in order: those whose codes it stores."""
    found = (t.name.rpartition("_codes") for t in model.graph.initializer if t.data_type in CODED)
    return list(dict.fromkeys(name for name, codes, _ in found if codes))


def _chain(name: str, made: Mapping[str, NodeProto], stored: Mapping[str, TensorProto]) -> Chain | None:
    """The chain of a tensor, if it is made of codes; None otherwise."""
    nodes: list[NodeProto] = []
    names: set[str] = set()
    queue = [name]
    while queue:
        one = queue.pop()
        if one in stored:
            names.add(one)
        elif one in made and made[one].op_type in STEPS:
            nodes.append(made[one])
            queue += [x for x in made[one].input if x]
        else:
            return None
    held = any(n.startswith(f"{name}_codes") for n in names)
    return (nodes, names) if nodes and held else None


def _computed(
    model: ModelProto, name: str, nodes: Sequence[NodeProto], names: Collection[str], stored: Mapping[str, TensorProto]
) -> TensorProto:
    """A weight as numbers."""
    outputs = {node.output[0] for node in nodes}
    inner = [node for node in model.graph.node if node.output and node.output[0] in outputs]
    graph = helper.make_graph(inner, "weight", [], [helper.make_empty_tensor_value_info(name)], [stored[n] for n in names])
    return numpy_helper.from_array(run_once(graph, opsets(model), {})[0], name)


def _has_numbers(division: Division) -> bool:
    """Whether free blocks are stored as numbers, not as codes."""
    return not division.levels and bool((division.actions == FREE).any())


def _wide(kind: np.dtype[Any]) -> np.dtype[Any]:
    """The type to compute in: onnxruntime has no product of float16 on a CPU, and would not compute it at load."""
    return np.dtype(np.float32) if kind == np.float16 else kind


class _Carrier:
    """The nodes and tensors that make one weight."""

    def __init__(self, name: str, taken: set[str], codes: Codes, opset: int) -> None:
        self.name, self.taken, self.codes, self.opset = name, taken, codes, opset
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []

    def carry(self, w: Array, division: Division, fused: bool) -> None:
        steps, blocks = division.steps(w), division.blocks
        codes, steps = division.codes(w, steps), steps.astype(w.dtype)
        if fused:
            self._dequantized(codes, steps.reshape(blocks.grid), blocks.runs[0])
            return
        pairs = tuple(zip(blocks.grid, blocks.runs, strict=True))
        whole, sizes = tuple(n * run for n, run in pairs), tuple(n for pair in pairs for n in pair)
        members = tuple(range(1, len(sizes), 2))

        def split(x: Array) -> Array:
            return np.pad(x, [(0, n - m) for n, m in zip(whole, w.shape, strict=True)]).reshape(sizes)

        if _has_numbers(division):
            rows = self._rows(split(w), split(codes), steps, members, division.actions)
            self._shaped(rows, whole, w.shape, last=True)
            return
        magnitudes = self._magnitudes(steps.reshape([n for many in blocks.grid for n in (many, 1)]))
        if whole == w.shape:
            self._shaped(self._times(split(codes), magnitudes, w.dtype), whole, w.shape, last=True)
            return
        # codes in the shape of the weight, and magnitudes repeated for them: codes of shorter runs would be filled up
        repeated = self._node("Expand", [magnitudes, self._stored("runs", np.array(sizes))])
        self._times(codes, self._shaped(repeated, whole, w.shape), w.dtype, last=True)

    def _shaped(self, value: str, whole: tuple[int, ...], shape: tuple[int, ...], last: bool = False) -> str:
        """All runs as one tensor, and of it what the weight has."""
        found = self._node("Reshape", [value, self._stored("shape", np.array(whole))], last=last and whole == shape)
        return found if whole == shape else self._slice(found, shape, last)

    def _slice(self, value: str, shape: tuple[int, ...], last: bool) -> str:
        starts, ends = np.zeros(len(shape), np.int64), np.array(shape)
        if self.opset < 10:
            return self._node("Slice", [value], last=last, starts=starts.tolist(), ends=ends.tolist())
        return self._node("Slice", [value, self._stored("starts", starts), self._stored("ends", ends)], last=last)

    def _dequantized(self, codes: Array, magnitudes: Array, run: int) -> None:
        stored = [self._codes(codes), self._stored("magnitudes", magnitudes)]
        self._node("DequantizeLinear", stored, last=True, axis=0, block_size=run)

    def _rows(self, split: Array, codes: Array, steps: Array, members: tuple[int, ...], actions: Array) -> str:
        """Blocks as rows, those that are free first, put into their order; as `split` again."""
        order, free = (*range(0, split.ndim, 2), *members), actions == FREE
        numbers, signs = (x.transpose(order).reshape(len(actions), -1) for x in (split, codes))
        product = self._times(signs[~free], self._magnitudes(steps[~free, None]), split.dtype)
        parts = [self._short("free", numbers[free], numbers.dtype), product]
        ordered = self._node("Gather", [self._node("Concat", parts, axis=0), self._order(free)], axis=0)
        shape = np.array([split.shape[k] for k in order])
        spread = self._node("Reshape", [ordered, self._stored("blocks", shape)])
        return self._node("Transpose", [spread], perm=np.argsort(order).tolist())

    def _order(self, free: Mask) -> str:
        """The row of each block: the free ones count up from 0, the others from the number of free ones."""
        ups = np.where(free, np.cumsum(free) - 1, free.sum() + np.cumsum(~free) - 1).astype(np.int32)
        if self.opset < CUMULATIVE:
            return self._stored("order", ups)
        mask = self._stored("is_free", free)
        first, last = np.array(1, np.int32), np.array(free.sum() - 1, np.int32)
        counts = [self._counted(mask), self._counted(self._node("Not", [mask]))]
        among = self._node("Sub", [counts[0], self._stored("one", first)])
        behind = self._node("Add", [counts[1], self._stored("last", last)])
        return self._node("Where", [mask, among, behind])

    def _counted(self, mask: str) -> str:
        axis = self._stored("axis", np.array(0, np.int32))
        return self._node("CumSum", [self._cast(mask, np.dtype(np.int32)), axis])

    def _magnitudes(self, steps: Array) -> str:
        return self._short("magnitudes", steps, _wide(steps.dtype))

    def _short(self, what: str, value: Array, kind: np.dtype[Any]) -> str:
        """Numbers of a type, stored in float16 if they have no other values there."""
        sizes = value if (half := as_half(value)) is None else half
        found = self._stored(what, sizes)
        return found if sizes.dtype == kind else self._cast(found, kind)

    def _times(self, codes: Array, magnitudes: str, kind: np.dtype[Any], last: bool = False) -> str:
        wide = _wide(kind)
        product = self._node("Mul", [self._cast(self._codes(codes), wide), magnitudes], last=last and kind == wide)
        return product if kind == wide else self._cast(product, kind, last)

    def _cast(self, name: str, kind: np.dtype[Any], last: bool = False) -> str:
        return self._node("Cast", [name], last=last, to=helper.np_dtype_to_tensor_dtype(kind))

    def _codes(self, codes: Array) -> str:
        return self._stored("codes", codes.astype(helper.tensor_dtype_to_np_dtype(self.codes.type)))

    def _stored(self, what: str, value: Array) -> str:
        name = self._new(what)
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _node(self, op: str, inputs: list[str], last: bool = False, **attributes: Any) -> str:
        output = self.name if last else self._new(op.lower())
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def _new(self, what: str) -> str:
        name, n = f"{self.name}_{what}", 1
        while name in self.taken:
            name, n = f"{self.name}_{what}{n}", n + 1
        self.taken.add(name)
        return name

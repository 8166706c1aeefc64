# SPDX-License-Identifier: Apache-2.0
"""Weights that the graph computes from other weights (weight normalisation, scaling, merged adapters) are computed once.

The result is stored under the name that the tensor has in the graph, so its channels can be cut as those of any weight.
Weights that are only moved or cast need not be computed: labels follow them. Quantized weights stay quantized.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxprune.ir.graph import FLOATS, UNKNOWN, Fact, Weight, captured, opsets, read_weights, subgraphs, with_nodes
from onnxprune.ir.infer import RANDOM, Interpreter, evaluate, fact_of_weight
from onnxprune.ir.tensors import SMALL, nbytes
from onnxprune.ort import run_once
from onnxprune.types import Array

MOVES = frozenset(
    """
    Cast CastLike Concat DepthToSpace Expand Flatten Gather Identity Pad Reshape Slice SpaceToDepth Split Squeeze Tile Transpose
    Unsqueeze
    """.split()
)
"""Operators whose results need not be stored: they move or cast values, and labels follow them."""
NOT_FOLDED = RANDOM | {"Constant", "DequantizeLinear", "Dropout"}
"""Operators whose results are not constants, or are what quantization stores less for."""
QUANTIZED = {
    getattr(TensorProto, name)
    for name in "INT8 UINT8 INT4 UINT4 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT4E2M1".split()
}
MOST_GROWTH = 2
"""A result may be larger than the weights it replaces by this factor (float16 to float32), but no file is blown up."""


@dataclass(frozen=True, slots=True)
class _Chain:
    """How a tensor is computed: the positions of the nodes, in order, and the stored tensors that they read."""

    nodes: tuple[int, ...]
    stored: frozenset[str]


def fold(model: ModelProto) -> tuple[ModelProto, dict[str, str]]:
    """The model with weights that it computes from stored ones stored instead; the model itself if there are none.

    Also, for every tensor that is then gone, the stored result that it served.

    Args:
        model: a model with its nodes in order.
    """
    weights = read_weights(model)
    computed = _computed(model, weights)
    chains = {name: _chain(model, computed, name) for name in _results(model, computed)}
    if not chains:
        return model, {}
    facts = _facts(model, weights, computed)
    chosen = [name for name, chain in chains.items() if _is_weight(model, name, chain, weights, facts)]
    while unfit := _unfit(model, chains, chosen, weights, facts):
        chosen = [name for name in chosen if name not in unfit]
    values = {name: _value(model, chains[name], name, weights, facts[name]) for name in chosen}
    found = {name: tensor for name, tensor in values.items() if tensor is not None}
    return _stored(model, {name: chains[name] for name in found}, found) if found else (model, {})


def _computed(model: ModelProto, weights: Mapping[str, Weight]) -> dict[str, int]:
    """Tensors that are computed from stored ones alone, which are not quantized -> the position of the node."""
    plain = {name for name, w in weights.items() if w.tensor.data_type not in QUANTIZED}
    found: dict[str, int] = {}
    for k, node in enumerate(model.graph.node):
        reads = [name for name in node.input if name]
        usable = weights if node.op_type == "QuantizeLinear" else plain  # it reads a zero point
        known = bool(reads) and all(name in usable or name in found for name in reads)
        pure = node.domain in ("", "ai.onnx") and node.op_type not in NOT_FOLDED and not any(subgraphs(node))
        if known and pure:
            found.update({name: k for name in node.output if name})
    return found


def _facts(model: ModelProto, weights: Mapping[str, Weight], computed: Mapping[str, int]) -> dict[str, Fact]:
    interpreter = Interpreter(model)
    facts = {name: fact_of_weight(w) for name, w in weights.items()}
    for k in dict.fromkeys(computed.values()):
        node = model.graph.node[k]
        try:
            facts.update(interpreter(node, {name: facts.get(name, UNKNOWN) for name in node.input if name}))
        except Exception:  # InferenceError and the like: the tensor stays as it is
            facts.update({name: UNKNOWN for name in node.output if name})
    return facts


def _results(model: ModelProto, computed: Mapping[str, int]) -> list[str]:
    """Computed tensors that other nodes read, in graph order. (An output of the model is never cut.)"""
    made = set(computed.values())
    read = {name for k, n in enumerate(model.graph.node) if k not in made for name in (*n.input, *captured(n))}
    read.update(name for n in model.graph.node for name in captured(n))
    outputs = {v.name for v in model.graph.output}
    return [name for name in computed if name in read and name not in outputs]


def _chain(model: ModelProto, computed: Mapping[str, int], name: str) -> _Chain:
    nodes, stored, queue = set[int](), set[str](), [name]
    while queue:
        current = queue.pop()
        place = computed.get(current)
        if place is None:
            stored.add(current)
        elif place not in nodes:
            nodes.add(place)
            queue += [n for n in model.graph.node[place].input if n]
    return _Chain(tuple(sorted(nodes)), frozenset(stored))


def _is_weight(model: ModelProto, name: str, chain: _Chain, weights: Mapping[str, Weight], facts: Mapping[str, Fact]) -> bool:
    """Whether a result is computed, and not only moved, from a weight, and is of the kind of a weight."""
    nodes = [model.graph.node[k] for k in chain.nodes]
    maker = next(node for node in nodes if name in node.output)
    source = any(weights[s].is_float and math.prod(weights[s].shape) > 1 for s in chain.stored)
    kinds = QUANTIZED if maker.op_type == "QuantizeLinear" else FLOATS
    several = facts[name].shape is not None and math.prod(facts[name].shape or ()) > 1
    numbers = FLOATS | QUANTIZED  # nodes on the way that compute sizes do not count
    computes = any(n.op_type not in MOVES and any(o and facts[o].dtype in numbers for o in n.output) for n in nodes)
    return source and several and facts[name].dtype in kinds and computes


def _bytes(fact: Fact) -> int:
    """Bytes of a tensor; 0 if its shape is unknown."""
    known = fact.shape is not None and -1 not in fact.shape
    return nbytes(TensorProto(data_type=fact.dtype, dims=fact.shape)) if known else 0


def _unfit(
    model: ModelProto,
    chains: Mapping[str, _Chain],
    chosen: Sequence[str],
    weights: Mapping[str, Weight],
    facts: Mapping[str, Fact],
) -> set[str]:
    """Chosen tensors that would take much more space than the weights that are no longer needed then."""
    _, read = _kept(model, {name: chains[name] for name in chosen})
    freed = {s for name in chosen for s in chains[name].stored} - read
    unfit = set()
    for name in chosen:
        chain = chains[name]
        room = SMALL + MOST_GROWTH * sum(nbytes(weights[s].tensor) for s in chain.stored & freed)
        widest = max(_bytes(facts[o]) for k in chain.nodes for o in model.graph.node[k].output if o)
        if 0 < _bytes(facts[name]) <= room and widest <= 16 * room:
            freed -= chain.stored  # a weight that several results need makes room for one of them
        else:
            unfit.add(name)
    return unfit


def _kept(model: ModelProto, chains: Mapping[str, _Chain]) -> tuple[list[int], set[str]]:
    """Positions of the nodes that are still needed when the results of `chains` are stored, and all tensors that are read."""
    spared = {k for chain in chains.values() for k in chain.nodes}
    read, kept = {v.name for v in model.graph.output}, []
    for k, node in reversed([*enumerate(model.graph.node)]):
        if k not in spared or any(name in read and name not in chains for name in node.output):
            read.update(node.input, captured(node))
            kept.append(k)
    return kept[::-1], read


def _value(model: ModelProto, chain: _Chain, name: str, weights: Mapping[str, Weight], fact: Fact) -> TensorProto | None:
    """The values of a tensor, as onnxruntime or else ONNX's reference evaluator computes them; None if neither can."""
    nodes = [model.graph.node[k] for k in chain.nodes]
    versions = opsets(model)
    value: Array | None
    try:
        value = _by_onnxruntime(nodes, name, {s: weights[s] for s in sorted(chain.stored)}, versions)
    except Exception:  # not implemented there, for example bfloat16
        value = _by_reference(nodes, name, {s: weights[s].array for s in chain.stored}, versions)
    if value is None:
        return None
    tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
    return tensor if tensor.data_type == fact.dtype else None


def _by_onnxruntime(nodes: Iterable[NodeProto], name: str, stored: Mapping[str, Weight], versions: Mapping[str, int]) -> Array:
    graph = GraphProto(name="weight", node=nodes, output=[onnx.helper.make_empty_tensor_value_info(name)])
    feeds = {}
    for source, weight in stored.items():
        if nbytes(weight.tensor) < SMALL:  # some kernels demand that sizes and axes are initializers
            graph.initializer.append(onnx.numpy_helper.from_array(weight.array, source))
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(source, weight.tensor.data_type, weight.shape))
            feeds[source] = np.asarray(weight.array)
    return np.asarray(run_once(graph, versions, feeds)[0])


def _by_reference(nodes: Iterable[NodeProto], name: str, values: dict[str, Array], versions: Mapping[str, int]) -> Array | None:
    known = dict(values)
    for node in nodes:
        found = evaluate(node, versions, [known[n] if n else None for n in node.input])
        if found is None:
            return None
        known.update(zip(node.output, found, strict=False))
    return known.get(name)


def _stored(
    model: ModelProto, chains: Mapping[str, _Chain], values: Mapping[str, TensorProto]
) -> tuple[ModelProto, dict[str, str]]:
    """The model with the results of `chains` as initializers, without what only they needed, and what served which result."""
    kept, read = _kept(model, chains)
    unneeded = {s for chain in chains.values() for s in chain.stored} - read
    nodes = [_without(model.graph.node[k], values) for k in kept if not unneeded & set(model.graph.node[k].output)]
    new = with_nodes(model, nodes)
    made = {name for node in nodes for name in node.output}
    gone = unneeded | {o for k in set(range(len(model.graph.node))) - set(kept) for o in model.graph.node[k].output} - made
    fields: tuple[Any, ...] = (new.graph.initializer, new.graph.input, new.graph.value_info)
    for field in fields:
        remaining = [x for x in field if x.name not in gone]
        del field[:]
        field.extend(remaining)
    new.graph.initializer.extend(values.values())
    if new.ir_version < 4:
        new.graph.input.extend(onnx.helper.make_tensor_value_info(n, t.data_type, t.dims) for n, t in values.items())
    served = {
        source: name
        for name, chain in chains.items()
        for source in (*chain.stored, *(o for k in chain.nodes for o in model.graph.node[k].output))
        if source in gone and source not in chains
    }
    return new, served


def _without(node: NodeProto, stored: Mapping[str, TensorProto]) -> NodeProto:
    """A node that is still needed for other outputs than those that are stored now."""
    if not any(name in stored for name in node.output):
        return node
    new = NodeProto()
    new.CopyFrom(node)
    for k, name in enumerate(node.output):
        new.output[k] = f"{name} (stored)" if name in stored else name
    return new

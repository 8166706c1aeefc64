# SPDX-License-Identifier: Apache-2.0
"""Type, shape and (for sizes and other small constants) values of every tensor.

The graph is read node by node (`infer.py`). Sizes that the file leaves open are filled in twice with different numbers (two
*cases*); whatever differs between the cases is dynamic.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.shape_inference
from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxprune.ir.bodies import Flat, body_graphs, flatten
from onnxprune.ir.graph import UNKNOWN, Fact, Facts, Graph, Node, Weight, free_inputs
from onnxprune.ir.infer import Interpreter, fact_of_type, fact_of_weight
from onnxprune.ir.loops import entering, is_settled, runs_of
from onnxprune.ir.sizes import (
    FIRST,
    LENGTHS_OF_FIRST,
    LENGTHS_OF_SECOND,
    SECOND,
    Trial,
    check_shapes,
    input_facts,
    open_batch,
    trials,
    unranked,
)
from onnxprune.ir.tensors import copy_without
from onnxprune.types import Shapes

CASES_OF_BENCHMARK = ((224, 224), (48, 320), *FIRST)


def _first_channels(nodes: Sequence[Node], weights: Mapping[str, Weight], name: str) -> int:
    """The number of channels that the first convolution on input `name` expects; 3 if there is none."""
    for node in nodes:
        if node.op == "Conv" and node.inputs[0] == name and node.inputs[1] in weights:
            return int(weights[node.inputs[1]].shape[1] * node.attribute("group", 1))
    return 3


@dataclass(frozen=True, slots=True)
class Reading:
    """The facts of every tensor for one choice of the open sizes.

    Attributes:
        facts: facts of every tensor, and of the tensors between the parts of fused nodes.
        contradictions: the number of times that the model contradicts that choice.
        empty: the number of tensors that it leaves without elements.
        parts: index of a fused node -> the nodes that it stands for.
        nodes: all nodes.
    """

    facts: dict[str, Fact]
    contradictions: int
    empty: int
    parts: dict[int, tuple[Node, ...]]
    nodes: Sequence[Node]

    @property
    def faults(self) -> tuple[int, int]:
        """How badly that choice suits the model; less is better."""
        return self.contradictions, self.empty

    def elementary(self) -> Iterator[Node]:
        """All nodes, with each fused node replaced by its parts."""
        for node in self.nodes:
            yield from self.parts.get(node.index, (node,))


def interpret(model: ModelProto, flat: Flat, trial: Trial) -> Reading:
    """The facts of every tensor for one choice of the open sizes."""
    interpreter, nodes = Interpreter(model), flat.nodes
    facts = {name: fact_of_weight(w) for name, w in flat.weights.items()} | dict(flat.sparse)
    facts.update(input_facts(free_inputs(model), trial, lambda name: _first_channels(nodes, flat.weights, name)))
    stated, wrong = _Stated(model), set[int]()
    parts: dict[int, tuple[Node, ...]] = {}
    bodies = flat.bodies[1:]
    k = 0
    while k < len(nodes):
        node = nodes[k]
        for body in (b for b in bodies if b.first == k):
            owner = nodes[body.owner].proto
            for name, fact in entering(owner, body, facts).items():
                # what the file states may hold for the first iteration only
                facts[name] = fact if name in facts else stated.better(name, fact)
            facts[body.prefix] = Fact(TensorProto.INT64, (runs_of(owner, body, facts),))
        if node.inputs or node.outputs[0] not in facts:
            inputs = {name: facts.get(name, UNKNOWN) for name in (*node.inputs, *node.implicit) if name}
            wrong.discard(k)
            try:
                pieces, found = interpreter.with_parts(node.proto, inputs)
                if pieces:
                    parts[k] = tuple(node.part(p) for p in pieces)
            except Exception:  # InferenceError and the like: unknown tensors are pinned, and onnxruntime has the last word
                found = {name: UNKNOWN for name in node.outputs if name}
                wrong.add(k)
            facts.update({name: stated.better(name, fact) for name, fact in found.items()})
            if node.op == "Reshape" and not _same_count(facts[node.inputs[0]], facts[node.outputs[0]]):
                wrong.add(k)
        k = next((b.first for b in bodies if b.owner == k and not is_settled(node.proto, b, facts)), k + 1)
    # an empty tensor of known value is an empty list of sizes or the like
    made = (facts[name] for node in nodes for name in node.outputs if name and name in facts)
    empty = sum(0 in (fact.shape or ()) and fact.value is None for fact in made)
    return Reading(facts, _contradictions(flat, wrong), empty, parts, nodes)


def _contradictions(flat: Flat, wrong: Collection[int]) -> int:
    """The number of nodes that contradict a choice of sizes; of the branches of an If only the one that fits best counts."""
    counts = [0] * len(flat.bodies)
    for k in wrong:
        counts[flat.nodes[k].body] += 1
    owners: dict[int, list[int]] = {}
    for k, body in enumerate(flat.bodies[1:], 1):
        owners.setdefault(body.owner, []).append(k)
    for owner, inner in reversed(owners.items()):  # nodes in a body after the node around it
        counts[flat.nodes[owner].body] += min(counts[k] for k in inner)
    return counts[0]


def _same_count(a: Fact, b: Fact) -> bool:
    """Whether two shapes, as far as they are known, have the same number of elements."""
    if a.shape is None or b.shape is None or -1 in a.shape or -1 in b.shape:
        return True
    return bool(np.prod(a.shape) == np.prod(b.shape))


class _Stated:
    """What the file itself, or inference over the whole model, states about tensors that node-wise inference leaves open."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._infos: dict[str, Fact] | None = None

    def better(self, name: str, fact: Fact) -> Fact:
        if fact.dtype and fact.shape is not None and -1 not in fact.shape:
            return fact
        if self._infos is None:
            self._infos = {v.name: fact_of_type(v.type) for v in self._all_infos()}
        stated = self._infos.get(name, UNKNOWN)
        if fact.shape is None or stated.shape is None or len(stated.shape) != len(fact.shape):
            return stated if fact.shape is None and (stated.shape is not None or stated.dtype) else fact
        return Fact(fact.dtype, tuple(b if a < 0 else a for a, b in zip(fact.shape, stated.shape, strict=True)), fact.value)

    def _all_infos(self) -> Iterator[ValueInfoProto]:
        light = without_large_weights(self._model)
        try:
            inferred = onnx.shape_inference.infer_shapes(light)  # without values, which can take gigabytes
        except Exception:  # inference over the whole model is optional
            inferred = light
        for graph, body in body_graphs(inferred):
            for value in (*graph.value_info, *graph.output, *(graph.input if body.prefix else ())):
                yield ValueInfoProto(name=body.named(value.name), type=value.type)


def without_large_weights(model: ModelProto) -> ModelProto:
    """A copy of the model in which large tensors keep their type and shape but have no values."""
    light = skeleton(model)
    for t in model.graph.initializer:
        light.graph.initializer.add().CopyFrom(t if int(np.prod(t.dims)) <= 1024 else _hollow(t))
    for node in model.graph.node:
        new = light.graph.node.add()
        if node.op_type == "Constant" and node.ByteSize() > 8192 and node.attribute[0].HasField("t"):
            new.op_type, new.name, new.domain = node.op_type, node.name, node.domain
            new.output.extend(node.output)
            new.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(_hollow(node.attribute[0].t))
        else:
            new.CopyFrom(node)
    return light


def _hollow(t: TensorProto) -> TensorProto:
    return TensorProto(name=t.name, data_type=t.data_type, dims=t.dims)


def skeleton(model: ModelProto) -> ModelProto:
    """A copy of the model without the nodes and initializers of its main graph."""
    copy = ModelProto()
    copy_without(model, copy, {"graph"})
    copy_without(model.graph, copy.graph, {"node", "initializer"})
    return copy


def read_graph(model: ModelProto, fed: Shapes | None = None) -> Graph:
    """The frozen view of a model: nodes, weights, and facts in every case.

    Args:
        model: a valid model with its weights in memory.
        fed: input name -> shape, for inputs whose open sizes the user has given.

    Raises:
        OptionError: `fed` contradicts the model.
    """
    check_shapes(model, fed or {})
    flat, inputs = flatten(model), free_inputs(model)
    dynamic = any(-1 in (fact_of_type(v.type).shape or (-1,)) for v in inputs)
    pairs = FIRST if dynamic else FIRST[:1]
    readings = [_best_reading(model, flat, trials(pairs, 1, LENGTHS_OF_FIRST, fed or {}))]
    if dynamic:
        readings.append(_second_reading(model, flat, fed or {}, readings[0]))
    cases = [r.facts for r in readings]
    facts = {name: Facts(tuple(c.get(name, UNKNOWN) for c in cases)) for name in cases[0]}
    outputs = tuple(v.name for v in model.graph.output)
    ends = tuple(v.name for v in inputs), outputs
    return Graph(model, flat.nodes, flat.weights, facts, *ends, fed or {}, readings[0].parts, bodies=flat.bodies)


def read_once(model: ModelProto, pairs: Sequence[tuple[int, int]], fed: Shapes) -> tuple[Reading, tuple[str, ...]]:
    """The reading for the first (height, width) that the model does not contradict, and the names of the model's inputs."""
    check_shapes(model, fed)
    reading = _best_reading(model, flatten(model), trials(pairs, 1, LENGTHS_OF_FIRST, fed))
    return reading, tuple(v.name for v in free_inputs(model))


def _second_reading(model: ModelProto, flat: Flat, fed: Shapes, first: Reading) -> Reading:
    """A reading with other sizes than the first.

    They do not depend on the sizes that the user gives, so that whatever depends on open sizes shows. A model that works with
    few sizes gets those of the first reading, with another batch if it accepts that.
    """
    inputs = free_inputs(model)
    best = _best_reading(model, flat, trials(SECOND, 2, LENGTHS_OF_SECOND, unranked(inputs, fed)))
    taken = {v.name: shape for v in inputs if (shape := first.facts[v.name].shape) is not None}
    for known in (open_batch(inputs, taken), taken):
        if best.faults <= first.faults:
            break
        found = _best_reading(model, flat, trials(SECOND[:1], 2, LENGTHS_OF_SECOND[:1], known))
        best = min(best, found, key=lambda reading: reading.faults)
    return best


def _best_reading(model: ModelProto, flat: Flat, choices: Iterable[Sequence[Trial]]) -> Reading:
    """The reading with the fewest faults, the first of several. Further lengths are tried only if tensors are empty."""
    best: Reading | None = None
    for choice in choices:
        for trial in choice:
            reading = interpret(model, flat, trial)
            if best is None or reading.faults < best.faults:
                best = reading
            if best.faults == (0, 0):
                return best
        assert best is not None
        if not best.empty:
            return best
    assert best is not None
    return best

# SPDX-License-Identifier: Apache-2.0
"""Which bodies a verification must reach, and models that run them whatever their conditions say.

Seeded inputs reach one branch of an If. So that the other one is compared too, both models are run again with that branch in
place of the If; a Loop that may not run is made to run twice. The nodes that compute the conditions are compared as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.errors import VerificationError
from onnxprune.ir.bodies import Flat, flatten, put_back
from onnxprune.ir.facts import skeleton
from onnxprune.ir.graph import Body, Graph, defined
from onnxprune.types import Mask

Choice = frozenset[str]
"""Prefixes of bodies that must run."""


def choices(coupled: Coupled, dropped: Mask) -> tuple[Choice, ...]:
    """Bodies to run together, so that each body that a cut changes and that may not run otherwise is in one of the choices."""
    found: list[dict[int, str]] = []
    for k in sorted(_changed(coupled, dropped)):
        path = dict(_path(coupled.graph, k))
        fits = next((c for c in found if all(c.get(owner, prefix) == prefix for owner, prefix in path.items())), None)
        if path and fits is None:
            found.append(path)
        elif fits is not None:
            fits.update(path)
    return tuple(frozenset(c.values()) for c in found)


def _changed(coupled: Coupled, dropped: Mask) -> set[int]:
    """Bodies with a node that a cut changes."""
    cut = {name for name, flow in coupled.flows.items() if any(x is not None and dropped[x].any() for x in flow.axes)}
    return {n.body for n in coupled.graph.nodes if n.body and not cut.isdisjoint((*n.inputs, *n.outputs))}


def _path(graph: Graph, k: int) -> Iterator[tuple[int, str]]:
    """(owner, prefix) of a body and of those around it, except loops that are known to run."""
    while k:
        body = graph.bodies[k]
        if not _surely_runs(graph, body):
            yield body.owner, body.prefix
        k = body.parent


def _surely_runs(graph: Graph, body: Body) -> bool:
    owner = graph.nodes[body.owner]
    if owner.op != "Loop":
        return owner.op == "Scan"
    values = [graph.facts[name].value if name else np.ones(1) for name in owner.inputs[:2]]
    return all(v is not None and v.size == 1 and v.item() > 0 for v in values)


def running(model: ModelProto, choice: Collection[str]) -> ModelProto:
    """The model with the chosen branches in place of their Ifs, under the names that the analysis gives to their tensors, and
    with chosen loops that run twice.

    Raises:
        VerificationError: the model has no such body.
    """
    flat = flatten(model)
    if missing := set(choice).difference(body.prefix for body in flat.bodies):
        raise VerificationError(f"the pruned model has no body '{min(missing)[:-1]}', which the original has")
    chosen = {k for k, body in enumerate(flat.bodies) if body.prefix in choice}
    forced = {flat.bodies[k].owner: k for k in chosen}
    place = _places(flat, {k for k in chosen if flat.nodes[flat.bodies[k].owner].op == "If"}, forced)
    new = skeleton(model)
    new.graph.initializer.extend(model.graph.initializer)
    nodes: list[tuple[NodeProto, int]] = []
    for node in flat.nodes:
        if node.body not in place:
            continue
        if node.index not in forced:
            nodes.append((node.proto, place[node.body]))
        elif node.op == "If":
            ends = zip(flat.bodies[forced[node.index]].outputs, node.outputs, strict=False)
            nodes += [(onnx.helper.make_node("Identity", [a], [b]), place[node.body]) for a, b in ends if b]
        else:
            nodes.append((_twice(new, node.proto), place[node.body]))

    def finish(graph: onnx.GraphProto, body: Body) -> None:
        graph.initializer.extend(body.proto.initializer)

    moved = [body for k, body in enumerate(flat.bodies) if place.get(k, k) != k]
    free = {body.prefix + name for body in moved for name in defined(body.proto)}
    names = [{old: new for old, new in body.names.items() if new not in free} for body in flat.bodies]
    bodies = [replace(body, names=own) for body, own in zip(flat.bodies, names, strict=True)]
    new.graph.node.extend(put_back(bodies, nodes, finish))
    for body in moved:
        _move_stored(new, body)
    return new


def _places(flat: Flat, branches: Collection[int], forced: Mapping[int, int]) -> dict[int, int]:
    """Body -> the body that its nodes stand in; without those of branches that are not chosen."""
    found = {0: 0}
    for k, body in enumerate(flat.bodies[1:], 1):
        other = forced.get(body.owner, k) != k
        if body.parent in found and not other:
            found[k] = found[body.parent] if k in branches else k
    return found


def _twice(model: ModelProto, loop: NodeProto) -> NodeProto:
    """A Loop that runs twice."""
    new = NodeProto()
    new.CopyFrom(loop)
    for k, value in enumerate((np.array(2), np.array(True))):
        if new.input[k]:
            new.input[k] = f"{loop.output[0]} forced {k}"
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, new.input[k]))
    return new


def _move_stored(model: ModelProto, body: Body) -> None:
    """Give the main graph what a body stores."""
    for t in body.proto.initializer:
        moved = model.graph.initializer.add()
        moved.CopyFrom(t)
        moved.name = body.named(t.name)
    for s in body.proto.sparse_initializer:
        sparse = model.graph.sparse_initializer.add()
        sparse.CopyFrom(s)
        sparse.values.name = body.named(s.values.name)

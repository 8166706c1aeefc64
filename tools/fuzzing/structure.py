# SPDX-License-Identifier: Apache-2.0
"""Mutations of the structure of a model: nodes, names, functions, bodies. Each says what it did, or "" if it did nothing."""

from __future__ import annotations

from random import Random
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto, helper

from fuzzing.blobs import NAMES, one
from fuzzing.fields import Subject, graphs, nodes, tensors

OPS = """Relu Conv MatMul Add Reshape Identity Softmax Gather Loop If Constant Shape Strange Cast Split Sum Concat LSTM
    Einsum""".split()


def names(s: Subject) -> list[str]:
    """All names of tensors in a model."""
    given = {v.name for g in graphs(s.model.graph) for v in g.input} | {
        t.name for g in graphs(s.model.graph) for t in g.initializer
    }
    return sorted({*given, *(o for n in nodes(s) for o in n.output if o)})


def inputs(rng: Random, s: Subject) -> str:
    """An input of a node renamed, dropped, doubled, emptied or swapped."""
    return _ends(rng, s, "input")


def outputs(rng: Random, s: Subject) -> str:
    """An output of a node renamed, dropped, doubled, emptied or swapped."""
    return _ends(rng, s, "output")


def _ends(rng: Random, s: Subject, field: str) -> str:
    n = one(rng, [n for n in nodes(s) if getattr(n, field)])
    if n is None:
        return ""
    found: list[str] = list(getattr(n, field))
    at, kind = (
        rng.randrange(len(found)),
        rng.choice("other other renamed dropped doubled emptied swapped none".split()),
    )
    if kind == "other":
        found[at] = one(rng, names(s)) or "x"
    elif kind == "renamed":
        found[at] = rng.choice(NAMES)
    elif kind == "dropped":
        del found[at]
    elif kind == "doubled":
        found.insert(at, found[at])
    elif kind == "emptied":
        found[at] = ""
    elif kind == "swapped":
        rng.shuffle(found)
    else:
        found = []
    getattr(n, field)[:] = found
    return f"{n.op_type}: {field} {at} {kind}"


def operator(rng: Random, s: Subject) -> str:
    """Another operator or domain."""
    n = one(rng, nodes(s))
    if n is None:
        return ""
    was = n.op_type
    if rng.random() < 0.3:
        n.domain = rng.choice(("ai.onnx", "ai.onnx.ml", "com.microsoft", "local", "nobody", *NAMES))
    elif rng.random() < 0.4:
        n.op_type = rng.choice([m.op_type for m in nodes(s)])
    else:
        n.op_type = rng.choice((*OPS, was.lower(), was + "X", *NAMES))
    return f"{was}: now {n.domain}.{n.op_type}"[:80]


def order(rng: Random, s: Subject) -> str:
    """A node removed, stored twice, moved, or one between two others."""
    g = rng.choice(graphs(s.model.graph))
    n = one(rng, list(g.node))
    if n is None:
        return ""
    kind = rng.choice(("removed", "twice", "moved", "all moved", "identity", "identity", "cast", "empty"))
    copy, at = NodeProto.FromString(n.SerializeToString()), rng.randrange(len(g.node))
    if kind in ("removed", "moved"):
        g.node.remove(n)
    if kind in ("twice", "moved"):
        g.node.insert(at, copy)
    elif kind == "all moved":
        some = [NodeProto.FromString(m.SerializeToString()) for m in g.node]
        rng.shuffle(some)
        del g.node[:]
        g.node.extend(some)
    elif kind in ("identity", "cast") and n.input:
        made: dict[str, Any] = {"to": rng.choice((1, 1, 10, 11))} if kind == "cast" else {}
        g.node.insert(list(g.node).index(n), helper.make_node(kind.title(), [n.input[0]], ["between"], **made))
        n.input[0] = "between"
    elif kind == "empty":
        del g.node[:]
    return f"{copy.op_type}: {kind}"


def renamed(rng: Random, s: Subject) -> str:
    """A tensor with another name wherever it stands: the model is as good as before."""
    old, new = one(rng, names(s)), rng.choice(NAMES)
    if old is None:
        return ""
    for n in nodes(s):
        for field in (n.input, n.output):
            field[:] = [new if name == old else name for name in field]
    for g in graphs(s.model.graph):
        named: list[Any] = [*g.input, *g.output, *g.value_info, *g.initializer]
        for v in named:
            v.name = new if v.name == old else v.name
    return f"{old}: called {new[:30]!r}"


def labels(rng: Random, s: Subject) -> str:
    """Names and descriptions that mean nothing to a runtime."""
    kind, name = (
        rng.choice(("graph", "node", "all nodes", "producer", "metadata", "doc", "annotation", "training")),
        rng.choice(NAMES),
    )
    if kind == "graph":
        s.model.graph.name = name
    elif kind == "node" and nodes(s):
        rng.choice(nodes(s)).name = name
    elif kind == "all nodes":
        for n in nodes(s):
            n.name = name
    elif kind == "producer":
        s.model.producer_name = s.model.producer_version = s.model.domain = name
    elif kind == "metadata":
        helper.set_model_props(s.model, {name: name, "onnxprune": "{", "onnxprune.plan": name})
    elif kind == "doc":
        s.model.doc_string = s.model.graph.doc_string = name
    elif kind == "annotation":
        note = s.model.graph.quantization_annotation.add()
        note.tensor_name = one(rng, names(s)) or ""
        note.quant_parameter_tensor_names.add().key = "SCALE_TENSOR"
    else:
        s.model.training_info.add().algorithm.CopyFrom(s.model.graph)
    return f"labels: {kind} {name[:30]!r}"


def ends(rng: Random, s: Subject) -> str:
    """Another tensor as an output of the model, or one output fewer."""
    g = s.model.graph
    if rng.random() < 0.2 and g.output:
        del g.output[:1]
        return "model: one output fewer"
    name = one(rng, names(s)) or "x"
    g.output.append(helper.make_tensor_value_info(name, rng.choice((1, 1, 1, 7)), rng.choice((None, [2, 8, 8, 8]))))
    return f"{name}: also an output"


def shared(rng: Random, s: Subject) -> str:
    """One weight used in place of another one."""
    some = [t for t in s.model.graph.initializer if len(t.dims) > 1]
    if len(some) < 2:
        return ""
    a, b = rng.sample(some, 2)
    for n in nodes(s):
        n.input[:] = [a.name if name == b.name else name for name in n.input]
    return f"{a.name}: also in place of {b.name}"


def functions(rng: Random, s: Subject) -> str:
    """A node that calls a function: a plain one, one that calls itself, is missing, is there twice, or does not fit."""
    n = one(rng, list(s.model.graph.node))
    if n is None:
        return ""
    kind = rng.choice(("plain", "plain", "itself", "missing", "twice", "inputs", "no opset", "shadows", "reference"))
    body = NodeProto.FromString(n.SerializeToString())
    body.input[:] = [f"i{k}" if name else "" for k, name in enumerate(n.input)]
    body.output[:] = [f"o{k}" for k, _ in enumerate(n.output)]
    if kind == "itself":
        body.op_type, body.domain = "made", "own"
    if kind == "reference" and body.attribute:
        body.attribute[0].ref_attr_name = "alpha"
    given = [name for name in body.input if name]
    imports = [] if kind == "no opset" else list(s.model.opset_import)
    domain, name = ("", n.op_type) if kind == "shadows" else ("own", "made")
    made = helper.make_function(domain, name, given[: -1 if kind == "inputs" else None], list(body.output), [body], imports)
    for _ in range({"missing": 0, "twice": 2}.get(kind, 1)):
        s.model.functions.append(made)
    n.op_type, n.domain = name, domain
    n.input[:] = [name for name in n.input if name]
    del n.attribute[:]
    s.model.opset_import.add().CopyFrom(helper.make_opsetid("own", 1))
    return f"{body.op_type}: function {kind}"


def nested(rng: Random, s: Subject) -> str:
    """A node inside many bodies of If, or a Loop that may never end."""
    g = s.model.graph
    n = one(rng, [n for n in g.node if len(n.output) == 1 and n.output[0]])
    if n is None or not tensors(s):
        return ""
    depth, kind = rng.choice((1, 2, 5, 15, 25, 28, 29, 30, 31)), rng.choice(("If", "If", "Loop"))
    at = list(g.node).index(n)
    inner = NodeProto.FromString(n.SerializeToString())
    output = n.output[0]
    g.node.remove(n)
    if kind == "Loop":
        trips = rng.choice((1, 3, 2**31, 2**62))
        body = GraphProto(name="body")
        body.input.extend([helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("go", 9, [])])
        inner.output[0] = "scanned"
        body.node.extend([helper.make_node("Identity", ["go"], ["on"]), inner])
        body.output.extend([helper.make_tensor_value_info("on", 9, []), helper.make_tensor_value_info("scanned", 1, None)])
        g.node.insert(at, helper.make_node("Loop", ["trips", ""], [output], body=body))
        g.initializer.append(helper.make_tensor("trips", 7, [], [trips]))
        return f"{inner.op_type}: in a loop of {trips} rounds"
    for k in range(depth):
        name = inner.output[0]
        then = helper.make_graph([inner], f"then{k}", [], [helper.make_empty_tensor_value_info(name)])
        inner = NodeProto(op_type="If", input=["yes"], output=[output if k == depth - 1 else f"{name}{k}"[-40:]])
        inner.attribute.append(helper.make_attribute("then_branch", then))
        other = AttributeProto(name="else_branch", type=AttributeProto.GRAPH)
        other.g.CopyFrom(then if depth < 6 else helper.make_graph([], "none", [], []))
        inner.attribute.append(other)
    g.node.insert(at, inner)
    g.initializer.append(helper.make_tensor("yes", 9, [], [True]))
    return f"{n.op_type}: in {depth} bodies"

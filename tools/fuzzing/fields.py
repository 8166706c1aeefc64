# SPDX-License-Identifier: Apache-2.0
"""Mutations of the fields of a model: tensors, attributes, types, versions. Each says what it did, or "" if it did nothing."""

from __future__ import annotations

import math
from random import Random
from typing import Any, NamedTuple

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from fuzzing.blobs import HUGE, NAMES, NUMBERS, REALS, one

DEEPEST = 6
SCALARS = {AttributeProto.INT: "i", AttributeProto.FLOAT: "f", AttributeProto.STRING: "s"}
LISTS = {AttributeProto.INTS: "ints", AttributeProto.FLOATS: "floats", AttributeProto.STRINGS: "strings"}
TYPES = [*range(27), 99, -1]
STATED = (*"type size size symbol rank".split(), "no shape", "no type", *"sequence optional map name removed twice".split())
STRINGS = (
    b"",
    b"SAME_UPPER",
    b"VALID",
    b"NOTSET",
    b"linear",
    b"reflect",
    b"bidirectional",
    b"ij,jk->ik",
    b"\xff\xfe",
    b"x" * 1000,
    b"Relu",
    b"\n\x1b[2J",
)


class Subject(NamedTuple):
    """What is mutated: a model, and the files beside it."""

    model: ModelProto
    files: dict[str, bytes]


def graphs(graph: GraphProto, depth: int = 0) -> list[GraphProto]:
    """A graph and the bodies in it, down to a depth."""
    inner = [b for n in graph.node for a in n.attribute for b in [*([a.g] if a.HasField("g") else []), *a.graphs]]
    return [graph, *(g for b in inner if depth < DEEPEST for g in graphs(b, depth + 1))]


def tensors(s: Subject) -> list[TensorProto]:
    """All tensors that a model stores."""
    found = [t for g in graphs(s.model.graph) for t in g.initializer]
    return found + [a.t for n in nodes(s) for a in n.attribute if a.HasField("t")]


def nodes(s: Subject) -> list[NodeProto]:
    """All nodes, also those in bodies and functions."""
    return [n for g in graphs(s.model.graph) for n in g.node] + [n for f in s.model.functions for n in f.node]


def values(s: Subject) -> list[ValueInfoProto]:
    """All stated types, most of them of inputs and outputs."""
    return [v for g in graphs(s.model.graph) for some in (g.input, g.output, g.value_info) for v in some]


def data_type(rng: Random, s: Subject) -> str:
    """A tensor of another element type."""
    t = one(rng, tensors(s))
    if t is None:
        return ""
    was, t.data_type = t.data_type, rng.choice(TYPES)
    return f"{t.name}: data_type {was} -> {t.data_type}"


def dims(rng: Random, s: Subject) -> str:
    """A tensor of another shape."""
    t = one(rng, tensors(s))
    if t is None:
        return ""
    was, t.dims[:] = list(t.dims), _shape(rng, list(t.dims))
    return f"{t.name}: dims {was} -> {list(t.dims)}"


def _shape(rng: Random, shape: list[int]) -> list[int]:
    """A shape that differs somewhere."""
    found, at = list(shape), rng.randrange(max(1, len(shape)))
    kind = rng.choice("set set drop insert shuffle clear fold".split())
    if kind == "set" and found:
        found[at] = rng.choice((0, 1, -1, found[at] + 1, found[at] - 1, 2 * found[at], rng.choice(HUGE)))
    elif kind == "drop":
        del found[at : at + 1]
    elif kind == "insert":
        found.insert(at, rng.choice((1, 1, 2, 0)))
    elif kind == "shuffle":
        rng.shuffle(found)
    elif kind == "clear":
        found = []
    else:
        found = [math.prod(found)]
    return [max(-(2**63), min(n, 2**63 - 1)) for n in found]


def contents(rng: Random, s: Subject) -> str:
    """A tensor with too few, too many or other bytes, or with values in another field."""
    t = one(rng, tensors(s))
    if t is None:
        return ""
    kind = rng.choice(("short", "long", "empty", "cleared", "typed", "both", "wrong", "raw string"))
    raw = t.raw_data
    if kind == "short":
        t.raw_data = raw[: rng.randrange(len(raw) + 1)]
    elif kind == "long":
        t.raw_data = raw + bytes(rng.choice((1, 4, 4096)))
    elif kind == "empty":
        t.raw_data = b""
    elif kind == "cleared":
        for field in ("raw_data", "float_data", "int64_data", "int32_data"):
            t.ClearField(field)
    elif kind == "typed" and raw and t.data_type == TensorProto.FLOAT:
        t.float_data[:] = np.frombuffer(raw[: len(raw) // 4 * 4], "f4").tolist()[: rng.choice((None, -1, 1))]
        t.ClearField("raw_data")
    elif kind == "both":
        t.float_data.extend([1.0] * rng.choice((1, 8)))
    elif kind == "wrong":
        t.ClearField("raw_data")
        rng.choice((t.int64_data, t.int32_data, t.double_data, t.uint64_data)).extend([1] * 8)
    else:
        t.string_data.extend([b"a", b"\xff"])
    return f"{t.name}: contents {kind}"


def numbers(rng: Random, s: Subject) -> str:
    """Other values in a tensor, of the same type and number."""
    t = one(rng, [t for t in tensors(s) if t.data_type in (1, 6, 7, 10, 11) and t.data_location == TensorProto.DEFAULT])
    if t is None:
        return ""
    try:
        array = np.array(numpy_helper.to_array(t))
    except Exception:  # damaged by an earlier mutation
        return ""
    flat, what = array.reshape(-1), rng.choice("one one all none reversed scaled".split())
    if not flat.size:
        return ""
    if array.dtype.kind == "f":
        value: Any = rng.choice(REALS)
    else:
        value = rng.choice([n for n in NUMBERS if np.iinfo(array.dtype).min <= n <= np.iinfo(array.dtype).max])
    with np.errstate(all="ignore"):
        if what == "one":
            flat[rng.randrange(flat.size)] = value
        elif what == "all":
            flat[:] = value
        elif what == "none":
            flat[:] = 0
        elif what == "reversed":
            flat[:] = flat[::-1].copy()
        else:
            flat *= np.asarray(rng.choice((1e-20, 1e20)) if array.dtype.kind == "f" else 3).astype(array.dtype)
    t.CopyFrom(numpy_helper.from_array(array, t.name))
    return f"{t.name}: {what} of its values {value}"


def external(rng: Random, s: Subject) -> str:
    """A weight in another file, well or badly placed."""
    t = one(rng, [t for t in s.model.graph.initializer if t.raw_data])
    if t is None:
        return ""
    size = len(t.raw_data)
    before = rng.choice((0, 0, 16, 4096))
    s.files["m.data"] = bytes(before) + t.raw_data
    place = {"location": "m.data", "offset": str(before), "length": str(size)}
    odd = rng.choice(("", "", "location", "offset", "length", "missing", "short", "bare"))
    if odd == "location":
        s.files["link.data"] = b"link:m.data" if rng.random() < 0.5 else b"link:/etc/passwd"
        place[odd] = rng.choice((*NAMES, "m.onnx", "link.data", ".", "none.data", "link.data", "./m.data", "sub/../m.data"))
    elif odd:
        wrong = ("-1", "x", "", "1.5", "²", "99999999999", str(2**63), str(2**200), str(size - 1), "0x10", " 0")
        place |= {odd: rng.choice(wrong)} if odd in place else {}
    if odd == "missing":
        del place[rng.choice(list(place))]
    if odd == "short":
        s.files["m.data"] = s.files["m.data"][:-1]
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    for key, value in place.items() if odd != "bare" else ():
        entry = t.external_data.add()
        entry.key, entry.value = key, value
    return f"{t.name}: external data, odd {odd or 'in nothing'}"


def stored(rng: Random, s: Subject) -> str:
    """An initializer removed, stored twice, unused, sparse, or also an input."""
    g = s.model.graph
    t = one(rng, list(g.initializer))
    if t is None:
        return ""
    kind = rng.choice("removed twice unused sparse input nameless segment constant".split())
    copy, name = TensorProto.FromString(t.SerializeToString()), t.name
    if kind in ("removed", "sparse", "constant"):
        g.initializer.remove(t)
    if kind == "twice":
        g.initializer.append(copy)
    elif kind == "unused":
        copy.name = rng.choice(NAMES)
        g.initializer.append(copy)
    elif kind == "sparse":
        sparse = g.sparse_initializer.add()
        sparse.values.CopyFrom(copy)
        sparse.values.dims[:] = [1]
        sparse.values.raw_data = copy.raw_data[:4]
        sparse.indices.CopyFrom(numpy_helper.from_array(np.array([rng.choice((0, 0, 5, -1, 2**40))]), ""))
        sparse.dims[:] = copy.dims
    elif kind == "input":
        g.input.append(helper.make_tensor_value_info(name, copy.data_type, list(copy.dims)))
    elif kind == "nameless":
        t.name = ""
    elif kind == "segment":
        t.segment.begin, t.segment.end = 0, rng.choice((1, -1))
    elif kind == "constant":
        g.node.insert(0, helper.make_node("Constant", [], [name], value=copy))
    return f"{name}: {kind}"


def attribute(rng: Random, s: Subject) -> str:
    """An attribute of another value, of another type, missing, stored twice, or one too many."""
    n = one(rng, [n for n in nodes(s) if n.attribute] or nodes(s))
    if n is None:
        return ""
    if not n.attribute or rng.random() < 0.1:
        return _more(rng, s, n)
    a = rng.choice(list(n.attribute))
    kind = rng.choice("value value value value type field missing twice name reference".split())
    where = f"{n.op_type}.{a.name}"
    if kind == "value":
        return f"{where}: {_value(rng, a)}"
    if kind == "type":
        a.type = rng.randrange(0, 15)  # type: ignore[assignment]
    elif kind == "field":
        name = a.name
        a.Clear()
        made: Any = rng.choice((3, 0.5, "x", [1, 2], [0.5], ["a"], TensorProto(), GraphProto(), [TensorProto()]))
        a.CopyFrom(helper.make_attribute(name, made))
    elif kind == "missing":
        n.attribute.remove(a)
    elif kind == "twice":
        n.attribute.add().CopyFrom(a)
    elif kind == "name":
        a.name = rng.choice(("axis", "axes", "group", "pads", "kernel_shape", "perm", "to", "value", *NAMES))
    else:
        a.ref_attr_name = rng.choice(("alpha", "", "x" * 300))
    return f"{where}: {kind}"


def _more(rng: Random, s: Subject, n: NodeProto) -> str:
    """Another attribute: of another node, or with a name that many operators know."""
    others = [a for m in nodes(s) for a in m.attribute]
    a = n.attribute.add()
    if others and rng.random() < 0.3:
        a.CopyFrom(rng.choice(others))
    else:
        names = (
            "axis",
            "axes",
            "group",
            "pads",
            "keepdims",
            "perm",
            "to",
            "strides",
            "dilations",
            "auto_pad",
            "kernel_shape",
            "size",
        )
        a.CopyFrom(
            helper.make_attribute(rng.choice(names), rng.choice((0, 1, -1, 2, [0], [1, 1], [0, 0, 0, 0], 0.5, "SAME_UPPER")))
        )
    return f"{n.op_type}: one more attribute, {a.name}"


def _value(rng: Random, a: AttributeProto) -> str:
    """Another value of the same type."""
    if a.type == AttributeProto.INT:
        a.i = rng.choice((*NUMBERS, a.i + 1 if a.i < 2**62 else 0, a.i - 1 if a.i > -(2**62) else 0))
    elif a.type == AttributeProto.FLOAT:
        a.f = rng.choice(REALS)
    elif a.type == AttributeProto.STRING:
        a.s = rng.choice((*STRINGS, a.s.lower(), a.s[:-1], a.s + b" "))
    elif a.type == AttributeProto.INTS:
        found = _shape(rng, list(a.ints)) if rng.random() < 0.6 else [rng.choice(NUMBERS) for _ in a.ints]
        a.ints[:] = found
    elif a.type == AttributeProto.FLOATS:
        a.floats[:] = [rng.choice(REALS) for _ in range(rng.choice((0, 1, len(a.floats), 9)))]
    elif a.type == AttributeProto.STRINGS:
        a.strings[:] = [rng.choice(STRINGS) for _ in range(rng.choice((0, 1, len(a.strings), 9)))]
    elif a.type == AttributeProto.GRAPH:
        field = rng.choice(("node", "output", "input"))
        del getattr(a.g, field)[-1:]
        return f"its body has one {field} fewer"
    else:
        a.t.ClearField(rng.choice(("dims", "raw_data", "data_type")))
    return "value " + str(helper.get_attribute_value(a))[:60] if a.type in SCALARS or a.type in LISTS else "value"


def stated(rng: Random, s: Subject) -> str:
    """A stated type or shape that is wrong, missing or of another kind."""
    v = one(rng, values(s))
    if v is None:
        return ""
    kind = v.type.tensor_type
    what = rng.choice(STATED)
    if what == "type":
        kind.elem_type = rng.choice(TYPES)
    elif what == "size" and kind.shape.dim:
        rng.choice(list(kind.shape.dim)).dim_value = rng.choice((0, 1, -1, 2, 3, 5, 16, *HUGE))
    elif what == "symbol" and kind.shape.dim:
        rng.choice(list(kind.shape.dim)).dim_param = rng.choice(("N", "batch", *NAMES))
    elif what == "rank":
        if kind.shape.dim and rng.random() < 0.5:
            del kind.shape.dim[-1]
        else:
            kind.shape.dim.add().dim_value = rng.choice((0, 1, 8))
    elif what == "no shape":
        kind.ClearField("shape")
    elif what == "no type":
        v.ClearField("type")
    elif what == "sequence":
        v.type.CopyFrom(helper.make_sequence_type_proto(TypeProto.FromString(v.type.SerializeToString())))
    elif what == "optional":
        v.type.CopyFrom(helper.make_optional_type_proto(TypeProto.FromString(v.type.SerializeToString())))
    elif what == "map":
        v.type.map_type.key_type = TensorProto.INT64
    elif what == "name":
        v.name = rng.choice(NAMES)
    else:
        lists = [some for g in graphs(s.model.graph) for some in (g.input, g.output, g.value_info) if some]
        some = rng.choice(lists)
        if what == "twice":
            some.add().CopyFrom(some[0])
        else:
            del some[rng.randrange(len(some))]
    return f"{v.name}: stated {what}"


def opsets(rng: Random, s: Subject) -> str:
    """Another version of ONNX or of its format."""
    imports = s.model.opset_import
    what = rng.choice("opset opset opset newer ir twice none domain own".split())
    if what in ("opset", "newer") and imports:
        imports[0].version = rng.choice(range(9, 27)) if what == "newer" else rng.choice((*NUMBERS, 6, 7, 11, 13, 18, 19, 99))
    elif what == "ir":
        s.model.ir_version = rng.choice((*NUMBERS, 4, 5, 6, 10, 11, 12, 14, 99))
    elif what == "twice":
        imports.add().CopyFrom(helper.make_opsetid("", rng.choice((9, 13, 17, 21))))
    elif what == "none":
        del imports[:]
    elif what == "domain" and imports:
        imports[-1].domain = rng.choice(("ai.onnx", "ai.onnx.ml", "com.microsoft", *NAMES))
    else:
        imports.add().CopyFrom(helper.make_opsetid("com.microsoft", rng.choice((0, 1, 99))))
    return f"versions: {what}"

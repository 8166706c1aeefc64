# SPDX-License-Identifier: Apache-2.0
"""Element-wise operators, with numpy broadcasting.

No table lists whether a dropped channel stays zero: the operator is run by ONNX's reference evaluator with zeros where the
operands are zero, and with several different numbers where they may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.analysis.labels import Axis, Flow, Residue
from onnxprune.analysis.rules.site import Rule, Site, Unsupported, everywhere, rules
from onnxprune.ir.graph import FLOATS, Graph, Node
from onnxprune.ir.infer import evaluate
from onnxprune.types import Array

UNARY = frozenset(
    (
        "Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu "
        "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign "
        "Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu BitwiseNot BitCast"
    ).split()
)
BROADCAST = frozenset(
    (
        "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod "
        "Mul Or PRelu Pow Sub Sum SwiGLU Where Xor"
    ).split()
)
SUMS = {TensorProto.INT32, TensorProto.INT64}
"""Integers that stand for themselves."""
ANYTHING = (-2.3, 0.7, 11.0)
"""Stand-ins for unknown values; a conclusion about zeros must hold for each."""


def elementwise(site: Site) -> list[Flow]:
    """Axes are aligned to the right: operands that have the axis at full size are tied, and the others broadcast."""
    rank = site.rank()
    axes = [_axis(site, axis - rank) for axis in range(rank)]
    flow = Flow(tuple(a for a, _ in axes), tuple(r for _, r in axes))
    return [flow]


def dropout(site: Site) -> list[Flow]:
    """Dropout does nothing at inference; its mask is true where nothing is dropped, hence also for zero channels."""
    if site.has(2) and (site.value(2) is None or np.any(site.value(2))):
        raise Unsupported("draws random numbers")
    [flow] = elementwise(site)
    return [flow, Flow(flow.axes, (Residue.UNKNOWN,) * len(flow.axes))]


def cast_like(site: Site) -> list[Flow]:
    """CastLike uses only the type of its second input."""
    for labels in site.flow(1).axes:
        if labels is not None:
            site.labels.touched.append(labels)
    return [site.flow(0)]


def _axis(site: Site, axis: int) -> tuple[Axis, Residue]:
    """The labels and the residue on axis `axis` of the output (negative, from the right)."""
    full = []
    for k, flow in enumerate(site.inputs):
        if flow is not None and -axis <= len(flow.axes) and site.shape(k)[axis] != 1:
            full.append((k, flow.axes[axis], flow.residue[axis]))
    labels = [x for _, x, _ in full if x is not None]
    if not labels:
        return None, Residue.UNKNOWN
    if site.node.op == "Mul" and (place := _scale(site, full, axis)) is not None:
        site.labels.touched += labels
        _, own, zero = full[place]
        return own, Residue.ZERO if zero is Residue.ZERO else Residue.UNKNOWN
    if len(labels) < len(full) or len({len(x) for x in labels}) > 1:
        kept = next(((k, axis + len(site.flow(k).axes)) for k, x, _ in full if x is None), None)
        for x in labels:
            site.pin(x, "combines them with channels that cannot be cut", kept)
        return None, Residue.UNKNOWN
    for other in labels[1:]:
        site.tie(labels[0], other)
    result = _at_zero(site, {k for k, _, residue in full if residue is Residue.ZERO})
    if result == "undefined":
        site.pin(labels[0], "is not defined where a channel is zero")
    if result == "zero":
        return labels[0], Residue.ZERO
    others_stored = all(site.stored[k] for k in range(len(site.inputs)) if site.has(k) and k not in {k for k, _, _ in full})
    known = min(Residue.CONSTANT if others_stored else Residue.COMPUTED, *(residue for _, _, residue in full))
    # a fix-up cannot compute what is inside a fused operator
    return labels[0], Residue.UNKNOWN if known is Residue.COMPUTED and site.node.fused else known


def _scale(site: Site, full: Sequence[tuple[int, Axis, Residue]], axis: int) -> int | None:
    """Which of two factors is the scale of a written-out normalisation whose input keeps its channels; None if neither is.

    As behind the operator, the result then has the channels of the scale; a fix-up picks them from the other factor.
    """
    if len(full) != 2:
        return None
    free = [x is not None and site.labels.atoms_left([], x) for _, x, _ in full]
    if all(free) or not any(free):
        return None
    k = 0 if free[0] else 1
    scale, data = (site.node.inputs[full[j][0]] for j in (k, 1 - k))
    sizes = {site.shape(j)[axis] for j, _, _ in full}
    by_statistic = any(_scaled_by_statistic(site.graph, name, axis) for name in (scale, data))
    return k if by_statistic and len(sizes) == 1 and None not in sizes else None


def _scaled_by_statistic(graph: Graph, name: str, axis: int) -> bool:
    """Whether a tensor is computed with a factor or divisor that is one number for all positions of the axis."""
    node = graph.makers.get(name)
    while node is not None and node.op in ("Cast", "Identity"):
        node = graph.makers.get(node.inputs[0])
    if node is None or node.op not in ("Div", "Mul"):
        return node is not None and node.op in ("LpNormalization", "MeanVarianceNormalization")
    shapes = [graph.shape(other) or () for other in node.inputs if other in graph.makers]
    return any(-axis <= len(shape) and shape[axis] == 1 for shape in shapes)


def _at_zero(site: Site, zero: set[int]) -> str:
    """The result for channels that are zero in the operands `zero`: "zero", "something" or "undefined"."""
    operands: list[Any] = []
    for k, flow in enumerate(site.inputs):
        if flow is None:
            operands.append(None)
        elif k in zero:
            operands.append((0.0,))
        else:
            value = site.value(k)
            operands.append((float(value.ravel()[0]),) if value is not None and value.size == 1 else ANYTHING)
    floats = tuple(site.inputs[k] is not None and site.cases(k)[0].dtype in FLOATS for k in range(len(site.inputs)))
    if site.out_cases()[0].dtype not in FLOATS | SUMS:  # other integers represent zero by a zero point
        return "something"
    attributes = tuple(a.SerializeToString(deterministic=True) for a in site.node.proto.attribute)
    return _probe(site.node.op, site.node.opset, attributes, tuple(operands), floats)


@lru_cache(4096)
def _probe(op: str, opset: int, attributes: tuple[bytes, ...], operands: tuple[Any, ...], floats: tuple[bool, ...]) -> str:
    unknown = sum(x == ANYTHING for x in operands)
    if not any(x == (0.0,) for x in operands) or unknown > 5:
        return "something"
    node = NodeProto(op_type=op, output=["y"])
    node.input.extend(f"x{k}" for k in range(len(operands)))
    for a in attributes:
        node.attribute.add().ParseFromString(a)
    results = []
    for values in product(*(x if x is not None else (None,) for x in operands)):
        inputs = [None if v is None else _array(op, k, v, floats[k]) for k, v in enumerate(values)]
        found = evaluate(node, {"": opset}, inputs)
        if found is None:
            return "something"
        results.append(np.asarray(found[0], np.float64).ravel()[0])
    if all(r == 0 for r in results):
        return "zero"
    return "something" if np.isfinite(results).all() else "undefined"


def _array(op: str, k: int, value: float, is_float: bool) -> Array:
    if op == "Where" and k == 0:
        return np.array(value > 0)
    scalar = np.float32(value) if is_float else np.int64(value)
    # bounds and switches are scalars by definition; everything else gets an axis
    return np.array(scalar) if op in ("Clip", "Dropout") and k > 0 else np.array([scalar])


def _as_numerator(graph: Graph, node: Node, operand: int) -> bool:
    """Zero divided by anything is zero; but a weight is not masked if its divisor (its norm) is computed from it."""
    return operand == 0 and node.inputs[0] not in graph.sources_of(node.inputs[1])


MASKABLE = frozenset("Add Cast Identity Mul PRelu Sub Sum".split())
"""Operators that multiply or add their operands, or pass them on."""

RULES: Mapping[str, Rule] = {
    **rules(elementwise, *(UNARY | BROADCAST) - MASKABLE - {"Div"}),
    **rules(elementwise, *MASKABLE, maskable=everywhere),
    **rules(elementwise, "Div", maskable=_as_numerator),
    **rules(cast_like, "CastLike"),
    **rules(dropout, "Dropout"),
}

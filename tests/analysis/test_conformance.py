# SPDX-License-Identifier: Apache-2.0
"""ONNX's own conformance cases: every node case whose operator has a rule obeys the cut law.

Each case becomes a model: its inputs are weights (the first is multiplied by a fed number, so that it is data), and its outputs
are summed axis by axis, so that every channel is used and none is a model output. Any labels may then be dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.analysis.rules import RULES
from onnxprune.errors import CutError, VerificationError
from onnxprune.evaluation.verification import verify
from onnxprune.ir.decompositions import CHAINS
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import OLDEST_OPSET
from onnxprune.ir.graph import FLOATS
from onnxprune.rewrite.cut import cut
from tests.cases.choosing import choose


@lru_cache(1)
def cases() -> tuple[Any, ...]:
    """Single-node cases of ONNX operators that have a rule, on tensors, at supported opsets."""
    return tuple(c for c in collect_testcases(None) if c.model is not None and len(c.model.graph.node) == 1 and _fits(c))


def _fits(case: Any) -> bool:
    node = case.model.graph.node[0]
    tensors = all(isinstance(x, (np.ndarray, np.generic)) for x in case.data_sets[0][0])
    return (
        node.op_type in {*RULES, *CHAINS} and not node.domain and tensors and case.model.opset_import[0].version >= OLDEST_OPSET
    )


DATA = {
    "Attention": (0, 1, 2, 4, 5),
    "SwiGLU": (0, 1),
    "LinearAttention": (0, 1, 2, 3, 4, 5),
    "ScatterND": (0, 2),
    "ScatterElements": (0, 2),
    "TensorScatter": (0, 1),
}
"""Inputs that the model computes, if not only the first."""


def as_model(case: Any, first_is_data: bool) -> ModelProto:
    """The case with its inputs stored and its outputs summed."""
    made = ModelProto()
    made.CopyFrom(case.model)
    made.ir_version = min(made.ir_version, 10)
    graph, opset = made.graph, made.opset_import[0].version
    inputs, outputs = list(graph.input), list(graph.output)
    computed = DATA.get(graph.node[0].op_type, (0,)) if first_is_data else ()
    del graph.input[:]
    del graph.output[:]
    for k, (value, array) in enumerate(zip(inputs, case.data_sets[0][0], strict=False)):
        kind = value.type.tensor_type.elem_type
        if k in computed and kind in FLOATS:
            graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"weight {k}"))
            graph.node.insert(0, helper.make_node("Mul", [f"weight {k}", f"fed {k}"], [value.name]))
            graph.input.append(helper.make_tensor_value_info(f"fed {k}", kind, [1]))
        else:
            graph.initializer.append(numpy_helper.from_array(np.asarray(array), value.name))
    for value in outputs:
        _sum_up(graph, value, opset)
    return made


def _sum_up(graph: Any, value: Any, opset: int) -> None:
    kind, name = value.type.tensor_type.elem_type, value.name
    if kind not in FLOATS:
        graph.node.append(helper.make_node("Cast", [name], [f"{value.name}_float"], to=onnx.TensorProto.FLOAT))
        kind, name = onnx.TensorProto.FLOAT, f"{value.name}_float"
    for axis in range(len(value.type.tensor_type.shape.dim) - 1, -1, -1):
        total = f"{value.name}_{axis}"
        if opset >= 13:
            graph.initializer.append(numpy_helper.from_array(np.array([axis]), f"{total}_axis"))
            graph.node.append(helper.make_node("ReduceSum", [name, f"{total}_axis"], [total], keepdims=0))
        else:
            graph.node.append(helper.make_node("ReduceSum", [name], [total], axes=[axis], keepdims=0))
        name = total
    graph.output.append(helper.make_tensor_value_info(name, kind, []))


def free_axes(coupled: Coupled) -> list[Group]:
    """Every axis of every weight with labels that may be dropped, whether or not anything multiplies it."""
    found = []
    for o in coupled.owners:
        roots = np.unique(coupled.roots[o.start : o.start + o.size])
        roots = roots[coupled.free[roots]]
        if len(roots):
            found.append(Group(o.weight, roots, ((o.weight, o.axis),), (), 1))
    return found


def outcomes(first_is_data: bool) -> Iterator[tuple[str, str, str]]:
    """The operator, name and outcome of each case."""
    for case in cases():
        op = case.model.graph.node[0].op_type
        coupled = couple(read_graph(as_model(case, first_is_data)))
        groups = free_axes(coupled)
        if not groups:
            yield op, case.name, "kept"
            continue
        try:
            for seed in range(2):
                dropped = choose(coupled, groups, np.random.default_rng(seed), 0.4)
                verify(coupled, dropped, cut(coupled, dropped))
            yield op, case.name, "verified"
        except CutError:
            yield op, case.name, "declined"
        except VerificationError as e:
            yield op, case.name, "does not run" if "the cut cannot be verified" in str(e) else f"WRONG: {e}"


@pytest.mark.parametrize("first_is_data", [True, False])
def test_a_conformance_case_that_is_cut_wrongly_is_detected(first_is_data: bool) -> None:
    found = list(outcomes(first_is_data))
    assert [row for row in found if row[2].startswith("WRONG")] == []
    counts = {what: sum(row[2] == what for row in found) for what in ("verified", "kept", "declined", "does not run")}
    assert counts["verified"] > (540 if first_is_data else 400), counts
    assert counts["declined"] < 25, counts
    assert counts["does not run"] < 15, counts

# SPDX-License-Identifier: Apache-2.0
"""The networks and inputs on which laws about values are tested: every operator's samples, and whole topologies."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from tests.cases.operators import SAMPLES
from tests.cases.operators.sample import Sample, conv, named
from tests.cases.releases import has
from tests.cases.running import random_feeds, runner
from tests.cases.topologies import NETS

ENDS = (-2.0, 3.0)
"""What the inputs of the tests are between."""
OWN = [
    *("Round", "Mish", "Erf", "Gelu", "Exp", "Neg", "Abs", "Softsign", "Sin", "Cos", "Floor", "Ceil", "HardSwish"),
    *("Softplus", "Tanh", "Sigmoid", "Dropout"),
]
"""Functions of one number that may have no sample of their own."""
ROOT = Sample(conv("c = Abs(a)  b = Sqrt(c)"))
SUMMED = "com.microsoft.SkipSimplifiedLayerNormalization"
"""Before onnxruntime 1.21 it leaves the bias out of its sum."""
CASES = [
    *(case for case in named(SAMPLES) if case[1].here and (has(onnxruntime="1.21") or not case[0].startswith(SUMMED))),
    *((f"own {op}", Sample(conv(f"b = {op}(a)"), opset=22)) for op in OWN),
    ("own Sqrt", ROOT),
]


LAWS: list[tuple[str, Any]] = [*CASES, *NETS.items()]


def fed(net: ModelProto, seed: int) -> dict[str, Any]:
    feeds = random_feeds(net, np.random.default_rng(seed), 2)
    return {name: np.clip(x, *ENDS).astype(x.dtype) if x.dtype.kind == "f" else x for name, x in feeds.items()}


def every_value(net: ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """All tensors of the main graph that can be outputs."""
    names = [o for n in net.graph.node for o in n.output if o]
    shown = ModelProto()
    shown.CopyFrom(net)
    known = {v.name for v in net.graph.output}
    shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in known)
    found = runner(shown)(feeds)
    return dict(zip([v.name for v in shown.graph.output], found, strict=True))


def with_values(net: ModelProto, **values: Any) -> ModelProto:
    """The model with other values at the beginning of some weights."""
    for tensor in net.graph.initializer:
        if tensor.name in values:
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[: len(values[tensor.name])] = values[tensor.name]
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return net

# SPDX-License-Identifier: Apache-2.0
"""Models run as they are, without optimisation, on random inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]


def runner(model: ModelProto) -> Callable[[dict[str, Array]], list[Any]]:
    """onnxruntime without optimisation, or onnx.reference if it cannot run the model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # not implemented there
        evaluator = ReferenceEvaluator(model)
        return lambda feeds: list(evaluator.run(None, feeds))
    return lambda feeds: list(session.run(None, feeds))


def random_feeds(model: ModelProto, rng: np.random.Generator, open_size: int) -> dict[str, Array]:
    """Random inputs; a dynamic first size is `open_size`, other dynamic sizes are eight times that."""
    known, feeds = {t.name for t in model.graph.initializer}, {}
    for v in model.graph.input:
        if v.name not in known:
            kind = v.type.tensor_type
            shape = [d.dim_value or (open_size if k == 0 else 8 * open_size) for k, d in enumerate(kind.shape.dim)]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if dtype.kind == "b":
                feeds[v.name] = np.asarray(rng.random(shape) < 0.5)
            else:
                values = rng.integers(0, 4, shape) if dtype.kind in "iu" else rng.standard_normal(shape)
                feeds[v.name] = np.asarray(values).astype(dtype)
    return feeds

# SPDX-License-Identifier: Apache-2.0
"""onnxruntime: sessions on the CPU, single runs, and seeded inputs. The only module that imports onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper

from onnxprune.types import Array, Rng

# From 1.29 on, onnxruntime's builds for Linux report the name and digests of each model to their maker unless told otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

PROVIDER = "CPUExecutionProvider"
QUIET = 4
"""Lowest severity that onnxruntime logs to stderr: fatal. Callers get failures as exceptions."""


def version() -> str:
    """The version of onnxruntime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def session(source: bytes | str, threads: int = 1, plain: bool = False, spins: bool = True) -> Any:
    """An onnxruntime session on the CPU.

    Args:
        source: what `ir.files.runnable` yields: a serialized model, or the path of a large one.
        threads: threads inside an operator; 0 for one per core.
        plain: run the graph as it is written, without optimization.
        spins: whether threads that wait for work spin for a while.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    if not threads or not spins:  # without threads, not a measurement: idle ones must not spin on cores that others need
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if plain and isinstance(source, str):
        # a large model: its weights stay memory-mapped instead of being copied into another layout
        options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(source, options, providers=[PROVIDER])


@lru_cache(4096)
def output_types(model: bytes) -> tuple[tuple[str, str, tuple[int | None, ...]], ...]:
    """(name, type, sizes) of each output, as reported by onnxruntime: the model is loaded, not run.

    Types look like `tensor(float)`; a dynamic size is None, and an unknown shape has no sizes. Empty if onnxruntime does not
    implement the model on the CPU, or not for these types.
    """
    try:
        outputs = session(model, plain=True).get_outputs()
    except Exception:  # anything onnxruntime does not implement
        return ()
    return tuple((o.name, str(o.type), tuple(n if isinstance(n, int) else None for n in o.shape)) for o in outputs)


def run_model(graph: GraphProto, opsets: Mapping[str, int], feeds: Mapping[str, Array]) -> list[Any]:
    """The outputs of a small graph. Its session is cached."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()], ir_version=10)
    return list(_cached_session(model.SerializeToString(deterministic=True)).run(None, dict(feeds)))


def run_once(graph: GraphProto, opsets: Mapping[str, int], feeds: Mapping[str, Array]) -> list[Any]:
    """The outputs of a graph that is run only once."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()], ir_version=10)
    return list(session(model.SerializeToString(), plain=True).run(None, dict(feeds)))


@lru_cache(1024)
def _cached_session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    return onnxruntime.InferenceSession(model, options, providers=[PROVIDER])


def run_node(
    node: NodeProto,
    names: Sequence[str],
    opsets: Mapping[str, int],
    operands: Mapping[str, Array],
    constants: Mapping[str, Array],
) -> list[Any]:
    """The outputs of one node, given the arrays of its inputs and of outer tensors that its bodies read.

    Args:
        node: the node.
        names: the requested outputs.
        opsets: domain -> version.
        operands: name -> array of each tensor that the node reads.
        constants: the same for tensors that do not change between runs; some kernels require them to be initializers.
    """
    graph = GraphProto(name="one")
    graph.node.append(node)
    for name, x in operands.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, [None] * x.ndim))
    graph.initializer.extend(onnx.numpy_helper.from_array(x, name) for name, x in constants.items())
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return run_model(graph, opsets, operands)


def sample(rng: Rng, dtype: int, shape: tuple[int, ...], numbers: Array | None = None) -> Array:
    """Normally distributed numbers, small integers, or True.

    Args:
        dtype: a TensorProto data type.
        numbers: the numbers to draw from, if only some are valid (`ir.ranges`).
    """
    kind = helper.tensor_dtype_to_np_dtype(dtype) if dtype else np.dtype(np.float32)
    if numbers is not None:
        return np.asarray(rng.choice(numbers, shape)).astype(kind)
    if kind.kind in "iu":
        return rng.integers(0, 8, shape).astype(kind)
    return np.ones(shape, bool) if kind.kind == "b" else rng.standard_normal(shape).astype(kind)

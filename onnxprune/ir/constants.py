# SPDX-License-Identifier: Apache-2.0
"""Constants in one form: a Constant node has a `value`, whatever attribute the file has, and sparse weights are dense."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from onnxprune.ir.graph import FLOATS, all_nodes, with_nodes
from onnxprune.ir.tensors import nbytes
from onnxprune.types import Array

NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
MISNAMED = {AttributeProto.FLOAT: np.float32, AttributeProto.INT: np.int64}
"""Type of an attribute that is named `value`, but is no tensor -> type of its values."""
SPARSE = "sparse_value"
MOST_GROWTH = 8
"""Sparse weights stay sparse if they would become larger by more than this factor; their channels are then kept."""


def plain_constants(model: ModelProto) -> ModelProto:
    """The same model, also in its bodies, with one form of constants; the model itself if it has no other."""
    odd = any(_new_tensor(a) for node in all_nodes(model.graph.node) for a in _constant_attributes(node))
    if not odd and not any(map(_may_be_dense, model.graph.sparse_initializer)):
        return model
    plain = with_nodes(model, model.graph.node)
    for node in all_nodes(plain.graph.node):
        for a in _constant_attributes(node):
            tensor = _new_tensor(a)
            if tensor is not None:
                a.CopyFrom(onnx.helper.make_attribute("value", tensor))
    sparse = [*plain.graph.sparse_initializer]
    del plain.graph.sparse_initializer[:]
    plain.graph.sparse_initializer.extend(t for t in sparse if not _may_be_dense(t))
    plain.graph.initializer.extend(onnx.numpy_helper.from_array(dense(t), t.values.name) for t in sparse if _may_be_dense(t))
    return plain


def dense(t: SparseTensorProto) -> Array:
    """The values of a sparse tensor, zeros included."""
    values, places = onnx.numpy_helper.to_array(t.values), onnx.numpy_helper.to_array(t.indices)
    whole = np.zeros(tuple(t.dims), values.dtype)
    whole[tuple(places.T) if places.ndim == 2 else np.unravel_index(places, whole.shape)] = values
    return whole


def _constant_attributes(node: NodeProto) -> list[AttributeProto]:
    return [*node.attribute] if node.op_type == "Constant" and node.domain in ("", "ai.onnx") else []


def _new_tensor(a: AttributeProto) -> TensorProto | None:
    """The tensor that an attribute of a Constant node stands for; None if it is one already, or remains as it is."""
    if a.name in NUMBERS or (a.name == "value" and a.type in MISNAMED):  # onnxruntime goes by the type
        kind = NUMBERS.get(a.name) or MISNAMED[a.type]
        value = AttributeProto()
        value.CopyFrom(a)
        value.ref_attr_name = ""  # outside of functions it refers to nothing
        return onnx.numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(value), kind))
    if a.name == SPARSE and _may_be_dense(a.sparse_tensor):
        return onnx.numpy_helper.from_array(dense(a.sparse_tensor))
    return None


def _may_be_dense(t: SparseTensorProto) -> bool:
    if t.values.data_type not in FLOATS:
        return False
    whole = TensorProto(data_type=t.values.data_type, dims=t.dims)
    return nbytes(whole) <= MOST_GROWTH * (nbytes(t.values) + nbytes(t.indices))

# SPDX-License-Identifier: Apache-2.0
"""Fused operators: the ONNX operators that one node of onnxruntime's optimizer or quantizer stands for.

The analysis looks at these parts; the node itself stays in the file. A fused operator therefore needs no rule of its own:
whatever is known about its parts (shapes, values, ties) applies to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnx import NodeProto

from onnxprune.ir.decompositions import (
    attention,
    convolution,
    elementwise,
    indexing,
    linear_attention,
    normalization,
    products,
    quantization,
)
from onnxprune.ir.decompositions.chain import MICROSOFT, Chain, Results, UnknownShapeError
from onnxprune.types import joined

__all__ = ["CHAINS", "LABELS_ONLY", "MASKABLE", "MASKABLE_INTEGERS", "MICROSOFT", "key", "parts_of"]

CHAINS: Mapping[str, Callable[[Chain], Results]] = joined(
    attention.CHAINS,
    convolution.CHAINS,
    elementwise.CHAINS,
    indexing.CHAINS,
    linear_attention.CHAINS,
    normalization.CHAINS,
    products.CHAINS,
    quantization.CHAINS,
)

LABELS_ONLY = frozenset({*attention.CHAINS, "DeformConv"})
"""Operators whose parts only show where channels go: they do not mask, scale or look up as the operator does."""
MASKABLE = attention.MASKABLE | convolution.MASKABLE | products.MASKABLE | quantization.MASKABLE
"""Fused operators whose stored floating-point operands may be masked: they multiply or add them, or pass them on."""
MASKABLE_INTEGERS = quantization.MASKABLE_INTEGERS
"""The same for integer operands."""


def key(node: NodeProto) -> str:
    """The operator with its domain, as rules name it."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return f"{domain}.{node.op_type}" if domain else str(node.op_type)


def parts_of(node: NodeProto, shape: Callable[[str], tuple[int, ...] | None]) -> list[NodeProto]:
    """The nodes that a fused node stands for; empty for a node that stands for itself."""
    if key(node) not in CHAINS:
        return []
    chain = Chain(node, shape)
    try:
        results = CHAINS[key(node)](chain)
    except UnknownShapeError:
        results = None
    if results is None:
        return []
    for name, result in zip(node.output, results, strict=False):
        if name and result:
            _rename(chain, result, name)
    read = {name for part in chain.parts for name in part.input} | set(node.output)
    for part in chain.parts:
        for k, name in enumerate(part.output):
            part.output[k] = name if name in read else ""
    return chain.parts


def _rename(chain: Chain, old: str, new: str) -> None:
    """Rename a result of the parts to the name of the node's output."""
    for part in chain.parts:
        for names in (part.input, part.output):
            for k, name in enumerate(names):
                if name == old:
                    names[k] = new

# SPDX-License-Identifier: Apache-2.0
"""A graph around one operator, and the layers around most operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import ModelProto

from tests.cases.releases import has
from tests.cases.text import model


@dataclass(frozen=True)
class Sample:
    """A graph around one operator.

    Attributes:
        text: the graph.
        free: the smallest number of atoms that must be free.
        pinned: a part of a reason that must be given for channels that are kept.
        most: the largest number of atoms that may be free, if more would be wrong; -1 for no limit.
        refused: a part of the reason why a cut is refused, if only trying can tell.
        needs: the first release of onnxruntime that runs the graph, if that is not the lowest that pyproject.toml allows.
    """

    text: str
    free: int = 8
    pinned: str = ""
    opset: int = 17
    most: int = -1
    refused: str = ""
    needs: str = "0"

    @property
    def here(self) -> bool:
        """Whether the installed releases know the operator and run the graph."""
        return self.opset <= onnx.defs.onnx_opset_version() and has(onnxruntime=self.needs)

    def model(self) -> ModelProto:
        return model(self.text, self.opset)


def named(samples: Mapping[str, list[Sample]]) -> list[tuple[str, Sample]]:
    """Every sample with the name of its operator and its place in the list."""
    return [(f"{op}-{k}", sample) for op, some in samples.items() for k, sample in enumerate(some)]


def conv(body: str, inputs: str = "", consts: str = "", tail: str = "y = Conv(b, w2)", w2: str = "4,8,1,1") -> str:
    """Convolution -> `a` (2,8,8,8) -> body -> `b` -> convolution."""
    more = f", {inputs}" if inputs else ""
    return f"""g (float[2,3,8,8] x, float[8,3,3,3] w1, float[8] w1b, float[{w2}] w2{more}) => (float[] y) <{consts}> {{
        a = Conv <pads = [1,1,1,1]> (x, w1, w1b)
        {body}
        {tail}
    }}"""


def both(body: str, inputs: str = "", consts: str = "", tail: str = "y = Conv(b, w2)", w2: str = "4,8,1,1") -> str:
    """Two convolutions -> `a`, `c` (2,8,8,8) -> body -> `b` -> convolution."""
    more = f", {inputs}" if inputs else ""
    return conv(f"c = Conv <pads = [1,1,1,1]> (x, w3)\n{body}", f"float[8,3,3,3] w3{more}", consts, tail, w2)


def seq(body: str, inputs: str = "", consts: str = "", tail: str = "y = MatMul(b, w2)", w2: str = "8,4") -> str:
    """Matrix product -> `a` (2,5,8) -> body -> `b` -> matrix product."""
    more = f", {inputs}" if inputs else ""
    return f"""g (float[2,5,6] x, float[6,8] w1, float[{w2}] w2{more}) => (float[] y) <{consts}> {{
        a = MatMul(x, w1)
        {body}
        {tail}
    }}"""

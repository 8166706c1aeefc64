# SPDX-License-Identifier: Apache-2.0
"""A whole network, and the expected result of its analysis."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto

from tests.cases.text import model


@dataclass(frozen=True)
class Net:
    """A graph, the smallest and the largest number of atoms that may be free, and a part of a reason that a pin must give."""

    text: str
    free: int
    most: int = -1
    pinned: str = ""
    opset: int = 17
    functions: str = ""

    def model(self) -> ModelProto:
        return model(self.text, self.opset, functions=self.functions)


BN = "float[{n}] ws{k}, float[{n}] wt{k}, float[{n}] wm{k}, float[{n}] wvar{k}"


def bn(k: int, n: int) -> str:
    """The weights of BatchNormalization `k`, over `n` channels."""
    return BN.format(n=n, k=k)

# SPDX-License-Identifier: Apache-2.0
"""ONNX operators under onnxruntime's domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxprune.ir.decompositions.chain import MICROSOFT, Chain, Results, same

CHAINS: Mapping[str, Callable[[Chain], Results]] = {
    f"{MICROSOFT}.GatherND": same("GatherND"),
    f"{MICROSOFT}.GridSample": same("GridSample"),
    f"{MICROSOFT}.Trilu": same("Trilu"),
}

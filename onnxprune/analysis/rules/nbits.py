# SPDX-License-Identifier: Apache-2.0
"""MatMulNBits: weights of a few bits, packed in blocks along the axis that is summed over, each with a scale and zero point.

Output channels are cut individually, input channels in whole blocks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.analysis.labels import Flow, Residue
from onnxprune.analysis.rules.site import Rule, Site, everywhere, rules
from onnxprune.ir.quantization import BIAS, MATMUL_NBITS, ORDER, SCALES, WEIGHT
from onnxprune.types import Indices


def matmul_nbits(site: Site) -> list[Flow]:
    """Data (..., K) times the weight (N, blocks, bytes of a block), plus a bias (N,)."""
    data, weight = site.flow(0), site.flow(WEIGHT)
    rows, blocks, packed = weight.axes
    site.pin(packed, "packs the numbers of a block")
    _read(site, data, weight)
    zero = weight.zero[0]
    scales = site.flow(SCALES)
    if len(scales.axes) == 2:  # else the fix-up selects them
        for labels, other in zip((rows, blocks), scales.axes, strict=True):
            _both(site, labels, other)
    if site.has(BIAS):
        zero = zero and site.flow(BIAS).zero[0]
        _both(site, rows, site.flow(BIAS).axes[0])
    site.use(WEIGHT, rows, True)
    passed = [r if r is Residue.ZERO and zero else Residue.UNKNOWN for r in data.residue[:-1]]
    return [Flow((*data.axes[:-1], rows), (*passed, Residue.ZERO if zero else Residue.UNKNOWN))]


def _both(site: Site, labels: Indices | None, other: Indices | None) -> None:
    """Tie two axes; neither shrinks without the other."""
    if labels is not None and other is not None:
        site.tie(labels, other)
        return
    for x in (labels, other):
        site.pin(x, "combines them with channels that cannot be cut")


def _read(site: Site, data: Flow, weight: Flow) -> None:
    """Tie input channels to the blocks that multiply them."""
    columns, blocks = data.axes[-1], weight.axes[1]
    if columns is None or blocks is None or site.has(ORDER):
        why = "multiplies them in another order" if site.has(ORDER) else "combines them with channels that cannot be cut"
        for labels in (columns, blocks):
            site.pin(labels, "multiplies them in a single block" if site.shape(WEIGHT)[1] == 1 else why)
        return
    site.tie(columns, blocks[np.arange(len(columns)) // site.node.attribute("block_size")])
    if not (data.zero[-1] or weight.zero[1]):
        site.pin(columns, "sums over channels that do not become zero")
    site.use(WEIGHT, blocks, False)


RULES: Mapping[str, Rule] = rules(matmul_nbits, MATMUL_NBITS, maskable=everywhere, integers=True)

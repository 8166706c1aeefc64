# SPDX-License-Identifier: Apache-2.0
"""The residues that rules claim for dropped channels, checked in the masked original."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import find_groups
from onnxprune.analysis.labels import Residue
from onnxprune.evaluation.reference import masked
from tests.cases.choosing import choose
from tests.cases.running import random_feeds, runner


def false_claims(coupled: Coupled, seed: int) -> list[str]:
    """Tensors whose dropped channels do not hold the claimed residue, in one random cut."""
    rng = np.random.default_rng(seed)
    dropped = choose(coupled, find_groups(coupled), rng, 0.5)
    net = masked(coupled, dropped)
    made = {o for n in net.graph.node for o in n.output}
    axes = {
        (name, k): (labels, residue)
        for name, flow in coupled.flows.items()
        for k, (labels, residue) in enumerate(zip(flow.axes, flow.residue, strict=True))
        if name in made and labels is not None and dropped[labels].any() and residue >= Residue.CONSTANT
    }
    names = sorted({name for name, _ in axes})
    del net.graph.output[:]
    net.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    if not names:
        return []
    run = runner(net)
    one, two = (dict(zip(names, run(random_feeds(coupled.graph.model, rng, 2)), strict=True)) for _ in range(2))
    wrong = []
    for (name, k), (labels, residue) in axes.items():
        a, b = (np.compress(dropped[labels], np.asarray(x[name]), k) for x in (one, two))
        if not (
            holds_zero(a) and holds_zero(b) if residue is Residue.ZERO else np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        ):
            wrong.append(f"{coupled.graph.producers[name]} axis {k}: {residue.name}")
    return wrong


def holds_zero(x: NDArray[Any]) -> bool:
    """Whether all values are zero; integers, which may be quantized, need only be equal."""
    return not x.any() if x.dtype.kind == "f" else len(np.unique(x)) <= 1

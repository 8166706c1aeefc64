# SPDX-License-Identifier: Apache-2.0
"""A small classifier, its plan and what the plan makes of it: the files that go with mutants of other files."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from fuzzing.seeds import made

KEPT = {"w1": {"0": [0, 2, 3, 5]}, "w1b": {"0": [0, 2, 3, 5]}, "w2": {"0": [*range(0, 16, 2)], "1": [0, 2, 3, 5]}}
KEPT |= {"w2b": {"0": [*range(0, 16, 2)]}, "w3": {"0": [*range(0, 16, 2)]}}
QUICK = ("--ratio", "0.5", "--no-bench", "--time-budget", "2s")


@cache
def classifier() -> bytes:
    """The model."""
    return made("classifier").SerializeToString()


@cache
def cut() -> bytes:
    """The model without the channels that the plan drops."""
    model = ModelProto.FromString(classifier())
    for t in model.graph.initializer:
        array = numpy_helper.to_array(t)
        for axis, positions in KEPT.get(t.name, {}).items():
            array = np.take(array, positions, int(axis))
        t.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), t.name))
    return model.SerializeToString()


def plan() -> dict[str, Any]:
    """A plan for it."""
    made_by = {"version": "0.1.0", "ratio": 0.5, "criterion": "l2", "samples": 8, "rounds": 1, "recovered": "", "align": 1}
    head = {"format": "onnxprune-plan/1", "model_sha256": hashlib.sha256(classifier()).hexdigest(), "made_by": made_by}
    return {**head, "policy": {}, "folded": [], "removed": [], "kept": KEPT, "blocks": {}}

# SPDX-License-Identifier: Apache-2.0
"""What is checked and measured of every cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto

from onnxprune.cost import benchmark
from onnxprune.cost.benchmark import Runner
from onnxprune.cost.peak import peak_memory
from onnxprune.cost.size import cost
from onnxprune.errors import DataError
from onnxprune.evaluation.verification import Verification, verify, verify_shortened
from onnxprune.ir.files import Loaded
from onnxprune.ir.tensors import size_of
from onnxprune.options import CheckOptions
from onnxprune.pipeline.decide import Decision
from onnxprune.pipeline.summary import Findings
from onnxprune.report.values import Change
from onnxprune.rewrite.shorten import branches, muted
from onnxprune.types import Array, Feeds, Progress, Shapes

if TYPE_CHECKING:
    from onnxprune.pipeline.blocks import InBlocks

POINTS = 1025
"""How many numbers of a range are fed."""
SEEDS = 3
"""Seeded inputs on which the written file is compared with its weights."""


def seeded_feeds(loaded: Loaded, shapes: Shapes, numbers: Mapping[str, Array] | None = None) -> list[Feeds]:
    """Random inputs at the sizes shown in reports; `numbers` as for `verify`."""
    sizes = cost(loaded.model, shapes, loaded.size).inputs
    return [benchmark.random_feeds(loaded.model, sizes, numbers, seed) for seed in range(SEEDS)]


def warnings_of(loaded: Loaded, verification: Verification | None) -> tuple[str, ...]:
    """What is wrong with the original, whether it was mended or remains."""
    remains = verification.flaw if verification else ""
    what = f"onnx.checker rejects the original, which runs nevertheless, and the result likewise: {remains}"
    return (*loaded.warnings, *([what] if remains else []))


def verified(
    decision: Decision, checks: CheckOptions, progress: Progress, numbers: Mapping[str, Array] | None = None
) -> Verification | None:
    """Compare a cut with the original without the channels that it drops, unless that is not wanted; `numbers` as for `verify`.

    Raises:
        VerificationError: they do not compute the same.
    """
    if not checks.verify:
        return None
    coupled = decision.analysis.coupled
    if decision.whole is not None:
        graph = decision.whole.coupled.graph
        gone = [b for b in branches(graph) if b.ends in decision.removed]
        verify_shortened(graph, muted(graph.model, gone), coupled.graph.model, numbers)
    ranged = {name: np.linspace(*ends, POINTS) for name, ends in decision.ranges.items()}
    fed = {**ranged, **(numbers or {})}
    return verify(coupled, decision.dropped, decision.pruned, lambda done: progress("verify", done), fed, decision.dead)


def measured(
    loaded: Loaded,
    model: ModelProto,
    shapes: Shapes,
    checks: CheckOptions,
    run: Runner,
    progress: Progress,
    numbers: Mapping[str, Array] | None = None,
    unified: InBlocks | None = None,
) -> Findings:
    """The cost of the original and of the result; `numbers` as for `verify`."""
    before = cost(loaded.model, shapes, loaded.size)
    after = cost(unified.numbers if unified else model, before.inputs)
    written = unified.model if unified else model
    after = replace(after, bytes=size_of(written))
    if not checks.bench:
        return Findings(before, after)
    models, feeds = (loaded.model, written), benchmark.random_feeds(loaded.model, before.inputs, numbers)
    try:
        timing = benchmark.benchmark(models, feeds, checks.threads, progress=lambda done: progress("benchmark", done), run=run)
    except DataError as e:  # the cut is there, and verified
        return Findings(before, after, untimed=e.message)
    try:
        peak = Change(*peak_memory(models, feeds, checks.threads))
    except DataError:
        peak = None
    return Findings(before, after, timing=timing, peak=peak)

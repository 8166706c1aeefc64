# SPDX-License-Identifier: Apache-2.0
"""Unification of a whole network, layer by layer in the order of the graph, with what each layer loses made up for.

Each layer is first fitted to what the original computes there from the inputs that the changed network offers, as in
`reconstruct`; then its blocks take their magnitudes, and its other weights make up for the error (`compensation.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from onnx import ModelProto

from onnxprune.calibration.jobs import ordered
from onnxprune.calibration.linear import Linear
from onnxprune.calibration.moments import Tally
from onnxprune.calibration.stages import stages
from onnxprune.calibration.sums import LinearSum, find_sums
from onnxprune.compression.blocks import Blocks
from onnxprune.compression.choice import Losses
from onnxprune.compression.compensation import Layer, block_losses, compensated
from onnxprune.compression.division import FINE, HALF_BITS, Division, rounded
from onnxprune.ir.graph import Graph
from onnxprune.recovery.editor import Editor, Fitted, offset_slots
from onnxprune.recovery.effort import FitSettings
from onnxprune.recovery.methods import FITTING, Task, Ways, by_distillation
from onnxprune.recovery.reconstruct import Constrained, reconstruct, second_moments
from onnxprune.types import Array, Feeds, Indices, Progress, Vector

SOME = 2_000
"""Rows of a batch that show how large the inputs of a layer are."""
RIDGE = 0.01
"""What is added to the second moments of a layer's inputs, in units of their mean."""
FITTED_BITS = 4
"""Bits of a fitted magnitude after the first. It is off by 3 % at most, which is little beside the error of a block, and what
the other bits hold cannot be packed."""


def in_divisions(layer: Constrained, divisions: Mapping[str, Division]) -> Vector:
    """The weights of a layer with their blocks, what each gets wrong made up for by the others: a `Constrain`."""
    numbers, actions = _numbers(layer.site, layer.editor, divisions)
    if not actions.any():
        return layer.matrix
    coarse = (divisions[t.linear.weight].levels for t in layer.site.terms if t.linear.weight in divisions)
    levels = max((n for n in coarse if n < FINE), default=0)
    parts = zip(layer.matrix, layer.moments, numbers, layer.scales, strict=True)
    return np.stack([compensated(Layer(w, ridged(h), n, actions, scale, levels)) for w, h, n, scale in parts])


def losses_of(graph: Graph, blocks: Mapping[str, Blocks], batches: Sequence[Feeds], seed: int = 0) -> dict[str, Losses]:
    """What the blocks of each weight lose if they change and all other weights of their layer make up for it, by name."""
    jobs = [job for job in ordered(graph, find_sums(graph)) if any(t.linear.weight in blocks for t in job[0].terms)]
    linears = [[t.linear for t in job[0].terms if t.linear.weight in blocks] for job in jobs]
    wants = [[name for linear in some for name in (linear.node.inputs[0], linear.node.outputs[0])] for some in linears]
    rng, found, editor = np.random.default_rng(seed), dict[str, Losses](), Editor(graph.model)
    with stages(graph.model, wants, batches) as run:
        for k, some in enumerate(linears):
            seen = {linear.weight: Tally() for linear in some}
            for values in run.advance(k):
                for linear in some:
                    x, y = (values[name] for name in (linear.node.inputs[0], linear.node.outputs[0]))
                    n = y.size // y.shape[linear.channel_axis]
                    rows = linear.rows(x, np.sort(rng.choice(n, min(n, SOME), replace=False)))
                    seen[linear.weight].add(rows, rows[..., :0])
            centred = bool(offset_slots(jobs[k][0], editor))
            for linear in some:
                name, moments = linear.weight, second_moments(seen[linear.weight].moments(), centred)
                found[name] = _losses(linear, blocks[name], graph.weights[name].array, moments)
    return found


def _losses(linear: Linear, blocks: Blocks, w: Array, moments: Vector) -> Losses:
    """Those of one weight, by the second moments of its inputs (groups, d, d)."""
    w = w.astype(np.float64)
    near = blocks.shared(blocks.magnitudes(w), w)
    numbers, kept, change = (linear.matrix(x) for x in (blocks.numbers, w, w - near))
    whole, parts = 0.0, np.zeros((2, blocks.count))
    for g, h in enumerate(map(ridged, moments)):
        whole += float((kept[g] * (h @ kept[g])).sum())
        parts += [block_losses(h, error[g], numbers[g], blocks.count) for error in (kept, change)]
    zero, shared = parts / (whole or 1.0)
    return Losses(zero, shared)


def ways_to_unify(model: ModelProto, divisions: Mapping[str, Division]) -> Ways:
    """The methods tried for each value of --recover, beside the projection alone."""
    fit = ("reconstruct", partial(by_compensation, model=model, divisions=divisions))
    train = ("distill", partial(by_held_blocks, model=model, divisions=divisions))
    return {"none": (), "reconstruct": (fit,), "distill": (fit, train), "auto": (fit, train)}


def by_compensation(task: Task, progress: Progress, model: ModelProto, divisions: Mapping[str, Division]) -> Fitted:
    """Fit the layers to those of the original, each with its blocks, as many rows of them as there is time for.

    Args:
        task: the original, samples and time.
        model: the model whose weights are unified.
    """
    effort, advance = task.effort, lambda done: progress("unify", done)
    before, left = effort.all_known("fit: "), FITTING * effort.clock.left
    settings = FitSettings(seed=task.seed, seconds=None if math.isinf(left) else left)
    settings = settings.repeating(before) if before else settings
    constrain = partial(in_divisions, divisions=divisions)
    fitted = reconstruct(task.coupled, task.dropped, model, task.batches(), settings, advance, constrain)
    for name, number in fitted.work.items():
        effort.record(f"fit: {name}", number)
    return replace(fitted, model=projected(fitted.model, divisions, FITTED_BITS))


def by_held_blocks(task: Task, progress: Progress, model: ModelProto, divisions: Mapping[str, Division]) -> Fitted:
    """Fit the layers, then train the whole network to follow the original, its blocks held.

    Args:
        task: the original, samples and time.
        model: the model whose weights are unified.
    """
    fit = partial(by_compensation, model=model, divisions=divisions)
    trained = by_distillation(task, progress, fit, divisions)
    return replace(trained, model=projected(trained.model, divisions, FITTED_BITS))


def projected(model: ModelProto, divisions: Mapping[str, Division], bits: int = HALF_BITS) -> ModelProto:
    """A copy whose blocks are what was decided, without any correction of what that changes.

    Weights that have the structure already are only rounded to what a file stores, magnitudes to so many bits after the first.
    """
    found = ModelProto()
    found.CopyFrom(model)
    editor = Editor(found)
    for name, division in divisions.items():
        w = editor.weights[name].array
        editor.put(name, rounded(w if not division.wrong(w) else division.projected(w), division, bits))
    return found


def ridged(moments: Vector) -> Vector:
    """Positive definite second moments (d, d)."""
    typical = float(np.trace(moments)) / len(moments)
    found: Vector = moments + np.eye(len(moments)) * (RIDGE * typical or 1.0)
    return found


def _numbers(site: LinearSum, editor: Editor, divisions: Mapping[str, Division]) -> tuple[Indices, Array]:
    """The block of each weight of a site (groups, d, o), -1 for none, and the actions of all blocks."""
    parts: list[Indices] = []
    actions: list[Array] = [np.zeros(0, np.int64)]
    for term in site.terms:
        name = term.linear.weight
        division = divisions.get(name)
        shape = editor.weights[name].shape
        if division is None:
            parts.append(term.linear.matrix(np.full(shape, -1)))
            continue
        parts.append(term.linear.matrix(division.blocks.numbers) + sum(map(len, actions)))
        actions.append(division.actions)
    return np.concatenate(parts, 1), np.concatenate(actions)

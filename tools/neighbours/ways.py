# SPDX-License-Identifier: Apache-2.0
"""Ways to store the weights of a network in fewer bits: unification, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto

from neighbours.carrying import with_codes
from neighbours.grids import Coded, nearest, on_grids
from onnxprune.analysis.analyse import analyse
from onnxprune.compression.blocks import FREE, SHARED, Blocks, BlockShape
from onnxprune.compression.carrier import KINDS, carried
from onnxprune.compression.division import HALF_BITS, Division
from onnxprune.compression.eligible import eligible
from onnxprune.compression.opset import converted
from onnxprune.data.samples import Data
from onnxprune.ir.facts import read_graph
from onnxprune.options import UnificationOptions
from onnxprune.pipeline.blocks import JUDGING, divide, levels_of
from onnxprune.recovery.editor import Editor
from onnxprune.recovery.effort import FitSettings
from onnxprune.recovery.methods import Task
from onnxprune.recovery.reconstruct import reconstruct
from onnxprune.recovery.unification import FITTED_BITS, by_compensation, losses_of, projected
from onnxprune.types import Array, silent

ANY = "16"
"""The size of block that decides which weights are stored in fewer bits, the same ones in all rows."""
FILLED = {"INT8": 127, "INT4": 7, "INT2": 1}
"""The largest code of each type, if there are as many below 0 as above."""


class Way(Protocol):
    """A row of the table."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    def made(self, task: Task, compensate: bool) -> dict[str, ModelProto]:
        """The files, by the type of their codes: only with weights changed, or with the error made up for."""


def task_of(model: ModelProto, fit: Data, seed: int) -> Task:
    """A network and the samples that its weights are fitted to; nothing is cut."""
    coupled = analyse(read_graph(model)).coupled
    return Task(coupled, np.zeros(len(coupled.free), bool), model, fit, seed=seed)


@dataclass(frozen=True)
class Unified:
    """Blocks that share a magnitude.

    Attributes:
        name: what the table calls it.
        asked: options of `onnxprune unify`.
        tiles: blocks on each side of a super-block, within which the share is chosen; 0: chosen as `asked` says.
    """

    name: str
    asked: Mapping[str, Any]
    tiles: int = 0

    def made(self, task: Task, compensate: bool) -> dict[str, ModelProto]:
        """The files, by the type of their codes."""
        asked = UnificationOptions(**self.asked)
        divisions = in_tiles(task, asked, self.tiles) if self.tiles else divide(task, asked)
        if compensate:
            numbers = by_compensation(task, silent, task.pruned, divisions).model
        else:
            numbers = projected(task.pruned, divisions)
        # free blocks are fitted for one type of codes
        kinds = [asked.codes()] if any((d.actions == FREE).any() for d in divisions.values()) else KINDS
        newer = {kind: converted(numbers, kind.opset) for kind in kinds}
        return {kind.name: carried(model, divisions, kind) for kind, model in newer.items() if model}


@dataclass(frozen=True)
class Rounded:
    """Integer codes.

    Attributes:
        name: what the table calls it.
        most: the largest code.
        block: weights that share a scale; empty: all of an output channel.
    """

    name: str
    most: int
    block: str = ""

    def made(self, task: Task, compensate: bool) -> dict[str, ModelProto]:
        """The files, by the type of their codes."""
        weights = eligible(read_graph(task.pruned), BlockShape.parse(self.block or ANY))
        grids = weights if self.block else {name: by_output(b) for name, b in weights.items()}
        found: dict[str, Coded] = {}
        if compensate:
            bits = FITTED_BITS if self.block else HALF_BITS  # few scales take no space
            fit = partial(on_grids, grids=grids, most=self.most, found=found, bits=bits)
            knobs = FitSettings(seed=task.seed)
            model = reconstruct(task.coupled, task.dropped, task.pruned, task.batches(), knobs, constrain=fit).model
        else:
            model = ModelProto()
            model.CopyFrom(task.pruned)
            editor = Editor(model)
            found |= {name: nearest(editor.weights[name].array, blocks, self.most) for name, blocks in grids.items()}
        kinds = [kind for kind in KINDS if FILLED[kind.name] >= self.most]
        return {kind.name: with_codes(model, found, kind) for kind in kinds}


def by_output(blocks: Blocks) -> Blocks:
    """One block for each output channel of a weight, whose outputs are not divided in `blocks`: on the axis of unit runs."""
    outputs = 0 if len(blocks.shape) > 2 or blocks.runs[0] == 1 else 1
    return Blocks(blocks.shape, tuple(1 if axis == outputs else n for axis, n in enumerate(blocks.shape)))


def in_tiles(task: Task, asked: UnificationOptions, side: int) -> dict[str, Division]:
    """The share of blocks to unify, chosen within each super-block of `side` x `side` blocks of outputs and inputs."""
    graph = read_graph(task.pruned)
    blocks = eligible(graph, asked.block(), asked.leave, asked.all_layers)
    assert task.fit is not None
    few = replace(task, fit=task.fit.take(JUDGING, task.seed))
    losses = losses_of(graph, blocks, few.batches(), task.seed)
    actions = {name: tiled(b, losses[name].shared, asked.shares().shared, side) for name, b in blocks.items()}
    return {name: Division(b, actions[name], levels_of(graph.weights[name], asked.codes())) for name, b in blocks.items()}


def tiled(blocks: Blocks, losses: Array, share: float, side: int) -> Array:
    """FREE or SHARED for each block (count,): in each tile the share that loses least."""
    runs = tuple(min(side, n) if axis < 2 else 1 for axis, n in enumerate(blocks.grid))
    tiles = Blocks(blocks.grid, runs).numbers.ravel()
    actions = np.full(blocks.count, FREE)
    for k in range(int(tiles.max()) + 1):
        mine = np.flatnonzero(tiles == k)
        actions[mine[np.argsort(losses[mine], kind="stable")[: round(share * len(mine))]]] = SHARED
    return actions

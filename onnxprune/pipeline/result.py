# SPDX-License-Identifier: Apache-2.0
"""The result of a pruning."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxprune.ir.files import check_output, save
from onnxprune.ir.graphsurgeon import to_graphsurgeon
from onnxprune.ir.spill import Spill
from onnxprune.ir.tensors import take_all
from onnxprune.options import OutputOptions
from onnxprune.report.values import Report
from onnxprune.rewrite.plan import Plan


@dataclass(frozen=True)
class Result:
    """A pruned model.

    Attributes:
        model: the pruned model.
        plan: which positions of which weights were kept.
        report: what was requested, reached, verified and measured.
        external: whether the original stores its weights in separate files; if so, `save` does the same.
        spill: storage of the large weights of `model` until it is saved.
        inputs: the files of the original, which are never overwritten.
    """

    model: ModelProto = field(repr=False)
    plan: Plan = field(repr=False)
    report: Report = field(repr=False)
    external: bool = False
    spill: Spill | None = field(default=None, repr=False, compare=False)
    inputs: tuple[Path, ...] = field(default=(), repr=False, compare=False)

    def in_memory(self) -> Result:
        """The same result with all weights in memory."""
        take_all(self.model)
        return replace(self, spill=None)

    def save(self, output: str | Path, plan: str | Path | None = None, force: bool = True) -> None:
        """Write the model, and the plan if its path is given: both or neither.

        Args:
            output: path of the model; if it ends in `.zst`, the model is packed with Zstandard, with all its weights.
            plan: path of the plan.
            force: whether existing files are replaced.

        Raises:
            OptionError: a path is a file of the original, both paths are the same, or a file exists and `force` is False.
            OutputError: they cannot be written.
        """
        places = OutputOptions(Path(output), Path(plan) if plan else None, force=force)
        for place in places.paths:
            check_output(place, force, *self.inputs)
        save(self.model, places.output, {places.plan: self.plan.to_json()} if places.plan else {}, self.external)

    def to_graphsurgeon(self) -> Any:
        """The model as an `onnx_graphsurgeon.Graph`."""
        return to_graphsurgeon(self.model)

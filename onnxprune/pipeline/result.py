# SPDX-License-Identifier: Apache-2.0
"""The result of a pruning."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxprune.errors import ModelError, OptionError, PlanError
from onnxprune.ir.files import digest_of, mark
from onnxprune.ir.graphsurgeon import to_graphsurgeon
from onnxprune.ir.packing import named_after
from onnxprune.ir.placing import check_outputs
from onnxprune.ir.saving import Saved, save
from onnxprune.ir.spill import Spill
from onnxprune.ir.tensors import take_all
from onnxprune.options import OutputOptions
from onnxprune.report.values import Report
from onnxprune.rewrite.plan import Plan


def check_plan_is_free(places: OutputOptions) -> None:
    """Check that the plan does not replace the plan of another model beside it: of the same one, packed or not.

    Raises:
        OptionError: it does.
    """
    if places.plan is None or not places.plan.is_file():
        return
    with contextlib.suppress(PlanError, ModelError, OSError):  # something else: that may be replaced if it is asked for
        owner = Plan.load(places.plan).pruned_sha256
        for other in (named_after(places.output, ending) for ending in (".onnx", ".onnx.zst")):
            if other != places.output and other.is_file() and owner == digest_of(other):
                advice = "choose another place for the new plan (--plan)"
                raise OptionError(f"{places.plan}: is the plan of {other}, which would remain without it; {advice}")


def _unchanged() -> None:
    """There are no files."""


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
        given: digest of the plan that was given, if it is not `plan`.
        unchanged: raises `ModelError` if the files of the original are not those that were read.
    """

    model: ModelProto = field(repr=False)
    plan: Plan = field(repr=False)
    report: Report = field(repr=False)
    external: bool = False
    spill: Spill | None = field(default=None, repr=False, compare=False)
    inputs: tuple[Path, ...] = field(default=(), repr=False, compare=False)
    given: str = field(default="", repr=False, compare=False)
    unchanged: Callable[[], None] = field(default=_unchanged, repr=False, compare=False)

    def __post_init__(self) -> None:
        """State in the model's metadata by which plan it was made."""
        mark(self.model, self.given or self.plan.sha256)

    def in_memory(self) -> Result:
        """The same result with all weights in memory, whatever becomes of the original's files.

        Raises:
            ModelError: they were changed before.
        """
        take_all(self.model)
        self.unchanged()
        return replace(self, spill=None, unchanged=_unchanged)

    def save(
        self,
        output: str | Path,
        plan: str | Path | None = None,
        force: bool = True,
        pictures: Mapping[Path, str] | None = None,
    ) -> Saved:
        """Write the model, and the plan if its path is given: all files or none.

        Args:
            output: path of the model; if it ends in `.zst`, the model is packed with Zstandard, with all its weights.
            plan: path of the plan.
            force: whether existing files are replaced.
            pictures: path of a picture -> its content.

        Returns:
            The digest of the model's file, and the files of weights that were written and removed.

        Raises:
            OptionError: a path is a file of the original, or two paths are the same, or a file exists and `force` is False, or
                the plan there belongs to another model that remains.
            OutputError: they cannot be written.
            ModelError: the original's files were changed since they were read.
        """
        self.unchanged()
        drawn = pictures or {}
        places = OutputOptions(Path(output), Path(plan) if plan else None, next(iter(drawn), None), force)
        check_outputs(places.places, force, *self.inputs)
        check_plan_is_free(places)

        def texts(digest: str) -> dict[Path, str]:
            self.unchanged()  # large weights have been read by now, and nothing is in its place yet
            plan = replace(self.plan, pruned_sha256=digest).to_json()
            return {**({places.plan: plan} if places.plan else {}), **drawn}

        return save(
            self.model, places.output, [p for p in (places.plan, *drawn) if p], texts, self.external, force, self.inputs
        )

    def to_graphsurgeon(self) -> Any:
        """The model as an `onnx_graphsurgeon.Graph`."""
        return to_graphsurgeon(self.model)

# SPDX-License-Identifier: Apache-2.0
"""What options name, looked up before any model is read: files, functions and packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.cost.profile import Profile
from onnxprune.data.array_files import read_arrays
from onnxprune.data.arrays import as_array
from onnxprune.data.load import check_exists, check_source
from onnxprune.data.user_code import function_named
from onnxprune.errors import DataError, OptionError, PlanError, shortened
from onnxprune.options import Options
from onnxprune.pipeline.profile import check_same_machine
from onnxprune.rewrite.plan import Plan
from onnxprune.selection.bounds import LayerRatios
from onnxprune.types import Array

MOST_WORK = 10**9
"""No run has done so much of anything."""


def resolved(options: Options) -> Options:
    """Look up the files, functions and packages that options name. No model is needed or run.

    Returns:
        The options with arrays as scores, a function as metric, and a profile instead of its file.

    Raises:
        DataError, TrainingError: there is no such file or function, or PyTorch is not installed.
        OptionError: the profile is of another machine than the latencies.
    """
    selection, data = options.selection, options.data
    if isinstance(selection.scores, str | Path):
        selection = replace(selection, scores=_as_scores(read_arrays(selection.scores, "--scores")))
    elif selection.scores is not None:
        selection = replace(selection, scores=_as_scores(selection.scores))
    if selection.layer_ratios is not None and not isinstance(selection.layer_ratios, LayerRatios):
        selection = replace(selection, layer_ratios=LayerRatios.read(selection.layer_ratios))
    if isinstance(selection.profile, str | Path):
        profile = Profile.read(Path(selection.profile), f"--profile {selection.profile}")
        selection = replace(selection, profile=profile)
    if isinstance(selection.profile, Profile) and selection.latency is not None and not selection.other_machine:
        check_same_machine(selection.profile, options.checks.threads)
    if isinstance(data.labels, str | Path):
        check_exists(data.labels, "--labels", folders=False)
    check_source(data.data, data.preprocess)
    if isinstance(data.metric, str):
        data = replace(data, metric=function_named(data.metric, "--metric"))
    recovery = replace(options.recovery, work=_work(options.recovery.work))
    if recovery.recover == "distill":
        import onnxprune.training.converter  # noqa: F401  # slow; raises an error that says what to install
    return replace(options, selection=selection, data=data, recovery=recovery)


def _work(given: str | Path | Mapping[str, int] | None) -> Mapping[str, int] | None:
    """The numbers that time decided in an earlier run."""
    if given is None:
        return None
    found = given if isinstance(given, Mapping) else Plan.load(given).made_by.get("work")
    if isinstance(given, Mapping) and not all(isinstance(n, int) for n in given.values()):
        raise OptionError("--work: expected whole numbers by name, the record of an earlier run")
    if not isinstance(found, Mapping) or not all(isinstance(n, int) for n in found.values()):
        raise PlanError(f'--work {given}: holds no record of work; expected a plan of a run with inputs ("made_by": "work")')
    odd = {
        name: n for name, n in found.items() if not 0 <= n <= MOST_WORK or (n == 0 and ("samples" in name or "batches" in name))
    }
    if odd:
        name, number = next(iter(odd.items()))
        raise PlanError(
            f"--work: holds {shortened(str(number), 20)} for '{name}', which no run records; give the plan of an earlier run"
        )
    return found


def _as_scores(given: Mapping[str, Any]) -> dict[str, Array]:
    """Scores as arrays of finite numbers; whether they fit the model's weights is checked when there is a graph."""
    found = {str(name): as_array(str(name), x, "--scores") for name, x in given.items()}
    for name, scores in found.items():
        if not name:
            raise DataError("--scores: got a single array, expected an .npz with one array per weight, named as the weight")
        if scores.dtype.kind not in "fiub" or not np.isfinite(scores).all():
            at = "" if scores.dtype.kind != "f" else f", first at {np.argwhere(~np.isfinite(scores))[0].tolist()}"
            got = f"NaN or infinity{at}" if at else f"{scores.dtype} values"
            raise DataError(f"--scores: '{name}' contains {got}, expected finite numbers, one per output channel")
    return found

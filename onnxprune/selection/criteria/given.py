# SPDX-License-Identifier: Apache-2.0
"""Scores that the user gives instead of a criterion: weight -> one score per output channel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.errors import DataError
from onnxprune.selection.criteria import Scored
from onnxprune.selection.criteria.weights import WeightReader
from onnxprune.types import Array, Vector


def check_scores(coupled: Coupled, groups: tuple[Group, ...], given: Mapping[str, Array]) -> None:
    """Check that external scores name weights that make channels, with one finite number per channel.

    Raises:
        DataError: a name is not in the model, makes no channels, or has a different number of channels.
    """
    owners = _first_uses(coupled, groups)
    for name, values in given.items():
        if name not in owners:
            raise DataError(f"--scores: '{name}' does not make prunable channels; weights that do: {_some(list(owners))}")
        size = len(coupled.uses[owners[name]].labels)
        if values.shape != (size,) or not np.isfinite(values.astype(np.float64)).all():
            raise DataError(
                f"--scores: '{name}' has shape {values.shape}, expected ({size},) finite numbers, one per output channel"
            )


def _first_uses(coupled: Coupled, groups: tuple[Group, ...]) -> dict[str, int]:
    """Weight that makes channels -> its first use."""
    found: dict[str, int] = {}
    for g in groups:
        for u in g.producers:
            found.setdefault(coupled.owners[coupled.owner_of[coupled.uses[u].labels[0]]].weight, u)
    return found


def scores_from_file(coupled: Coupled, groups: tuple[Group, ...], given: Mapping[str, Array]) -> Scored:
    """External scores: weight name -> one score per output channel of that weight, higher = keep.

    Groups without a named producer are kept as they are.

    Raises:
        DataError: the scores do not fit (`check_scores`).
    """
    check_scores(coupled, groups, given)
    reader = WeightReader(coupled)
    names = {u: name for name, u in _first_uses(coupled, groups).items()}
    scores: list[Vector | None] = []
    for g in groups:
        parts = [reader.to_atoms(g, u, given[names[u]].astype(np.float64)) for u in g.producers if names.get(u) in given]
        scores.append(np.mean(parts, 0) if parts else None)
    return Scored(tuple(scores))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

# SPDX-License-Identifier: Apache-2.0
"""Merging identical channels: one keeps what all of them contribute, the others become zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from onnxprune.training.channels import READER
from onnxprune.training.export import Example, difference, example_of
from onnxprune.training.modules import evaluating
from onnxprune.training.sparsity.binding import Bound, Part
from onnxprune.training.sparsity.clusters import centroids, firsts, sums

TOLERANCE = 1e-4
"""How much outputs may change, relative to the largest, if identical channels merge: another order of additions."""
COARSE = 2e-2
"""The same for half precision."""
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Merged:
    """What became of the clusters of each group.

    Attributes:
        merged: name of the group -> the number of channels that are zero now.
        refused: name of the group -> why its channels were left as they were.
        moved: how much the outputs for the example have changed, relative to the largest: what was left between members of
            clusters and their centroids.
    """

    merged: Mapping[str, int]
    refused: Mapping[str, str]
    moved: float


@torch.no_grad()
def merge_clusters(
    model: nn.Module, bounds: Sequence[Bound], clusters: Sequence[Tensor | None], example_inputs: Example
) -> Merged:
    """Merge the clusters of each group, in place; a group that cannot be merged is restored."""
    inputs = example_of(model, example_inputs)
    merged, refused = dict[str, int](), dict[str, str]()
    with evaluating(model):
        before = _outputs(model, inputs)
        for bound, mine in zip(bounds, clusters, strict=True):
            if why := _obstacle(bound, mine) or _merge(model, inputs, bound, mine):
                refused[bound.group.name] = why
            elif mine is not None:
                merged[bound.group.name] = bound.group.size - int(mine.max()) - 1
        return Merged(merged, refused, _change(_outputs(model, inputs), before))


def _obstacle(bound: Bound, clusters: Tensor | None) -> str:
    """Why a group cannot be merged, as far as its slices tell; else nothing."""
    if not any(True for _ in bound.of(READER)):
        return "no weight reads its channels by itself"
    if clusters is None:
        return "its channels own different numbers of positions"
    fixed = next((p.slice.name for p in bound.parts if _fixed(p) and _differs(p, clusters)), "")
    return fixed and f"'{fixed}' is not trained, and differs between its channels"


def _merge(model: nn.Module, inputs: Sequence[Tensor], bound: Bound, clusters: Tensor | None) -> str:
    """Merge the clusters of a group; if outputs change, restore it and return why."""
    assert clusters is not None
    old = {id(p.tensor): (p.tensor, p.tensor.clone()) for p in bound.parts}
    makers = [p for p in bound.parts if p.slice.role != READER]
    for part in makers:
        part.put(centroids(part.blocks(), clusters.to(part.tensor.device)))
    equal = _outputs(model, inputs)
    for part in bound.of(READER):
        mine = clusters.to(part.tensor.device)
        part.put(sums(part.blocks(), mine)[mine])
    for part in (p for p in bound.parts if isinstance(p.tensor, nn.Parameter)):
        part.clear(~firsts(clusters))
    if _change(_outputs(model, inputs), equal) <= _tolerance(bound):
        return ""
    for tensor, values in old.values():
        tensor.copy_(values)
    return "equal weights do not make its channels equal, or more than weights combines them"


def _fixed(part: Part) -> bool:
    """Whether it is neither trained nor a running statistic nor a weight that is summed."""
    return not part.trained and part.slice.role != READER and not part.slice.name.endswith(STATISTICS)


def _differs(part: Part, clusters: Tensor) -> bool:
    blocks = part.blocks()
    return not torch.allclose(blocks, centroids(blocks, clusters.to(part.tensor.device)))


def _tolerance(bound: Bound) -> float:
    return TOLERANCE if all(p.tensor.dtype.itemsize >= 4 for p in bound.parts) else COARSE


def _outputs(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    return [y.float().cpu() for y in pytree.tree_leaves(model(*inputs)) if isinstance(y, Tensor)]


def _change(found: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """The largest difference of outputs, relative to the largest value."""
    return max((difference(a.numpy(), b.numpy()) for a, b in zip(found, before, strict=True)), default=0.0)

# SPDX-License-Identifier: Apache-2.0
"""Clusters of similar channels."""

from __future__ import annotations

import torch
from torch import Tensor


def ward(vectors: Tensor, clusters: int) -> Tensor:
    """Merge the two clusters whose union adds least to the squared distances from centroids, until `clusters` are left.

    Unlike k-means it is deterministic and leaves no cluster empty. Source: Ward, Hierarchical Grouping, 1963; distances are
    updated by the formula of Lance and Williams, 1967.

    Args:
        vectors: one per channel (n, d).
        clusters: 1 to n.

    Returns:
        The number of each channel's cluster (n,): 0 to clusters - 1, in the order of their first channels.

    >>> ward(torch.tensor([[0.0], [5.0], [0.1], [9.0]]), 3)
    tensor([0, 1, 0, 2])
    """
    n, points = len(vectors), vectors.double().cpu()
    cost = torch.cdist(points, points).square() / 2
    cost.fill_diagonal_(torch.inf)
    of, size = torch.arange(n), torch.ones(n, dtype=torch.float64)
    least, nearest = cost.min(1)
    for _ in range(n - clusters):
        first = int(least.argmin())
        a, b = sorted((first, int(nearest[first])))
        joined = ((size[a] + size) * cost[a] + (size[b] + size) * cost[b] - size * cost[a, b]) / (size[a] + size[b] + size)
        joined[a], cost[b], cost[:, b] = torch.inf, torch.inf, torch.inf
        cost[a], cost[:, a] = joined, joined
        size[a] += size[b]
        of[of == b] = a
        # only rows whose nearest cluster has changed are searched again
        stale = (nearest == a) | (nearest == b) | (joined < least)
        stale[[a, b]] = True
        least[stale], nearest[stale] = cost[stale].min(1)
    found: Tensor = torch.unique(of, return_inverse=True)[1]
    return found.to(vectors.device)


def table(clusters: Tensor, dtype: torch.dtype) -> Tensor:
    """1 where a channel is in a cluster (n, clusters)."""
    return torch.nn.functional.one_hot(clusters).to(dtype)


def sums(blocks: Tensor, clusters: Tensor) -> Tensor:
    """The sum over the channels of each cluster (clusters, ...), for values by channel (n, ...)."""
    # a product with a table is the same in every run, unlike index_add on a GPU
    return (table(clusters, blocks.dtype).T @ blocks.flatten(1)).reshape(-1, *blocks.shape[1:])


def centroids(blocks: Tensor, clusters: Tensor) -> Tensor:
    """The mean over the channels of each cluster, at each of its channels (n, ...)."""
    sizes = torch.bincount(clusters).to(blocks.dtype).reshape(-1, *[1] * (blocks.ndim - 1))
    return (sums(blocks, clusters) / sizes)[clusters]


def firsts(clusters: Tensor) -> Tensor:
    """Whether each channel is the first of its cluster (n,)."""
    index = torch.arange(len(clusters), device=clusters.device)
    least = torch.where(table(clusters, torch.bool).T, index, len(clusters)).amin(1)
    return index == least[clusters]

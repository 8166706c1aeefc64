#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Torch-Pruning on the PyTorch module of the model in models/, for the table of `recovery.py`.

Needs torch and torch-pruning. L2 norms, the same fraction of every group (residual spine included, classifier kept), without
rounding, at the ratio closest to the requested MACs; then BatchNorm statistics are re-estimated on the same unlabelled samples,
as its users do before further training.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # for `models`


def network(model: ModelProto) -> Any:
    """The PyTorch module with the file's weights. The exporter stores equal tensors once: two shifts before a sum."""
    import torch

    from models.networks import NETWORKS

    net = NETWORKS["resnet20"](mean=(0.2860,), std=(0.3530,))
    found = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in model.graph.initializer}
    for stage in ("layer2.0", "layer3.0"):
        found.setdefault(f"{stage}.shortcut.1.bias", found[f"{stage}.bn2.bias"])
    net.load_state_dict(found, strict=False)
    return net.eval()


def cut(model: ModelProto, ratio: float) -> tuple[Any, float]:
    """The module without `ratio` of its channels, and the fraction of MACs kept."""
    import torch
    import torch_pruning as tp

    net, example = network(model), torch.zeros(1, 1, 28, 28)
    before, _ = tp.utils.count_ops_and_params(net, example)
    pruner = tp.pruner.MetaPruner(
        net, example, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=ratio, ignored_layers=[net.fc]
    )
    pruner.step()
    after, _ = tp.utils.count_ops_and_params(net, example)
    return net, after / before


def pruned(model: ModelProto, share: float) -> tuple[Any, float]:
    """The cut whose MACs are closest to `share`."""
    found = [cut(model, ratio) for ratio in np.arange(0.1, 0.7, 0.01)]
    return min(found, key=lambda pair: abs(pair[1] - share))


def reestimated(net: Any, images: NDArray[np.float32]) -> Any:
    """BatchNorm's running statistics, averaged over batches of 100."""
    import torch

    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    net.train()
    with torch.no_grad():
        for k in range(0, len(images), 100):
            net(torch.tensor(images[k : k + 100]))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum  # or the statistics of further training would be averages over all of it
    return net.eval()


def top1(net: Any, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Accuracy in percent."""
    from models.training import accuracy

    return 100 * accuracy(net, *_tensors(images, labels))


def _tensors(images: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[Any, Any]:
    import torch

    return torch.tensor(images), torch.tensor(labels)

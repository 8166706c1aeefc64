# SPDX-License-Identifier: Apache-2.0
"""Weight decay beside sparsity: parameter groups for an optimizer."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from onnxprune.errors import OptionError, TrainingError
from onnxprune.training.modules import unwrapped
from onnxprune.training.sparsity.base import Regularizer
from onnxprune.training.sparsity.l1 import sparse_by_default
from onnxprune.training.sparsity.schedule import is_number


def parameter_groups(model: nn.Module, weight_decay: float, sparsity: Regularizer | None = None) -> list[dict[str, Any]]:
    """The trained parameters of a model for an optimizer, without weight decay on those that become sparse.

    L1 takes the same from each value and leaves few large ones; weight decay takes most from large ones and prefers many small
    ones. On the same tensor they mix, and neither strength says what it does.

        optimizer = torch.optim.SGD(parameter_groups(model, 5e-4, sparsity), lr=0.1, momentum=0.9)

    Args:
        model: the model, wrapped or not.
        weight_decay: of all other parameters.
        sparsity: the regulariser; by default L1 on weights of convolutions and scales of BatchNorm.

    Returns:
        Parameter groups, of which each parameter is in one.

    Raises:
        OptionError: the weight decay is not a number of at least 0.
        TrainingError: no parameter is trained.
    """
    if not is_number(weight_decay) or not 0 <= weight_decay < math.inf:
        raise OptionError(f"weight_decay: got {weight_decay!r}, expected a finite number of at least 0")
    model = unwrapped(model)
    found = sparse_by_default(model) if sparsity is None else (sparsity.sparse_tensors(model),)
    sparse = {id(t) for tensors in found for t in tensors.values()}
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise TrainingError(f"{type(model).__name__}: has no parameters that are trained")
    split = [([p for p in trained if (id(p) in sparse) == of], 0.0 if of else float(weight_decay)) for of in (False, True)]
    return [{"params": params, "weight_decay": decay} for params, decay in split if params]

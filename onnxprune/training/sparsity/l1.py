# SPDX-License-Identifier: Apache-2.0
"""L1 on the weights of convolutions and, separately, on the scales of BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onnxprune.errors import TrainingError
from onnxprune.training.channels import ChannelGroup
from onnxprune.training.sparsity.base import LOG_EVERY, Regularizer, Tensors
from onnxprune.training.sparsity.rates import rate_of, rates
from onnxprune.training.sparsity.schedule import Schedule, Strength
from onnxprune.training.sparsity.scores import unit_mean

CONVOLUTIONS, BATCH_NORMS = nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm


class L1(Regularizer):
    """`weights` * sum |W| over convolutions + `scales` * sum |gamma| over BatchNorms.

    Source: CCPrune (Chen et al., Neurocomputing 2021); the term on scales alone is Network Slimming (Liu et al., ICCV 2017).

    A value that the loss does not need moves by about strength * learning rate / (1 - momentum) in a step of SGD, and gets to
    zero if these distances, summed over the training, exceed its size. One that the loss needs stays where the slope of the
    loss equals the strength. The default suits small networks that do not fit their data perfectly; Network Slimming trained
    VGG for 160 epochs with 1e-4 on scales. Weights that are computed from others (parametrizations) are left out.

    Args:
        weights, scales: their strengths, each a number or a schedule (step -> strength).
        proximal: shrink the values after the optimizer's step instead of adding a term to the loss. Zeros are exact then, and
            `step` needs the optimizer. (Soft thresholding: Daubechies et al., 2004.)
        groups: from `channel_groups`, to log their scores; otherwise those of each layer are logged.
        log_every: the number of steps between records in `history`.

    Raises:
        OptionError: a strength is negative or not a number.
    """

    def __init__(
        self,
        weights: float | Schedule = 1e-5,
        scales: float | Schedule = 1e-3,
        *,
        proximal: bool = False,
        groups: Sequence[ChannelGroup] = (),
        log_every: int = LOG_EVERY,
    ) -> None:
        super().__init__(groups or None, log_every=log_every)
        self.weights, self.scales = Strength("L1 weights", weights), Strength("L1 scales", scales)
        self.proximal = proximal

    def _penalty(self, model: nn.Module) -> Tensor:
        found, zero = self._tensors(model), super()._penalty(model)
        if self._binder is not None:
            self._bound(model)  # groups of another model are an error now, not when they are logged
        if self.proximal:
            return zero
        pairs = zip((self.weights.at(self.steps), self.scales.at(self.steps)), found, strict=True)
        terms = [k * _float(t).abs().sum().to(zero.device) for k, tensors in pairs if k for t in tensors.values()]
        return torch.stack([zero, *terms]).sum()

    def _act(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        if not self.proximal:
            return
        known, found = rates(optimizer, self.name), self._tensors(model)
        rate = rate_of(known, {**found[0], **found[1]}, self.name)
        for strength, tensors in zip((self.weights, self.scales), found, strict=True):
            size = strength.at(self.steps)
            for name in tensors.keys() & rate.keys():
                shrink(tensors[name], size * rate[name])

    def _sparse(self, model: nn.Module) -> Tensors:
        weights, scales = self._tensors(model)
        return {**({} if self.weights.off else weights), **({} if self.scales.off else scales)}

    def _scores(self, model: nn.Module) -> Tensors:
        if self._binder is not None:
            return super()._scores(model)
        weights, scales = self._tensors(model)
        means = {name: unit_mean(w.abs().flatten(1).mean(1)) for name, w in weights.items()}
        return {**means, **{name: unit_mean(s.abs()) for name, s in scales.items()}}

    def _tensors(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The trained weights of convolutions and scales of BatchNorms.

        Raises:
            TrainingError: there are none.
        """
        weights, scales = sparse_by_default(model)
        if not weights and not scales:
            raise TrainingError(
                f"L1: {type(model).__name__} has neither convolutions nor BatchNorm scales that are trained; "
                "use GroupLasso(channel_groups(model, example_inputs))"
            )
        return weights, scales


def sparse_by_default(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trained weights of all convolutions, and the trained scales of all BatchNorms, by name."""
    weights: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        into = weights if isinstance(layer, CONVOLUTIONS) else scales if isinstance(layer, BATCH_NORMS) else None
        weight = layer._parameters.get("weight")
        if into is not None and weight is not None and weight.requires_grad:
            into[f"{name}.weight" if name else "weight"] = weight
    return weights, scales


def shrink(tensor: Tensor, by: float) -> None:
    """Move all values towards zero by `by`, and to zero if they are closer, in place."""
    tensor.copy_(torch.nn.functional.softshrink(tensor, by))


def _float(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()

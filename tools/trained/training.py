# SPDX-License-Identifier: Apache-2.0
"""Training of small networks on the processor, and their export."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trained.datasets import SCALES, Dataset
from trained.networks import NETWORKS
from trained.registry import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]
CLASSES = {"clothes": 10, "photos": 8, "collage": 10, "letters": 26, "scenes": 3, "sounds": 8}
BATCH = 64


def detection_loss(found: Tensor, truth: Tensor, cell: int = 8, columns: int = 8) -> Tensor:
    """Cross entropy of all scores, and the distance of boxes at the cells that hold the centre of a shape."""
    image, row = torch.nonzero(truth[:, :, 0] >= 0, as_tuple=True)
    kind, box = truth[image, row, 0].long(), truth[image, row, 1:]
    place = (box[:, 1] // cell).long() * columns + (box[:, 0] // cell).long()
    wanted = torch.zeros_like(found[:, 4:])
    wanted[image, kind, place] = 1
    scores = F.binary_cross_entropy(found[:, 4:].clamp(1e-6, 1 - 1e-6), wanted, reduction="sum")
    here = found[image, :4, place]
    centres = (here[:, :2] - box[:, :2]).abs().sum() / cell
    sizes = (torch.log(here[:, 2:]) - torch.log(box[:, 2:])).abs().sum()
    return (scores + centres + 2 * sizes) / max(len(image), 1)


LOSSES: dict[str, Loss] = {"scenes": detection_loss}


def trained(recipe: Recipe, data: Dataset, seed: int = 0) -> nn.Module:
    """A network trained by a recipe: SGD with momentum, or AdamW, and a one-cycle schedule."""
    torch.manual_seed(seed)
    x = data.train.inputs
    inputs, truth = torch.from_numpy(x.copy()), torch.from_numpy(data.train.truth.copy())
    model = NETWORKS[recipe.network](x.shape[1], CLASSES[recipe.data], **recipe.settings)
    loss = LOSSES.get(recipe.data, F.cross_entropy)
    if recipe.adam:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=0.05)
    else:
        optimizer = torch.optim.SGD(model.parameters(), recipe.rate, 0.9, weight_decay=5e-4, nesterov=True)
    steps = recipe.epochs * (len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, steps)
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    model.to(memory_format=layout).train()  # type: ignore[call-overload]
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(inputs)).split(BATCH):  # type: ignore[no-untyped-call]
            if len(chosen) < BATCH:
                continue
            batch = torch.from_numpy(SCALES[recipe.scale](inputs[chosen].numpy())).float().contiguous(memory_format=layout)
            if recipe.data in ("clothes", "collage", "photos") and torch.rand(()) < 0.5:
                batch = batch.flip(3)
            value = loss(model(batch), truth[chosen])
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return model.eval()


def exported(model: nn.Module, example: Tensor) -> onnx.ModelProto:
    """The network with BatchNorm kept and a dynamic number of samples."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            buffer,  # type: ignore[arg-type]
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "N"}, "output": {0: "N"}},
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())

# SPDX-License-Identifier: Apache-2.0
"""Synthetic inputs improved by gradient descent to reproduce the means and variances that BatchNorm stores.

DeepInversion (Yin et al., CVPR 2020) and ZeroQ (Cai et al., CVPR 2020) start from noise and need thousands of steps, and priors
that keep images smooth. Inputs that were evolved for the same statistics (`onnxprune.data.synthetic`) are already close.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from onnxprune.data.samples import Data
from onnxprune.data.synthetic.statistics import Layer, fit, norm_layers
from onnxprune.effort import Effort
from onnxprune.errors import TrainingError
from onnxprune.training.converter.module import Module
from onnxprune.training.converter.ops.elementwise import to_torch
from onnxprune.types import Advance, unwatched

RATE = 0.02
"""Size of the first step, as a fraction of the range of an input's values. It falls to zero along a cosine."""
PLANNED, RECORD = "gradient steps planned", "gradient steps to make inputs"
STEPS, LEAST_STEPS, RUNS = 20, 5, 4
"""Maximum and minimum number of steps, and the time of a step in runs of the model."""
LEAST, MOST, FED = 8, 64, 2**21
"""Minimum and maximum number of samples run together, and their maximum number of input values: activations are far larger."""


def invert(model: ModelProto, data: Data, effort: Effort | None = None, progress: Advance = unwatched) -> Data:
    """Samples that fit a model's BatchNorm statistics better than `data`; `data` itself if none are found.

    Values stay within the original range of each input. Inputs that are integers, or the same in every sample, do not change.

    Args:
        model: the model, with its weights in memory.
        data: samples, all of one shape.
        effort: the time that there is for at most `STEPS` steps of gradient descent over all samples.
        progress: called with the fraction that is done.
    """
    layers = norm_layers(model)
    if not layers or data.stacked or len(data.chunks) != 1:
        return data
    found = data
    # PyTorch may not support an operator or its gradient, or may run out of memory: the given samples are good enough
    with contextlib.suppress(TrainingError, RuntimeError, TypeError, ValueError, IndexError, MemoryError):
        found = _gradient_descent(model, layers, data, effort or Effort(), progress)
    before, after = fit(model, data), fit(model, found)
    return found if before and after and after.mismatch < before.mismatch else data


def _gradient_descent(model: ModelProto, layers: Sequence[Layer], data: Data, effort: Effort, progress: Advance) -> Data:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module, statistics = Module(model).to(device).requires_grad_(False), [_Statistics(layer, device) for layer in layers]
    given = {name: to_torch(x).to(device) for name, x in data.chunks[0].items()}
    moved = {
        name: x.clone().requires_grad_() for name, x in given.items() if x.is_floating_point() and bool((x != x[:1]).any())
    }
    if not moved:
        return data
    ends = {name: (float(given[name].min()), float(given[name].max())) for name in moved}
    groups = [{"params": [x], "size": ends[name][1] - ends[name][0]} for name, x in moved.items()]
    # with many pixels of a wide range, gradients are tiny, but must not be treated as zero
    optimiser = torch.optim.Adam(groups, eps=1e-20)
    size = data.fixed or int(np.clip(FED // max(x[0].numel() for x in given.values()), LEAST, MOST))
    parts = [slice(k, k + size) for k in range(0, len(data), size)]

    def moments(part: slice) -> list[Tensor]:
        found = module({name: moved.get(name, x)[part] for name, x in given.items()}, [r.tensor for r in statistics])
        share = (min(part.stop, len(data)) - part.start) / len(data)
        return [share * r.moments(found[r.tensor]) for r in statistics]

    run = 0.0
    for _ in range(2):  # the first run also computes what follows from the shapes
        start = time.perf_counter()
        with torch.no_grad():
            moments(parts[0])
        run = (time.perf_counter() - start) * len(parts)
    steps = effort.amount(PLANNED, RUNS * run, 0, STEPS)
    enough = steps >= LEAST_STEPS or effort.repeated is not None
    for step in effort.steps(RECORD, 0, steps if enough else 0):
        progress(step / steps)
        for group in optimiser.param_groups:
            group["lr"] = RATE * group["size"] * 0.5 * (1 + math.cos(math.pi * step / steps))
        # the distance depends on the moments of all samples, which do not fit into memory together: first compute its slopes
        # with respect to the moments, then backpropagate them through each part
        with torch.no_grad():
            slopes = [2 * (sum(m) - r.wanted) for r, *m in zip(statistics, *map(moments, parts), strict=True)]
        optimiser.zero_grad()
        for part in parts:
            loss = sum((s * m).mean() for s, m in zip(slopes, moments(part), strict=True))
            if not isinstance(loss, Tensor) or not loss.requires_grad:  # no gradient reaches the inputs
                return data
            loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            for name, x in moved.items():
                x.nan_to_num_().clamp_(*ends[name])
    chunk = {
        name: moved[name].detach().cpu().numpy().astype(x.dtype) if name in moved else x for name, x in data.chunks[0].items()
    }
    return replace(data, chunks=(chunk,))


class _Statistics:
    """The statistics of a layer, as moments relative to the running mean and std (see `data.synthetic.statistics`)."""

    def __init__(self, layer: Layer, device: torch.device) -> None:
        self.tensor, self.wanted = layer.tensor, torch.tensor([[0.0], [1.0]], device=device)
        self._all, self._alive = len(layer.alive) == len(layer.mean), torch.from_numpy(layer.alive).to(device)
        self._mean, self._deviation = (
            torch.from_numpy(v[layer.alive]).float().to(device) for v in (layer.mean, np.sqrt(layer.variance))
        )

    def moments(self, activations: Tensor) -> Tensor:
        """The means of z and of z squared, (2, channels), for activations (n, channels, ...)."""
        wide = self._mean.reshape(-1, *[1] * (activations.dim() - 2))
        z = (activations if self._all else activations.index_select(1, self._alive)) - wide
        over = [k for k in range(z.dim()) if k != 1]
        return torch.stack([z.mean(over) / self._deviation, z.square().mean(over) / self._deviation.square()])

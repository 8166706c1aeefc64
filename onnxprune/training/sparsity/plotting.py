# SPDX-License-Identifier: Apache-2.0
"""A picture of the scores in the course of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.figures import new_figure, save_figure
from onnxprune.types import Vector

LEAST, MOST, BINS = -6.0, 2.0, 48
"""Scores are drawn by their decimal logarithm; those below the least, and zeros, in the lowest bin."""

Moment = tuple[int, Mapping[str, Vector], Mapping[str, float], float]
"""Step, scores by group, share of nearly zero channels by group, and of all."""


def histogram(moments: Sequence[Moment], path: Path) -> Path:
    """Write two panels over the steps: the distribution of all scores, and the share of channels that are nearly zero.

    Raises:
        TrainingError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    figure = new_figure(8, 7)
    above, below = figure.subplots(2, 1, sharex=True)
    _distribution(figure, above, moments)
    _shares(below, moments)
    save_figure(figure, path)
    return path


def binned(scores: Mapping[str, Vector]) -> Vector:
    """The share of all channels in each bin (BINS,)."""
    joined = np.concatenate(list(scores.values()))
    logs = np.log10(np.maximum(joined, 10**LEAST))
    counts = np.histogram(logs.clip(LEAST, MOST), BINS, (LEAST, MOST))[0]
    return np.asarray(counts / len(joined))


def _distribution(figure: Any, axes: Any, moments: Sequence[Moment]) -> None:
    steps = [m[0] for m in moments]
    edges = np.linspace(LEAST, MOST, BINS + 1)
    shares = np.stack([binned(m[1]) for m in moments], 1)
    mesh = axes.pcolormesh(steps, (edges[1:] + edges[:-1]) / 2, shares, shading="nearest", cmap="viridis")
    figure.colorbar(mesh, ax=axes, label="share of channels")
    axes.set_ylabel("score, log10 (mean of a group: 1)")
    axes.set_title(f"scores of {sum(map(len, moments[-1][1].values()))} channels")


def _shares(axes: Any, moments: Sequence[Moment]) -> None:
    steps = [m[0] for m in moments]
    for name in moments[-1][2]:
        axes.plot(steps, [m[2].get(name, np.nan) for m in moments], color="0.8", linewidth=0.8)
    axes.plot(steps, [m[3] for m in moments], color="C0", label="all channels; grey: each group")
    axes.set(xlabel="step", ylabel="share nearly zero", ylim=(-0.02, 1.02))
    axes.legend(loc="upper left")

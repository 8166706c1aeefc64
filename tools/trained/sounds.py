# SPDX-License-Identifier: Apache-2.0
"""Sounds of eight sources, synthesized."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
RATE, SIZE = 8000, 4000


def _tone(phase: Array, kind: int, rng: np.random.Generator) -> Array:
    """One of six periodic sources over a phase in radians."""
    if kind == 0:  # a pipe: few harmonics
        return np.asarray(np.sin(phase) + 0.2 * np.sin(2 * phase))
    if kind == 1:  # a clarinet: odd harmonics
        return np.asarray(sum(np.sin(k * phase) / k for k in (1, 3, 5, 7)))
    if kind == 2:  # a string: all harmonics
        return np.asarray(sum(np.sin(k * phase) / k for k in range(1, 9)))
    if kind == 3:  # a bell: frequency modulation
        return np.asarray(np.sin(phase + rng.uniform(2, 4) * np.sin(2.76 * phase)))
    formants = ((700, 1200), (300, 2200))[kind - 4]  # two vowels
    pitch = float(np.diff(phase).mean()) * RATE / (2 * np.pi)
    gains = [sum(np.exp(-0.5 * ((k * pitch - f) / 120) ** 2) for f in formants) + 0.02 for k in range(1, 20)]
    return np.asarray(sum(g * np.sin(k * phase) for k, g in enumerate(gains, 1) if k * pitch < RATE / 2))


def _sound(kind: int, rng: np.random.Generator) -> Array:
    t = np.arange(SIZE) / RATE
    if kind < 6:
        pitch = rng.uniform(110, 440) * (1 + 0.01 * np.sin(2 * np.pi * rng.uniform(3, 7) * t))
        x = _tone(2 * np.pi * np.cumsum(pitch) / RATE + rng.uniform(0, 6), kind, rng)
    elif kind == 6:  # a drum
        x = np.sin(2 * np.pi * rng.uniform(60, 150) * t * np.exp(-t * 3)) + 0.3 * rng.standard_normal(SIZE)
    else:  # wind
        x = np.convolve(rng.standard_normal(SIZE), np.ones(int(rng.integers(2, 9))), "same")
    decay = np.exp(-t * (rng.uniform(6, 15) if kind in (3, 6) else rng.uniform(0, 4)))
    start = int(rng.integers(0, SIZE // 3))
    x = np.roll(x * decay, start) * (np.arange(SIZE) >= start)
    x = x / (np.abs(x).max() + 1e-9) * rng.uniform(0.2, 0.9) + rng.standard_normal(SIZE) * rng.uniform(0.002, 0.03)
    return np.asarray(x, np.float32)


def sounds_of(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Sounds (count, 1, 4000) and their sources."""
    truth = rng.integers(0, 8, count)
    return np.stack([_sound(int(k), rng) for k in truth])[:, None], truth

# SPDX-License-Identifier: Apache-2.0
"""Procedural textures in [0, 1] on a grid of any number of axes: a line, an image, a video.

Each texture is a function of a random generator and a grid of coordinates (axes, *sizes) whose longest axis runs from -1 to 1.
Together they cover the elements of natural signals: flat and smooth regions, edges, occlusion (dead leaves: Lee, Mumford,
Huang, 2001), power-law spectra (Field, 1987), textures, thin lines and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxprune.types import Array, Rng

Texture = Callable[[Rng, Array], Array]


def grid(sizes: Sequence[int]) -> Array:
    """Coordinates (axes, *sizes) of the elements; the longest axis runs from -1 to 1, the others in proportion."""
    half = max(*sizes, 2) / 2
    lines = [((np.arange(n) - (n - 1) / 2) / half).astype(np.float32) for n in sizes]
    return np.stack(np.meshgrid(*lines, indexing="ij"))


def flat(rng: Rng, at: Array) -> Array:
    """A constant, or a linear ramp."""
    slope = _direction(rng, at) * rng.uniform(0, 0.7) * rng.integers(2)
    return np.clip(rng.random() + _along(slope, at), 0, 1)


def field(rng: Rng, at: Array, low: float = 0.5, high: float = 3.5) -> Array:
    """Noise whose amplitude falls with frequency as 1 / f^a."""
    sizes = at.shape[1:]
    lines = (np.fft.fftfreq(n) ** 2 for n in sizes)
    frequency = np.sqrt(sum(np.meshgrid(*lines, indexing="ij")))
    frequency.flat[0] = np.inf
    spectrum = np.fft.fftn(rng.standard_normal(sizes)) * frequency ** -rng.uniform(low, high)
    return _stretched(np.fft.ifftn(spectrum).real)


def white(rng: Rng, at: Array) -> Array:
    """White noise, uniform or normal."""
    sizes = at.shape[1:]
    return rng.random(sizes) if rng.integers(2) else np.clip(0.5 + 0.25 * rng.standard_normal(sizes), 0, 1)


def blobs(rng: Rng, at: Array) -> Array:
    """A few soft bright spots on a dark background."""
    x = np.zeros(at.shape[1:])
    for _ in range(rng.integers(1, 7)):
        width = _log_uniform(rng, 0.08, 0.8)
        distance = (_own_axes(rng, at - _place(rng, at)) ** 2).sum(0)
        x += rng.uniform(0.3, 1) * np.exp(-distance / (2 * width**2))
    return x / max(1.0, float(x.max()))


def leaves(rng: Rng, at: Array) -> Array:
    """Flat shapes that occlude each other."""
    x = np.full(at.shape[1:], rng.random())
    for _ in range(rng.integers(5, 50)):
        x[silhouette(rng, at, loose=True) > 0.5] = rng.random()
    return x


def facets(rng: Rng, at: Array) -> Array:
    """Flat regions between straight edges."""
    x = np.full(at.shape[1:], rng.random())
    for _ in range(rng.integers(1, 5)):
        side = _step(_along(_direction(rng, at), at) - rng.uniform(-0.8, 0.8), _log_uniform(rng, 0.005, 0.1))
        x = _over(x, rng.random(), side)
    return x


def gratings(rng: Rng, at: Array) -> Array:
    """Waves in one or two directions, from smooth to sharp."""
    x = np.zeros(at.shape[1:])
    for _ in range(rng.integers(1, 3)):
        wave = np.sin(np.pi * _pitch(rng, at, 2.5) * _along(_direction(rng, at), at) + rng.uniform(0, 2 * np.pi))
        x += np.tanh(rng.uniform(1, 8) * wave) if rng.integers(2) else wave
    return _stretched(x)


def checks(rng: Rng, at: Array) -> Array:
    """Waves along every axis, multiplied: checkerboards, cloth, dots."""
    turned = np.tensordot(_rotation(rng, len(at)), at, 1) if rng.integers(2) else at
    phases = rng.uniform(0, 2 * np.pi, (len(at),) + (1,) * len(at))
    x = np.sin(np.pi * _pitch(rng, at, 3.0) * turned + phases).prod(0)
    return _stretched(np.tanh(x * rng.uniform(1, 10)))


def strokes(rng: Rng, at: Array) -> Array:
    """Thin lines on a dark background, as in handwriting."""
    x, width = np.zeros(at.shape[1:]), _log_uniform(rng, 0.02, 0.12)
    for _ in range(rng.integers(1, 9)):
        start = _place(rng, at)
        for _ in range(rng.integers(1, 4)):
            line = (rng.standard_normal(len(at)) * rng.uniform(0.1, 0.6)).reshape(start.shape)
            share = np.clip(((at - start) * line).sum(0) / ((line**2).sum() + 1e-9), 0, 1)
            distance = np.sqrt(((at - start - line * share) ** 2).sum(0))
            np.maximum(x, _step(width - distance, width / 4), out=x)
            start = start + line
    return x


def things(rng: Rng, at: Array) -> Array:
    """Textured shapes near the centre, on a background that is often dark."""
    ground = rng.choice([0.0, rng.random()])
    x = np.full(at.shape[1:], ground) if rng.random() < 0.7 else faded(rng, _filling(rng, at))
    for _ in range(rng.integers(1, 4)):
        x = _over(x, faded(rng, _filling(rng, at)), silhouette(rng, at))
    return x


TEXTURES: dict[str, Texture] = {
    "flat": flat, "field": field, "white": white, "blobs": blobs, "leaves": leaves, "facets": facets,
    "gratings": gratings, "checks": checks, "strokes": strokes, "things": things,
}  # fmt: skip
_FILLINGS: tuple[Texture, ...] = (flat, flat, field, field, gratings, checks, leaves, white)


def silhouette(rng: Rng, at: Array, loose: bool = False) -> Array:
    """The mask of a shape, 1 inside: round, box-shaped, or with a random outline; near the centre unless `loose`."""
    softness = _log_uniform(rng, 0.01, 0.1)
    kind = rng.integers(3 if loose else 4)
    if kind == 3:
        return _step(field(rng, at, 2.0, 3.5) - rng.uniform(0.4, 0.7), softness)
    offset = at - _place(rng, at) * (1.0 if loose else 0.3)
    radius = _log_uniform(rng, 0.1, 1.0) if loose else rng.uniform(0.35, 0.95)
    if kind == 2:
        return _step(radius - np.abs(offset * _stretch(rng, at)).max(0), softness)
    turned = _own_axes(rng, offset)
    distance = np.sqrt((turned**2).sum(0)) if kind == 0 else np.abs(turned).max(0)
    return _step(radius - distance, softness)


def faded(rng: Rng, x: Array) -> Array:
    """The same texture, rescaled between two random levels."""
    a, b = rng.random(2)
    return np.asarray(a + (b - a) * x)


def coloured(rng: Rng, at: Array, channels: int, name: str) -> Array:
    """One texture in all channels, (channels, *sizes) float32; the channels resemble each other, as in a photograph."""
    x = TEXTURES[name](rng, at)
    x = faded(rng, x) if rng.integers(2) else x
    x = x ** np.exp(rng.uniform(-1, 1)) if rng.random() < 0.3 else x
    out = np.repeat(x[None], channels, 0)
    if channels > 1 and rng.random() < 0.7:
        if rng.random() < 0.4:
            out = 0.6 * out + 0.4 * np.stack([TEXTURES[name](rng, at) for _ in range(channels)])
        dark, light = (rng.random((2, channels)) * rng.random()).reshape(2, channels, *[1] * len(at))
        out = np.clip(out * (1 - dark) + 0.7 * light * (1 - out), 0, 1)
    return out.astype(np.float32)


def crossed(rng: Rng, at: Array, a: Array, b: Array) -> Array:
    """A child of two samples (channels, *sizes): a part of `b` in `a`, both overlaid, or `a` shifted, relit or overlaid."""
    way = rng.integers(5)
    if way == 0:
        child = _over(a, b, silhouette(rng, at, loose=bool(rng.integers(2))))
    elif way == 1:
        child = (a + b) / 2 if rng.random() < 0.3 else np.maximum(a, b)
    elif way == 2:
        shifts = [int(rng.integers(-max(1, n // 7), n // 7 + 2)) for n in at.shape[1:]]
        child = np.roll(a, shifts, tuple(range(1, a.ndim)))
    elif way == 3:
        child = np.clip(a ** np.exp(rng.uniform(-0.6, 0.6)) * rng.uniform(0.6, 1.3), 0, 1)
    else:
        child = np.flip(a, tuple(k for k in range(1, a.ndim) if rng.integers(2)))
        new = coloured(rng, at, len(a), str(rng.choice(list(TEXTURES))))
        faint = np.clip(child + 0.3 * rng.random() * (new - 0.5), 0, 1)
        child = _over(child, new, silhouette(rng, at)) if rng.integers(2) else faint
    return np.asarray(child, np.float32)


def _filling(rng: Rng, at: Array) -> Array:
    return _FILLINGS[rng.integers(len(_FILLINGS))](rng, at)


def _over(ground: Array | float, figure: Array | float, mask: Array) -> Array:
    return np.asarray(ground * (1 - mask) + figure * mask)


def _step(x: Array, width: float) -> Array:
    """A soft edge: 0 far below zero, 1 far above it."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x / width, -30, 30))))


def _stretched(x: Array) -> Array:
    low, high = float(x.min()), float(x.max())
    return (x - low) / (high - low) if high > low else np.zeros_like(x)


def _place(rng: Rng, at: Array) -> Array:
    """A random point of the grid, shaped to broadcast."""
    ends = np.abs(at).reshape(len(at), -1).max(1)
    return np.asarray((rng.uniform(-1, 1, len(at)) * ends).reshape(-1, *[1] * len(at)), np.float32)


def _direction(rng: Rng, at: Array) -> Array:
    v = rng.standard_normal(len(at))
    return np.asarray(v / np.linalg.norm(v), np.float32)


def _along(direction: Array, at: Array) -> Array:
    return np.asarray(np.tensordot(direction, at, 1))


def _rotation(rng: Rng, axes: int) -> Array:
    if axes != 2:
        return np.asarray(np.linalg.qr(rng.standard_normal((axes, axes)))[0], np.float32)
    angle = rng.uniform(0, 2 * np.pi)  # the usual case, ten times faster this way
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)


def _stretch(rng: Rng, at: Array) -> Array:
    return np.asarray(np.exp(rng.uniform(-0.7, 0.7, (len(at), *[1] * (at.ndim - 1)))), np.float32)


def _own_axes(rng: Rng, offset: Array) -> Array:
    """Offsets along randomly rotated and stretched axes."""
    return np.asarray(np.tensordot(_rotation(rng, len(offset)), offset, 1) * _stretch(rng, offset))


def _pitch(rng: Rng, at: Array, finest: float) -> float:
    """Number of half waves across half the grid: from a few to one per `finest` elements."""
    return _log_uniform(rng, 1.5, max(1.6, max(at.shape[1:]) / finest))


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))

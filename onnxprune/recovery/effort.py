# SPDX-License-Identifier: Apache-2.0
"""How long a fit will take, predicted from measured speeds, and how much work fits into a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from onnxprune.calibration.moments import JUDGED, LARGE, RIDGES

LADDER = (1.0, 0.7, 0.5, 0.35, 0.25, 0.17, 0.12, 0.08)
"""Fractions of the rows to try, largest first."""
FEWEST_ROWS_PER_INPUT, FEWEST_SAMPLES = 2, 8
SPARSE, MIXES = 8, 2
"""Rows per input below which samples are mixed, and the number of mixed samples for each given one."""
MARGIN = 0.8
"""Fraction of a limit that a prediction may fill."""
TRIES = 3
"""Number of ridges that are usually tried."""
PATIENCE = 0.1, 1.0
"""Fraction of the work, and seconds, after which the time that it took tells more than the prediction does."""
WORK = ("samples", "mixes", "rows", "rows_per_input", "layers", "matched")
THINNED = "batches from layer "
"""Settings that a fit reports; a setting of `FitSettings.thinned` follows `THINNED`."""
SPARE = 0.9
"""Fraction of the time that is left which a late fit fills with fewer batches."""
OVERTIME = 0.25
"""Fraction of a limit by which fits may exceed it, once they have begun, before layers are left out."""
PER_PRODUCT = 4e-6
"""Seconds that a small matrix product takes besides its arithmetic."""
PER_LAYER, PER_BATCH = 0.02, 0.0005
"""Seconds for each layer to prepare both models, and to start them for each batch."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """Settings of a reconstruction. `samples`, `layers` and `matched` bound the work; a fit reports them in `Fitted.work`, and
    the same numbers without `seconds` repeat it exactly.

    Attributes:
        rows: output positions to use per layer, over all samples; more if the layer has many inputs.
        rows_per_input: minimum number of rows per input of a layer.
        ridges: candidates for the ridge.
        seed: seed for choosing positions and samples.
        samples: number of samples to use, rounded up to whole batches; None: all.
        mixes: number of samples to add that are mixed from these. A time limit chooses it: if a layer has few rows and there is
            time, `MIXES` for each sample.
        layers: number of fits (layers, in their order) to compute; None: all.
        matched: number of layers after these whose mean and deviation are matched instead; None: all.
        thinned: (layer, number of batches): from this layer on, fits use only so many batches.
        seconds: time limit. The rows and samples are chosen by a prediction before the first fit. If fits are late, the next
            ones use fewer batches; if even few take too long, the last layers are only matched, or left as they are.
    """

    rows: int = 40_000
    rows_per_input: int = 12
    ridges: tuple[float, ...] = RIDGES
    seed: int = 0
    samples: int | None = None
    mixes: int = 0
    layers: int | None = None
    matched: int | None = None
    thinned: tuple[tuple[int, int], ...] = ()
    seconds: float | None = None

    def repeating(self, work: Mapping[str, int]) -> FitSettings:
        """These settings with the work of an earlier fit (`Fitted.work`) in place of a time limit."""
        known = {name: int(n) for name, n in work.items() if name in WORK}
        thinned = {int(name.removeprefix(THINNED)): int(n) for name, n in work.items() if name.startswith(THINNED)}
        return replace(self, seconds=None, thinned=tuple(sorted(thinned.items())), **known)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Layer:
    """The sizes of one fit.

    Attributes:
        groups, inputs, outputs: number of independent products, and the sizes of each.
        positions: output positions per sample.
    """

    groups: int
    inputs: int
    outputs: int
    positions: float


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured on this machine.

    Attributes:
        products: multiply-accumulates per second of a matrix product of rows.
        solutions: multiply-accumulates per second of the solution of linear equations.
        values: values of input rows that are laid out per second.
        sample: seconds that both models together take per sample.
    """

    products: float
    solutions: float
    values: float
    sample: float


def measured(sample: float) -> Speed:
    """The speeds of this machine; `sample` as in `Speed`."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2048, 512), np.float32)
    square = rows[:, :256].T.astype(np.float64) @ rows[:, :256] / 2048 + np.eye(256)
    maps = rng.standard_normal((1, 32, 34, 34), np.float32)
    view = sliding_window_view(maps, (3, 3), axis=(2, 3))
    at, across = np.unravel_index(np.sort(rng.choice(1024, 512, replace=False)), (32, 32))
    products = 2048 * 512**2 / _fastest(lambda: rows.T @ (rows + 1))
    solutions = 256**3 / 3 / _fastest(lambda: np.linalg.solve(square, square[:, :1]))
    values = 512 * 288 / _fastest(lambda: view[0][:, at, across].reshape(32, 512, 9))
    # a short solution on cores that others use as well may take a hundred times as long as it should
    return Speed(products, max(solutions, products / 10), values, sample)


def _fastest(work: Callable[[], object], tries: int = 4) -> float:
    found = []
    for _ in range(tries):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return max(min(found), 1e-9)


def n_rows(layer: Layer, settings: FitSettings, samples: int) -> float:
    """The number of rows that a fit uses."""
    return min(max(settings.rows, settings.rows_per_input * layer.inputs), layer.positions * samples)


def seconds_of(layer: Layer, settings: FitSettings, samples: int, batches: int, speed: Speed) -> float:
    """Predicted seconds for one fit, without running the models."""
    n, d, o = n_rows(layer, settings, samples), layer.inputs, layer.outputs
    one = n * d / speed.values + n * d * (d / 2 + o) / speed.products
    return layer.groups * (one + batches * PER_PRODUCT) + batches * PER_BATCH + _seconds_to_solve(layer, settings, speed)


def _seconds_to_solve(layer: Layer, settings: FitSettings, speed: Speed) -> float:
    """The part of `seconds_of` that does not depend on the number of samples."""
    d, o = layer.inputs, layer.outputs
    tries = 0 if d > LARGE or len(settings.ridges) == 1 else TRIES
    solved = (d**3 / 3 + d**2 * o) + tries * (d**3 / 3 + 2 * d**2 * min(o, JUDGED))
    return layer.groups * solved / speed.solutions + PER_LAYER


def predicted(layers: Sequence[Layer], settings: FitSettings, samples: int, batches: int, speed: Speed) -> float:
    """Predicted seconds for a whole reconstruction."""
    return samples * speed.sample + sum(seconds_of(x, settings, samples, batches, speed) for x in layers)


def within(
    layers: Sequence[Layer], settings: FitSettings, samples: int, batches: int, speed: Speed, mixable: bool = True
) -> FitSettings:
    """The settings with as many samples and rows as the time limit allows by prediction, and at least the fewest."""
    if settings.seconds is None:
        return settings
    limit = MARGIN * settings.seconds
    affordable = int(limit / 2 / max(speed.sample, 1e-9))
    used = min(samples, settings.samples or samples, max(affordable, FEWEST_SAMPLES))
    each = batches / max(samples, 1)
    if mixable and used == samples and any(samples * x.positions < SPARSE * x.inputs for x in layers):
        found = replace(settings, samples=used, mixes=MIXES * used)
        total = used + found.mixes
        if predicted(layers, found, total, ceil(each * total), speed) <= limit:
            return found
    for share in LADDER:
        few = max(FEWEST_ROWS_PER_INPUT, round(settings.rows_per_input * share))
        found = replace(settings, samples=used, rows=round(settings.rows * share), rows_per_input=few)
        if predicted(layers, found, used, ceil(each * used), speed) <= limit:
            break
    return found


class Pace:
    """Decides, layer by layer, what is still done, and counts it.

    Attributes:
        settings: the settings of the fit, after `start` with the rows and samples that are used.
        fits, matches: number of layers that were fitted, and of those whose mean and deviation were matched.
    """

    def __init__(self, settings: FitSettings) -> None:
        self.settings, self.fits, self.matches = settings, 0, 0
        self._begun = self._started = time.perf_counter()
        self._solving = self._moving = np.zeros(1)
        self._done, self._fewest = 0.0, 1.0
        self._used: int | None = None
        self._thinned: dict[int, int] = {}

    def start(self, layers: Sequence[Layer], samples: int, batches: int, speed: Speed, mixable: bool) -> None:
        """Choose rows and samples for the time limit, and expect the work to take as long as predicted."""
        self.settings = found = within(layers, self.settings, samples, batches, speed, mixable)
        used = min(samples, found.samples or samples) + found.mixes
        each = ceil(batches * used / max(samples, 1))
        self._solving = np.array([_seconds_to_solve(x, found, speed) for x in layers])
        whole = np.array([seconds_of(x, found, used, each, speed) for x in layers])
        self._moving = whole - self._solving + used * speed.sample / len(layers)
        self._started, self._fewest = time.perf_counter(), FEWEST_SAMPLES / max(used, 1)

    def batches(self, total: int) -> int:
        """The number of batches, of `total`, to fit the next layer to; 0: it is not fitted."""
        before = total if self._used is None else self._used
        count = self._planned(before) if self.settings.seconds is None else self._affordable(before, total)
        if not count or self.matches:
            return 0
        if count < before:
            self._thinned[self.fits] = count
        if self.settings.seconds is not None:
            self._done += float(self._solving[self.fits] + self._moving[self.fits] * count / total)
        self._used = count
        self.fits += 1
        return count

    def match(self) -> bool:
        """Whether to match the mean and deviation of the next layer, if it is not fitted."""
        limit, matched = self.settings.seconds, self.settings.matched
        late = limit is not None and time.perf_counter() - self._begun > limit
        allowed = not late if matched is None else self.matches < matched
        self.matches += allowed
        return allowed

    def _planned(self, before: int) -> int:
        """The number of batches without a time limit."""
        if self.settings.layers is not None and self.fits >= self.settings.layers:
            return 0
        return dict(self.settings.thinned).get(self.fits, before)

    def _affordable(self, before: int, total: int) -> int:
        """The number of batches with which all remaining fits end in time; 0 if not even the next one does with the fewest."""
        assert self.settings.seconds is not None
        now, k = time.perf_counter(), self.fits
        prior = PATIENCE[0] * float(self._solving.sum() + self._moving.sum()) + PATIENCE[1]
        late = (now - self._started + prior) / (self._done + prior)
        left = (self.settings.seconds - (now - self._begun)) / late
        solving, moving = float(self._solving[k:].sum()), float(self._moving[k:].sum())
        if solving + moving * before / total <= left:
            return before
        fewest = ceil(self._fewest * total)
        count = min(max(int((SPARE * left - solving) / moving * total), fewest), before)
        # a network of which the first layers are fitted and the last are not is worse than one that is a little late
        left += OVERTIME * self.settings.seconds / late if k else 0.0
        return count if float(self._solving[k]) + moving * count / total / (len(self._moving) - k) <= left else 0

    def work(self, samples: int) -> dict[str, int]:
        """What was done, as settings that repeat it."""
        found = (samples, self.settings.mixes, self.settings.rows, self.settings.rows_per_input, self.fits, self.matches)
        thinned = {f"{THINNED}{layer}": count for layer, count in self._thinned.items()}
        return dict(zip(WORK, found, strict=True)) | thinned

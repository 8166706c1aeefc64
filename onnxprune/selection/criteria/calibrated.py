# SPDX-License-Identifier: Apache-2.0
"""Criteria based on activations: how much each channel matters to the layers that read it, on calibration inputs.

`obs` is the smallest error that remains if a channel is removed and the weights of its readers are refitted to the others: the
optimal brain surgeon (Hassibi & Stork, 1993) for channels, as in OSSCAR (Meng et al., 2024) and, as greedy forward selection,
ThiNet (Luo et al., 2017). Errors are in units of the variance of the sum they enter, so that layers and residual branches are
comparable. Channels are ranked in the order in which they would be removed one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.calibration.chains import affine
from onnxprune.calibration.linear import Linear, at_positions
from onnxprune.calibration.moments import VALUES, Moments, Tally
from onnxprune.calibration.stages import stages
from onnxprune.calibration.sums import LinearSum, find_sums
from onnxprune.types import Array, Feeds, Indices, Rng, Vector

ROWS, ROWS_PER_INPUT = 8_000, 4
DAMPING = 1e-2
"""Ridge in units of the mean diagonal, as in OSSCAR's code."""
SWEEPS = 64
"""`obs` removes the least important channels in steps of 1/SWEEPS of the group, at least one channel per step."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A linear layer that sums over channels, with statistics of its inputs in the original network.

    Attributes:
        labels: the class of each input (d,).
        matrix: its weight, times the scale of the operators after it (d, o).
        moments: moments of its inputs (d,).
        magnitude: mean |x| of each input (d,).
        alive: fraction of positions at which each input is nonzero (d,).
        energy: variance of the sum that the layer adds to, added up over all channels.
    """

    labels: Indices
    matrix: Vector
    moments: Moments
    magnitude: Vector
    alive: Vector
    energy: float


class Statistics:
    """Statistics of layers on calibration inputs in the original network, gathered once per layer."""

    def __init__(self, batches: Sequence[Feeds], seed: int = 0) -> None:
        self._batches, self._seed = batches, seed
        self._known: dict[tuple[str, int], _Gathered] = {}

    def read(self, coupled: Coupled) -> tuple[Reader, ...]:
        """All layers that sum over channels that can be cut."""
        sites = find_sums(coupled.graph)
        places = [(s, k) for s in sites for k, t in enumerate(s.terms) if _inputs(coupled, t.linear) is not None]
        missing = [(s, k) for s, k in places if (s.total, k) not in self._known]
        if missing:
            self._gather(coupled, missing)
        return tuple(_reader(coupled, s, k, self._known[s.total, k]) for s, k in places)

    def _gather(self, coupled: Coupled, places: Sequence[tuple[LinearSum, int]]) -> None:
        wants = [s.terms[k].linear.node.inputs[0] for s, k in places] + [s.total for s, _ in places]
        gathered = {(s.total, k): _Gathered() for s, k in places}
        rng = np.random.default_rng(self._seed)
        with stages(coupled.graph.model, [wants], self._batches) as run:
            for values in run.advance(0):
                for site, k in places:
                    gathered[site.total, k].see(site, site.terms[k].linear, values, len(self._batches), rng)
        self._known.update(gathered)


def _inputs(coupled: Coupled, linear: Linear) -> Indices | None:
    """The class of each input (d,) of a layer; None if no input can be cut."""
    axes = coupled.flows[linear.weight].axes
    if linear.groups > 1:
        return None
    labels = axes[_input_axis(linear)]
    if labels is None or not coupled.free[labels].any():
        return None
    return np.repeat(coupled.roots[labels], int(np.prod(linear.kernel)))


def _input_axis(linear: Linear) -> int:
    node = linear.node
    return {"Conv": 1, "ConvTranspose": 0, "MatMul": 0, "Gemm": 1 if node.attribute("transB", 0) else 0}[node.op]


class _Gathered:
    """Sums over batches for one layer."""

    def __init__(self) -> None:
        self.inputs = Tally()
        self.magnitude: Any = 0.0
        self.alive: Any = 0.0
        self.total: Any = 0.0
        self.squares: Any = 0.0

    def see(self, site: LinearSum, linear: Linear, values: Mapping[str, Array], n: int, rng: Rng) -> None:
        total, x = values[site.total], values[linear.node.inputs[0]]
        axis = site.channel_axis % total.ndim
        places = total.size // total.shape[axis]
        inputs = x.shape[linear.channel_axis] * int(np.prod(linear.kernel))
        count = -(-max(ROWS, ROWS_PER_INPUT * inputs) // n)
        positions = np.arange(places) if places <= count else np.sort(rng.choice(places, count, replace=False))
        for part in np.array_split(positions, -(-len(positions) * inputs // VALUES) or 1):
            rows = linear.rows(x, part).astype(np.float32)
            y = at_positions(total, axis, part).astype(np.float64)
            self.inputs.add(rows, np.zeros((1, rows.shape[1], 0), np.float32))
            self.total, self.squares = self.total + y.sum(0), self.squares + np.square(y).sum(0)
            self.magnitude = self.magnitude + np.abs(rows[0]).sum(0, dtype=np.float64)
            self.alive = self.alive + (rows[0] != 0).sum(0)


def _reader(coupled: Coupled, site: LinearSum, k: int, g: _Gathered) -> Reader:
    term = site.terms[k]
    labels = _inputs(coupled, term.linear)
    assert labels is not None
    weights = coupled.graph.weights
    matrix = term.linear.matrix(weights[term.linear.weight].array.astype(np.float64))[0]
    scale, _ = affine(term.steps, weights, matrix.shape[1])
    moments = g.inputs.moments()
    n = moments.n
    variance = g.squares / n - (g.total / n) ** 2
    energy = max(float(variance.sum()), 1e-30)
    return Reader(labels, matrix * scale, moments, g.magnitude / n, g.alive / n, energy)


def covariance(m: Moments) -> Vector:
    """Covariance of the inputs (d, d), in the precision of the moments."""
    mean = m.x[0] / m.n
    found: Vector = m.xx[0] / m.n
    found -= np.outer(mean, mean).astype(found.dtype)
    return found


def atoms_of(group: Group, labels: Indices) -> Indices:
    """For each input, the index of its atom in the group; -1 for others (d,)."""
    order = np.argsort(group.roots)
    place = order[np.searchsorted(group.roots, labels, sorter=order).clip(0, len(group) - 1)]
    return np.where(group.roots[place] == labels, place, -1)


class _Surgeon:
    """A reader from which atoms are removed; gives the cost of removing each remaining atom."""

    def __init__(self, reader: Reader, atoms: Indices, n_atoms: int) -> None:
        cov = covariance(reader.moments)
        diagonal = np.einsum("dd->d", cov)
        diagonal += (DAMPING * diagonal.mean() + 1e-12).astype(cov.dtype)
        self.inverse = np.linalg.inv(cov)
        self.matrix = reader.matrix.astype(cov.dtype)
        self.energy = reader.energy
        self.places = [np.flatnonzero(atoms == a) for a in range(n_atoms)]

    def costs(self, atoms: Indices) -> Vector:
        """The error from removing each atom alone, as a fraction of the sum's variance."""
        found = np.zeros(len(atoms))
        sizes = np.array([len(self.places[a]) for a in atoms])
        for size in np.unique(sizes[sizes > 0]).tolist():
            mine = np.flatnonzero(sizes == size)
            places = np.stack([self.places[a] for a in atoms[mine]])
            blocks, rows = self.inverse[places[:, :, None], places[:, None, :]], self.matrix[places]
            found[mine] = np.einsum("ako,ako->a", rows, np.linalg.solve(blocks, rows))
        return found / self.energy

    def remove(self, atoms: Indices) -> None:
        """Remove atoms, and let the others compensate for them as far as possible."""
        removed = np.concatenate([self.places[a] for a in atoms])
        if not len(removed):
            return
        stays = np.ones(len(self.inverse), bool)
        stays[removed] = False
        column = self.inverse[np.ix_(stays, removed)]
        block = self.inverse[np.ix_(removed, removed)]
        back = np.linalg.solve(block, np.concatenate([self.matrix[removed], column.T], 1))
        outputs = self.matrix.shape[1]
        self.matrix = self.matrix[stays] - column @ back[:, :outputs]
        # only what remains is kept, so that each removal costs less than the one before
        self.inverse = self.inverse[np.ix_(stays, stays)]
        self.inverse -= column @ back[:, outputs:]
        before = np.cumsum(stays) - 1
        self.places = [before[p[stays[p]]] for p in self.places]


def obs(group: Group, readers: Sequence[Reader]) -> Vector:
    """The error added by removing each atom after all less important ones (n_atoms,)."""
    surgeons = [_Surgeon(r, atoms_of(group, r.labels), len(group)) for r in readers]
    scores = np.zeros(len(group))
    remaining = np.arange(len(group))
    worst = 0.0
    while len(remaining):
        costs = sum((s.costs(remaining) for s in surgeons), np.zeros(len(remaining)))
        count = max(1, len(group) // SWEEPS)
        chosen = np.argsort(costs, kind="stable")[:count]
        # scores never fall along the ranking, so sorting by score reproduces the order
        worst = max(worst, float(costs[chosen].max()))
        scores[remaining[chosen]] = np.maximum(costs[chosen], worst * (1 - 1e-9)) if count == 1 else worst
        scores[remaining[chosen]] += np.arange(len(chosen)) * 1e-12 * worst
        for s in surgeons:
            s.remove(remaining[chosen])
        remaining = np.delete(remaining, chosen)
    return scores


def subset_fidelity(group: Group, readers: Sequence[Reader]) -> Vector:
    """How much of its reader's output a channel alone can reproduce, optimally scaled. ModHiFi (2025)."""
    return _mean(group, readers, _fidelity)


def _fidelity(reader: Reader, atoms: Indices, n_atoms: int) -> Vector:
    second, w = reader.moments.xx[0] / reader.moments.n, reader.matrix
    whole = second @ w
    energy = np.einsum("do,do->o", w, whole) + 1e-30
    found = np.zeros(n_atoms)
    for a in range(n_atoms):
        mine = np.flatnonzero(atoms == a)
        both = np.einsum("do,do->o", w[mine], whole[mine])
        own = np.einsum("do,do->o", w[mine], second[np.ix_(mine, mine)] @ w[mine]) + 1e-30
        found[a] = np.mean(both**2 / (own * energy))
    return found


def activation(group: Group, readers: Sequence[Reader]) -> Vector:
    """Mean |x| of a channel where it is read."""
    return _mean(group, readers, lambda r, atoms, n: _per_atom(r.magnitude, atoms, n))


def apoz(group: Group, readers: Sequence[Reader]) -> Vector:
    """How often a channel is nonzero where it is read: 1 - average percentage of zeros. Hu et al., Network Trimming, 2016."""
    return _mean(group, readers, lambda r, atoms, n: _per_atom(r.alive, atoms, n))


def _per_atom(values: Vector, atoms: Indices, n_atoms: int) -> Vector:
    mine = atoms >= 0
    count = np.bincount(atoms[mine], minlength=n_atoms)
    return np.bincount(atoms[mine], values[mine], n_atoms) / np.maximum(count, 1)


def _mean(group: Group, readers: Sequence[Reader], of: Callable[[Reader, Indices, int], Vector]) -> Vector:
    parts = [of(r, atoms_of(group, r.labels), len(group)) for r in readers]
    parts = [p / p.mean() if p.mean() > 0 else p for p in parts]
    found: Vector = np.mean(parts, 0)
    return found


CALIBRATED: Mapping[str, Callable[[Group, Sequence[Reader]], Vector]] = MappingProxyType(
    {"obs": obs, "subset_fidelity": subset_fidelity, "activation": activation, "apoz": apoz}
)
"""Criteria that need calibration inputs, by name."""


def readers_of(group: Group, readers: Sequence[Reader]) -> list[Reader]:
    """The readers of channels of the group."""
    return [r for r in readers if np.isin(r.labels, group.roots).any()]

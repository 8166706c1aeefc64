# SPDX-License-Identifier: Apache-2.0
"""Criteria based on activations: how much each channel matters to the layers that read it, on calibration inputs.

`obs` is the smallest error that remains if a channel is removed and the weights of its readers are refitted to the others: the
optimal brain surgeon (Hassibi & Stork, 1993) for channels, as in OSSCAR (Meng et al., 2024) and, as greedy forward selection,
ThiNet (Luo et al., 2017). Errors are in units of the variance of the sum they enter, so that layers and residual branches are
comparable. Channels are ranked in the order in which they would be removed one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.calibration.chains import affine
from onnxprune.calibration.linear import Linear, at_positions
from onnxprune.calibration.moments import LARGE, VALUES, Tally
from onnxprune.calibration.stages import stages
from onnxprune.calibration.sums import LinearSum, find_sums
from onnxprune.effort import Effort
from onnxprune.types import Array, Feeds, Indices, Rng, Vector

ROWS, ROWS_PER_INPUT = 8_000, 4
DAMPING = 1e-2
"""Ridge in units of the mean diagonal, as in OSSCAR's code."""
GATHERING, FEWEST = 0.5, 2
"""Fraction of the time for a cut in which statistics are gathered, and the least number of batches."""
RANKED = 64
"""Samples whose maps are ranked: decompositions take long, and ranks hardly vary between samples."""
SWEEPS = 64
"""`obs` removes the least important channels in steps of 1/SWEEPS of the group, at least one channel per step."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A linear layer that sums over channels, with statistics of its inputs in the original network.

    Of wide layers, a channel has k inputs: one per position of the kernel, or of the map that a matrix product reads flattened.
    Of others, every input counts as a channel, and k is 1.

    Attributes:
        labels: the class of each channel (c,).
        matrix: its weight, times the scale of the operators after it (c, k, o).
        second: second moments of the channels (c, c), the average over positions.
        mean: mean of each input (c, k).
        places: second moments of the positions (k, k), added up over channels.
        magnitude: mean |x| of each channel (c,).
        alive: fraction of inputs at which each channel is nonzero (c,).
        energy: variance of the sum that the layer adds to, added up over all channels.
        outputs: the class of each channel of that sum (o,); -1 for channels without labels.
        spread: standard deviation of each channel of that sum (o,).
        rank: mean rank of each channel's map, where it has one (c,); None unless asked for.
        importance: of each channel, by what all layers behind it make of it (c,) (`responses`).
    """

    labels: Indices
    matrix: Vector
    second: Vector
    mean: Vector
    places: Vector
    magnitude: Vector
    alive: Vector
    energy: float
    outputs: Indices
    spread: Vector
    rank: Vector | None = None
    importance: Vector = field(default_factory=lambda: np.zeros(0))

    def factors(self, centred: bool = True) -> tuple[Vector, Vector]:
        """Matrices C (c, c) and S (k, k) whose Kronecker product approximates the covariance of the inputs.

        Channels are taken to depend on each other in the same way at all positions (Grosse & Martens, 2016); exact for k = 1.

        Args:
            centred: False: second moments instead of the covariance.
        """
        channels, places = self.second.copy(), self.places.copy()
        if centred:
            channels -= (self.mean @ self.mean.T / self.mean.shape[1]).astype(channels.dtype)
            places -= self.mean.T @ self.mean
        return channels, places / max(np.trace(places) / len(places), 1e-30)

    def whitened(self, places: Vector) -> Vector:
        """The weight with the dependence of positions multiplied into it (c, k * o), so that positions count as independent."""
        value, basis = np.linalg.eigh(places)
        root = ((basis * np.sqrt(np.maximum(value, 0))) @ basis.T).astype(self.matrix.dtype)
        found: Vector = (root @ self.matrix).reshape(len(self.matrix), -1)
        return found


class Statistics:
    """Statistics of layers on calibration inputs in the original network, gathered once per layer."""

    def __init__(self, batches: Sequence[Feeds], seed: int = 0, effort: Effort | None = None, ranks: bool = False) -> None:
        self._seed, self._effort, self._ranks = seed, effort or Effort(), ranks
        # in random order, because samples are often sorted, and there may be time for the first ones only
        self._batches = [batches[k] for k in np.random.default_rng(seed).permutation(len(batches))]
        self._known: dict[tuple[str, int], _Gathered] = {}

    def read(self, coupled: Coupled) -> tuple[Reader, ...]:
        """All layers that sum over channels that can be cut."""
        sites = find_sums(coupled.graph)
        places = [(s, k) for s in sites for k, t in enumerate(s.terms) if _inputs(coupled, t.linear) is not None]
        missing = [(s, k) for s, k in places if (s.total, k) not in self._known]
        if missing:
            self._gather(coupled, missing)
        return responses([_reader(coupled, s, k, self._known[s.total, k]) for s, k in places], len(coupled.roots))

    def _gather(self, coupled: Coupled, places: Sequence[tuple[LinearSum, int]]) -> None:
        wants = [s.terms[k].linear.node.inputs[0] for s, k in places] + [s.total for s, _ in places]
        gathered = {}
        for s, k in places:
            labels = _inputs(coupled, s.terms[k].linear)
            assert labels is not None
            gathered[s.total, k] = _Gathered(_by_channel(labels, coupled.roots[labels]), self._ranks)
        rng = np.random.default_rng(self._seed)
        seen = 0
        with stages(coupled.graph.model, [wants], self._batches) as run:
            for batch, values in zip(self._counted(), run.advance(0), strict=False):
                seen = batch + 1
                for site, k in places:
                    gathered[site.total, k].see(site, site.terms[k].linear, values, len(self._batches), rng)
        self._batches = self._batches[:seen]
        self._known.update(gathered)

    def _counted(self) -> Iterator[int]:
        """Count the batches that there is time for. What is gathered later, for other layers, sees the same ones."""
        if self._known:
            return iter(range(len(self._batches)))
        return self._effort.within(GATHERING).steps("batches for scores", FEWEST, len(self._batches))


def _inputs(coupled: Coupled, linear: Linear) -> Indices | None:
    """The label of each input (d,) of a layer; None if no input can be cut."""
    axes = coupled.flows[linear.weight].axes
    if linear.groups > 1:
        return None
    labels = axes[_input_axis(linear)]
    if labels is None or not coupled.free[labels].any():
        return None
    return np.repeat(labels, int(np.prod(linear.kernel)))


def _by_channel(labels: Indices, classes: Indices) -> Indices:
    """The inputs of each channel (c, k).

    Of few inputs each is a channel of its own, so that the covariance is exact; the cost grows with the cube of their number.
    Many inputs are arranged by label, or else by class, if all of them have equally many.
    """
    for names in (labels, classes) if len(labels) > LARGE else ():
        counts = np.unique(names, return_counts=True)[1]
        if counts[0] > 1 and (counts == counts[0]).all():
            return np.argsort(names, kind="stable").reshape(len(counts), -1)
    return np.arange(len(labels))[:, None]


def _input_axis(linear: Linear) -> int:
    node = linear.node
    return {"Conv": 1, "ConvTranspose": 0, "MatMul": 0, "Gemm": 1 if node.attribute("transB", 0) else 0}[node.op]


class _Gathered:
    """Sums over batches for one layer, whose inputs are arranged by channel (c, k)."""

    def __init__(self, inputs: Indices, ranks: bool) -> None:
        self.inputs = inputs
        self.ranks: Any = 0.0
        self.left = RANKED if ranks else 0
        self.ranked = 0
        self.channels = Tally()
        self.mean: Any = 0.0
        self.places: Any = 0.0
        self.magnitude: Any = 0.0
        self.alive: Any = 0.0
        self.total: Any = 0.0
        self.squares: Any = 0.0
        self.rows = 0

    def see(self, site: LinearSum, linear: Linear, values: Mapping[str, Array], n: int, rng: Rng) -> None:
        total, x = values[site.total], values[linear.node.inputs[0]]
        axis = site.channel_axis % total.ndim
        places = total.size // total.shape[axis]
        c, k = self.inputs.shape
        if x.ndim == 4 and self.left > 0:
            some = x[: self.left].astype(np.float32)
            self.ranks = self.ranks + np.linalg.matrix_rank(some).sum(0)
            self.left, self.ranked = self.left - len(some), self.ranked + len(some)
        count = -(-max(ROWS, ROWS_PER_INPUT * c) // n)
        positions = np.arange(places) if places <= count else np.sort(rng.choice(places, count, replace=False))
        for part in np.array_split(positions, -(-len(positions) * c * k // VALUES) or 1):
            rows = linear.rows(x, part)[0].astype(np.float32)[:, self.inputs]
            y = at_positions(total, axis, part).astype(np.float64)
            flat = np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(1, -1, c)
            self.channels.add(flat, np.zeros((1, flat.shape[1], 0), np.float32))
            by_place = rows.reshape(-1, k)
            self.places = self.places + (by_place.T @ by_place).astype(np.float64)
            self.rows += len(part)
            self.mean = self.mean + rows.sum(0, dtype=np.float64)
            self.total, self.squares = self.total + y.sum(0), self.squares + np.square(y).sum(0)
            self.magnitude = self.magnitude + np.abs(flat[0]).sum(0, dtype=np.float64)
            self.alive = self.alive + (flat[0] != 0).sum(0)


def _reader(coupled: Coupled, site: LinearSum, k: int, g: _Gathered) -> Reader:
    term = site.terms[k]
    labels = _inputs(coupled, term.linear)
    assert labels is not None
    weights = coupled.graph.weights
    kind = np.float64 if len(labels) <= LARGE else np.float32
    matrix = term.linear.matrix(weights[term.linear.weight].array.astype(kind))[0]
    scale, _ = affine(term.steps, weights, matrix.shape[1])
    m, n = g.channels.moments(), g.rows
    variance = np.maximum(g.squares / n - (g.total / n) ** 2, 0)
    behind = coupled.flows[site.total].axes[site.channel_axis]
    outputs = np.full(len(variance), -1) if behind is None else coupled.roots[behind]
    rank = g.ranks[g.inputs[:, 0] // int(np.prod(term.linear.kernel))] / g.ranked if g.ranked else None
    return Reader(
        coupled.roots[labels[g.inputs[:, 0]]],
        (matrix * scale.astype(kind))[g.inputs],
        m.xx[0] / m.n,
        g.mean / n,
        g.places / n,
        g.magnitude / m.n,
        g.alive / m.n,
        max(float(variance.sum()), 1e-30),
        outputs,
        np.sqrt(variance),
        rank,
    )


def responses(readers: Sequence[Reader], count: int) -> tuple[Reader, ...]:
    """The layers, in graph order, with the importance of their channels: that of what they feed, from the end to the start.

    Args:
        count: number of classes.
    """
    known, found = np.zeros(count), list[Reader]()
    for reader in reversed(readers):
        behind = np.where(reader.outputs >= 0, known[reader.outputs], 0.0)
        # where no layer is behind, the response itself
        behind = np.where(
            behind > 0, behind / max(float(behind.mean()), 1e-30), reader.spread / max(float(reader.spread.mean()), 1e-30)
        )
        mine = np.abs(reader.matrix).sum(1) @ behind
        np.add.at(known, reader.labels, mine)
        found.append(replace(reader, importance=mine))
    return tuple(reversed(found))


def atoms_of(group: Group, labels: Indices) -> Indices:
    """For each input, the index of its atom in the group; -1 for others (d,)."""
    order = np.argsort(group.roots)
    place = order[np.searchsorted(group.roots, labels, sorter=order).clip(0, len(group) - 1)]
    return np.where(group.roots[place] == labels, place, -1)


class _Surgeon:
    """A reader from which atoms are removed; gives the cost of removing each remaining atom.

    Costs depend on the weight only by the products of its rows (c, c), which are kept instead of it: it may have very many
    outputs.
    """

    def __init__(self, reader: Reader, atoms: Indices, n_atoms: int) -> None:
        cov, places = reader.factors()
        diagonal = np.einsum("dd->d", cov)
        diagonal += (DAMPING * diagonal.mean() + 1e-12).astype(cov.dtype)
        self.inverse = np.linalg.inv(cov)
        rows = reader.whitened(places).astype(cov.dtype)
        self.products = rows @ rows.T
        self.energy = reader.energy
        self.places = [np.flatnonzero(atoms == a) for a in range(n_atoms)]

    def costs(self, atoms: Indices) -> Vector:
        """The error from removing each atom alone, as a fraction of the sum's variance."""
        found = np.zeros(len(atoms))
        sizes = np.array([len(self.places[a]) for a in atoms])
        for size in np.unique(sizes[sizes > 0]).tolist():
            mine = np.flatnonzero(sizes == size)
            places = np.stack([self.places[a] for a in atoms[mine]])
            block = places[:, :, None], places[:, None, :]
            found[mine] = np.einsum("akk->a", np.linalg.solve(self.inverse[block], self.products[block]))
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
        back = np.linalg.solve(block, column.T)
        # the rows that remain take over: W_s - back^T W_r; only what remains is kept, so that each removal costs less
        self.inverse = self.inverse[np.ix_(stays, stays)]
        self.inverse -= column @ back
        moved = self.products[np.ix_(stays, removed)] @ back
        within = back.T @ (self.products[np.ix_(removed, removed)] @ back)
        self.products = self.products[np.ix_(stays, stays)]
        self.products += within - moved - moved.T
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
    second, places = reader.factors(centred=False)
    w = reader.whitened(places)
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


def thinet(group: Group, readers: Sequence[Reader]) -> Vector:
    """The error added by removing each atom after all that are removed before it (n_atoms,).

    The set is built greedily whose sum of contributions to the layers behind it, on average squared, is the least: E |sum over
    removed j of W_j x_j|^2, relative to the variance of what each layer computes. Luo et al., ThiNet, ICCV 2017, without its
    sampling of outputs. What is left does not make up for what is lost (`obs` does).
    """
    whole = np.zeros((len(group), len(group)))
    for r in readers:
        atoms = atoms_of(group, r.labels)
        second, places = r.factors(centred=False)
        rows, mine = r.whitened(places), np.flatnonzero(atoms >= 0)
        products = (second * (rows @ rows.T))[np.ix_(mine, mine)] / r.energy
        np.add.at(whole, (atoms[mine][:, None], atoms[mine]), products)
    costs, left, found = np.diag(whole).copy(), np.ones(len(group), bool), np.zeros(len(group))
    worst = 0.0
    for k in range(len(group)):
        atom = int(np.argmin(np.where(left, costs, np.inf)))
        # contributions may cancel; scores never fall along the ranking all the same
        worst = max(worst, float(costs[atom]))
        found[atom] = worst * (1 + 1e-12 * k)
        left[atom] = False
        costs += 2 * whole[atom]
    return found


def nisp(group: Group, readers: Sequence[Reader]) -> Vector:
    """Importance propagated from the final responses: |W|^T s of the layers behind, added up (n_atoms,).

    Yu et al., NISP, CVPR 2018. The final responses count by their standard deviation over the samples, not by infinite feature
    selection, and the importance of what each layer makes is divided by its mean, so that no layer outweighs all others.
    """
    found = np.zeros(len(group))
    for r in readers:
        atoms = atoms_of(group, r.labels)
        np.add.at(found, atoms[atoms >= 0], r.importance[atoms >= 0])
    mean = found.mean()
    return found / mean if mean > 0 else found


def hrank(group: Group, readers: Sequence[Reader]) -> Vector:
    """Mean rank of a channel's map (height x width) where it is read. Lin et al., HRank, CVPR 2020.

    Channels without maps count by how often they are nonzero (`apoz`): of a number, that is the rank.
    """
    return _mean(group, readers, lambda r, atoms, n: _per_atom(r.alive if r.rank is None else r.rank, atoms, n))


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
    {
        "obs": obs,
        "subset_fidelity": subset_fidelity,
        "activation": activation,
        "apoz": apoz,
        "thinet": thinet,
        "nisp": nisp,
        "hrank": hrank,
    }
)
"""Criteria that need calibration inputs, by name."""


def readers_of(group: Group, readers: Sequence[Reader]) -> list[Reader]:
    """The readers of channels of the group."""
    return [r for r in readers if np.isin(r.labels, group.roots).any()]
